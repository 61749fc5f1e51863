"""The heads that are shipped: made by the recipe beside them, and often right on documents that nobody learned from."""

from __future__ import annotations

import numpy as np
import torch

from ondevice.backends.peers.speculating import Speaker, Way
from ondevice.models import zoo
from ondevice.runtime.decode.heads import HeadsDraft
from ondevice.runtime.decode.speculative import TreePace
from ondevice.systems.runtime.spec_memo import held_out
from ondevice.train.recipes import recipe_hash

WAY = Way(7, 4)


def test_what_is_shipped_was_made_by_the_recipe_beside_it() -> None:
    record = zoo.open_zoo("medusa-heads").record
    assert record["recipe"] == recipe_hash("medusa-heads")
    assert record["scale"] == "full"


def test_candidates_are_those_of_torch() -> None:
    speaker = Speaker(zoo.locate("lm-8m"), zoo.locate("medusa-heads"), WAY, answer=8, threads=1)
    module, base = zoo.open_zoo("medusa-heads").module, zoo.open_zoo("lm-8m").module
    state = np.random.default_rng(0).standard_normal(256, dtype=np.float32)
    with torch.inference_mode():
        ahead = module(torch.from_numpy(state)[None])[:, 0]
        best = (ahead @ base.get_parameter("model.embed_tokens.weight").T).topk(3).indices.tolist()
    pace = TreePace(12, rates=np.full((4, 3), 0.3))
    guesser = HeadsDraft(speaker.heads, speaker.decoder, pace).begin()
    guesser.see(state)
    tree = guesser.guess([0], 12)
    assert len(tree) == 12
    for token, depth, rank in zip(tree.tokens, tree.depths, tree.ranks, strict=True):
        assert token == best[depth - 1][rank]


def test_a_pass_gives_more_than_one_and_a_half_tokens_on_new_documents() -> None:
    model, heads = zoo.locate("lm-8m"), zoo.locate("medusa-heads")
    talks = held_out(model, 12, 5)  # which documents there are depends on what is installed: many
    speaker = Speaker(model, heads, WAY, answer=32, threads=1)
    plain = Speaker(model, heads, Way(), answer=32, threads=1)
    assert speaker.talk(talks) == plain.talk(talks)
    assert speaker.recorder.tokens_per_pass > 1.5
