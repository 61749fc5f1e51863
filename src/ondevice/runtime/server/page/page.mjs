// The page of `ondevice serve`: a chat, and how the server stands. Knows OpenAI's API and /status of this server.

const $ = (id) => document.getElementById(id);
const talk = $("talk");
let key = sessionStorage.getItem("key") ?? "";
let messages = [];
let model = "";
let chats = true;
let running = null; // what stops the answer that is being written
let before = null; // tokens written, and when, at the last look

const headers = () => (key ? { authorization: `Bearer ${key}` } : {});
const megabytes = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${Math.round(bytes / 1e6)} MB`);

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function refused(response) {
  if (response.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
    return key ? "The server does not take this key." : "";
  }
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server answered ${response.status}.`;
}

async function look() {
  try {
    const response = await fetch("/status", { headers: headers() });
    if (!response.ok) return problem(await refused(response));
    const now = await response.json();
    const at = performance.now();
    model = now.model;
    chats = now.chats;
    $("model").textContent = document.title = model;
    $("memory").textContent = megabytes(now.resident_bytes);
    if ("running" in now) {
      $("running").textContent = now.running;
      $("waiting").textContent = now.waiting;
      $("cache").textContent = `${Math.round((100 * now.cache_bytes) / now.cache_bytes_limit)} %`;
      if (before) {
        const speed = (now.tokens_written_total - before.tokens) / ((at - before.at) / 1000);
        $("speed").textContent = speed.toFixed(speed < 10 ? 1 : 0);
      }
      before = { tokens: now.tokens_written_total, at };
    }
  } catch {
    problem("The server does not answer.");
  }
}

function show(role, text) {
  $("empty")?.remove();
  const shown = document.createElement("div");
  shown.className = `message ${role}`;
  shown.textContent = text;
  talk.append(shown);
  talk.scrollTop = talk.scrollHeight;
  return shown;
}

// The documents of a stream of events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer() {
  const system = $("system").value.trim();
  const asked = system ? [{ role: "system", content: system }, ...messages] : messages;
  // A model without a chat template goes on with a text.
  const [path, prompt] = chats
    ? ["/v1/chat/completions", { messages: asked }]
    : ["/v1/completions", { prompt: messages.at(-1).content }];
  const shown = show("assistant writing", "");
  running = new AbortController();
  $("stop").hidden = false;
  $("send").disabled = true;
  let text = "";
  let count = 0;
  let first = 0;
  const start = performance.now();
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers() },
      body: JSON.stringify({
        model, ...prompt, stream: true, stream_options: { include_usage: true },
        temperature: $("temperature").valueAsNumber, max_tokens: $("limit").valueAsNumber,
      }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await refused(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const said = event.choices[0]?.delta?.content ?? event.choices[0]?.text ?? "";
      if (said) first ||= performance.now();
      count = event.usage?.completion_tokens ?? count;
      const below = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
      text += said;
      shown.textContent = text;
      if (below) talk.scrollTop = talk.scrollHeight;
    }
    const seconds = (performance.now() - first) / 1000;
    const figures = document.createElement("p");
    figures.className = "figures";
    figures.textContent =
      `${count} tokens · first after ${((first - start) / 1000).toFixed(2)} s · ${(count / seconds).toFixed(1)} a second`;
    shown.append(figures);
    talk.scrollTop = talk.scrollHeight;
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
  }
  shown.classList.remove("writing");
  if (text) messages.push({ role: "assistant", content: text });
  else {
    shown.remove();
    messages.pop();
  }
  running = null;
  $("stop").hidden = true;
  $("send").disabled = false;
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  problem("");
  $("text").value = "";
  messages.push({ role: "user", content: text });
  show("user", text);
  answer();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("say").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  talk.replaceChildren();
  problem("");
  $("text").focus();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  sessionStorage.setItem("key", key);
  $("key-form").hidden = true;
  problem("");
  look();
});

look();
setInterval(() => document.hidden || ($("key-form").hidden && look()), 1000);
