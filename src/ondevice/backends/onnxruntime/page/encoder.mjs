// Texts in, embeddings out, in the browser.
//
// Knows ONNX Runtime Web's calls, pooling and cosine. Knows nothing of the page.

import { WordPiece } from "./wordpiece.mjs";

export class Encoder {
  // ort: ONNX Runtime Web. folder: where model.onnx, tokenizer.json and ondevice-export.json lie.
  static async open(ort, folder = ".") {
    const read = async (name) => {
      const answer = await fetch(`${folder}/${name}`);
      if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
      return answer;
    };
    const { task } = await (await read("ondevice-export.json")).json();
    const tokenizer = new WordPiece(await (await read("tokenizer.json")).json(), task.max_length);
    const graph = new Uint8Array(await (await read("model.onnx")).arrayBuffer());
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
    return new Encoder(ort, session, tokenizer, task);
  }

  constructor(ort, session, tokenizer, task) {
    Object.assign(this, { ort, session, tokenizer, task });
  }

  // The embedding of a text, Float32Array.
  async embed(text) {
    if (!text.trim()) throw new Error("the text is empty");
    const ids = this.tokenizer.encode(text);
    const tensor = (values) => new this.ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    const feeds = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
    const { last_hidden_state: states } = await this.session.run(feeds);
    return this.#pool(states.data, ids.length, states.dims[2]);
  }

  #pool(states, tokens, width) {
    const pooled = new Float32Array(states.subarray(0, width));
    if (this.task.pooling !== "cls") {
      for (let token = 1; token < tokens; token++) {
        for (let i = 0; i < width; i++) {
          const value = states[token * width + i];
          pooled[i] = this.task.pooling === "max" ? Math.max(pooled[i], value) : pooled[i] + value;
        }
      }
      if (this.task.pooling === "mean") for (let i = 0; i < width; i++) pooled[i] /= tokens;
    }
    if (this.task.normalize) {
      const length = Math.max(Math.hypot(...pooled), 1e-12);
      for (let i = 0; i < width; i++) pooled[i] /= length;
    }
    return pooled;
  }
}

export function cosine(a, b) {
  let product = 0;
  for (let i = 0; i < a.length; i++) product += a[i] * b[i];
  return product / (Math.hypot(...a) * Math.hypot(...b));
}
