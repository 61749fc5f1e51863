"""Many clients of a server at once, for a while: each stream is what one client alone gets, or it is counted as wrong.

Every eighth stream is broken off by its client after a few tokens, which must be the first of what one client alone
gets. Prints tokens a second of one client and of all together (without those of streams that were broken off), as one
JSON document. Exit status 1 where a stream was lost, mixed up or cut, or where the server still holds a place or a page
of the cache at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import uvicorn

from ondevice.measure.here import machine
from ondevice.verbs.serve import application

PROMPTS = [
    f"{start} {number}" for number in range(16) for start in ("The file", "A function that", "To read")
]


@dataclass
class Tally:
    """What all clients saw."""

    tokens: int = 0
    streams: int = 0
    broken_off: int = 0
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ask(
    client: openai.OpenAI, model: str, prompt: str, tokens: int, most: int | None = None
) -> tuple[str, int, float]:
    """A streamed greedy text, how many tokens it has, and seconds to the first. most: chunks after which the client
    hangs up; tokens are not counted then."""
    start, first, text, count = time.perf_counter(), 0.0, "", 0
    stream = client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    for number, chunk in enumerate(stream):
        if number == most:
            stream.close()
            break
        first = first or time.perf_counter() - start
        text += "".join(choice.text for choice in chunk.choices)
        count = chunk.usage.completion_tokens if chunk.usage else count
    return text, count, first


def soak(model: str, *, clients: int, seconds: float, tokens: int, threads: int | None) -> dict[str, Any]:
    """Serve a model on a free port to so many clients for so many seconds; what came of it."""
    api = application(model, name="model", threads=threads)
    server = uvicorn.Server(uvicorn.Config(api.app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def connect() -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    try:
        with connect() as client:
            ask(client, "model", PROMPTS[0], tokens)  # the first is slower
            start, alone, count = time.perf_counter(), {}, 0
            for prompt in PROMPTS:
                alone[prompt], written, _ = ask(client, "model", prompt, tokens)
                count += written
            one = count / (time.perf_counter() - start)
            before = httpx.get(f"{url}/status").json()["tokens_written_total"]
        tally, until = Tally(), time.perf_counter() + seconds

        def work(number: int) -> None:
            with connect() as client:
                turn = number
                while turn == number or time.perf_counter() < until:
                    prompt, leaves = PROMPTS[turn % len(PROMPTS)], turn % 8 == 7
                    turn += 1
                    try:
                        text, written, first = ask(client, "model", prompt, tokens, 3 if leaves else None)
                        right = alone[prompt].startswith(text) if leaves else text == alone[prompt]
                        problem = "" if right else f"another text for {prompt!r}"
                    except openai.OpenAIError as error:
                        written, first, problem = 0, 0.0, repr(error)
                    with tally.lock:
                        tally.streams += 1
                        tally.broken_off += leaves
                        tally.tokens += written
                        tally.first.append(first)
                        if problem:
                            tally.wrong.append(problem)

        start = time.perf_counter()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        together = tally.tokens / (time.perf_counter() - start)
        time.sleep(0.2)
        left = httpx.get(f"{url}/status").json()
    finally:
        server.should_exit = True
        thread.join()
    return {
        "clients": clients, "seconds": seconds, "tokens_a_text": tokens, "streams": tally.streams, "wrong": tally.wrong,
        "broken_off": tally.broken_off, "tokens_unheard": left["tokens_written_total"] - before - tally.tokens,
        "one_client_tokens_a_second": one, "all_clients_tokens_a_second": together, "ratio": together / one,
        "median_first_token_seconds": statistics.median(tally.first) if tally.first else None,
        "held_at_the_end": left["running"] + left["waiting"] + left["cache_bytes"] - left["cache_bytes_kept"],
        "resident_bytes": left["resident_bytes"], "machine": machine(),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reference-lm")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    result = soak(
        arguments.model, clients=arguments.clients, seconds=arguments.seconds, tokens=arguments.tokens,
        threads=arguments.threads,
    )  # fmt: skip
    print(json.dumps(result))
    return int(bool(result["wrong"] or result["held_at_the_end"]))


if __name__ == "__main__":
    sys.exit(main())
