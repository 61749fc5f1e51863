"""seq2seq-6m answers as transformers' own greedy generation does."""

from __future__ import annotations

import torch

from ondevice.models.zoo import from_hugging_face
from ondevice.train.recipes.language import learn_tokenizer
from ondevice.train.recipes.seq2seq_6m import answer, configuration


def test_answers_are_those_of_greedy_generation() -> None:
    torch.manual_seed(1)
    tokenizer = learn_tokenizer(["a"], 257)
    module = from_hugging_face(
        configuration() | {"d_model": 32, "num_layers": 1, "num_decoder_layers": 1}
    ).eval()
    prompts = ["copy: abc", "reverse: a longer word than that", "x"]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        written = module.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )  # type: ignore[operator]
        row = written[0, 1:].tolist()
        expected.append(tokenizer.decode(row[: row.index(0)] if 0 in row else row))
    assert answer(module, tokenizer, prompts) == expected
