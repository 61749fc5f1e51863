"""reference-lm: a Llama-style decoder of 4 layers that has read documentation.

Knows its shape and how long it learns. Learns Python's, manual pages' and Debian's documentation as it is
installed; is judged on documents that it never saw, beside a trigram model of the same tokens.
"""

from __future__ import annotations

from typing import Any

from ondevice.data import corpora
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import begin_from_pairs, held_out, learn, learn_tokenizer, stream

DOMAINS = ("python", "man", "debian")
VOCABULARY, CONTEXT, BATCH = 4096, 512, 4


def configuration(layers: int) -> dict[str, Any]:
    """Of transformers' LlamaForCausalLM with tied embeddings; token 0 ends a text."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 6 MB of text read one and a half times, 20 minutes of one core. Quick: 1.5 MB, within a minute."""
    full = scale == "full"
    return train_decoder(4, 1700 if full else 400, 1400 if full else 30, seed, progress)


def train_decoder(layers: int, pages: int, steps: int, seed: int, progress: Progress) -> Trained:
    """A decoder of that depth on that many pages of documentation."""
    progress("reading documentation", 0.0)
    learned = corpora.make("train", pages, seed=seed, domains=DOMAINS)
    judged = corpora.make("test", 120 if pages > 1000 else 20, seed=seed, domains=DOMAINS)
    texts = corpora.texts(learned)
    tokenizer = learn_tokenizer(texts, VOCABULARY)
    ids = stream(tokenizer, texts)
    config = configuration(layers)
    module = from_hugging_face(config)
    begin_from_pairs(module.get_submodule("model.embed_tokens"), ids)
    loss = learn(module, ids, context=CONTEXT, batch=BATCH, steps=steps, seed=seed, progress=progress)
    metrics = held_out(module, tokenizer, ids, corpora.texts(judged), CONTEXT)
    metrics |= {"training loss, nats per token": loss, "training tokens": float(steps * BATCH * CONTEXT)}
    return Trained(module, config, metrics, [learned.fingerprint(), judged.fingerprint()], tokenizer)
