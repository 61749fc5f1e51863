from __future__ import annotations

import pytest

from ondevice.compress.factorize.lowrank import LowRank
from ondevice.compress.prune.structured import Prune
from ondevice.compress.quantize.quantize import Quantize
from ondevice.compress.technique import TECHNIQUES, parse, technique
from ondevice.errors import BadInput


@pytest.mark.parametrize(
    "text, expected",
    [
        ("quantize", Quantize()),
        ("quantize:bits=3,group_size=64,method=rtn", Quantize(bits=3, group_size=64, method="rtn")),
        ("quantize:embeddings=false,smooth=0", Quantize(embeddings=False, smooth=0.0)),
        ("lowrank:rank=0.5,layers=*query*", LowRank(rank=0.5, layers="*query*")),
        ("lowrank: rank = 16, whiten=False", LowRank(rank=16, whiten=False)),
        ("prune:heads=0.25,drop_layers=1", Prune(heads=0.25, drop_layers=1)),
    ],
)
def test_spelt_as_on_the_command_line(text, expected):
    made = parse(text)
    assert made == expected
    assert type(getattr(made, "rank", 0)) is type(getattr(expected, "rank", 0))


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
def test_every_name_leads_to_a_technique(name):
    assert hasattr(technique(name), "apply")


@pytest.mark.parametrize(
    "text, message",
    [
        ("quantise", "no technique 'quantise'; there are: expert-bits, lowrank"),
        ("quantize:bit=4", "no setting 'bit'; its settings are: bits, group_size"),
        ("quantize:bits", "bits has no value"),
        ("quantize:bits=4,bits=5", "given twice"),
        ("quantize:bits=four", "'four' is not accepted; give a whole number"),
        ("quantize:bits=9", "bits must be 1 to 8"),
        ("quantize:method=magic", "give gptq or rtn"),
        ("quantize:embeddings=1", "give true or false"),
        ("quantize:smooth=nan", "give a number"),
        ("lowrank", "rank"),
        ("lowrank:rank=0", "a count of 1 or more"),
        ("prune:heads=1", "0 up to 1"),
        ("sparsify:sparsity=-1", "0 up to 1"),
        ("expert-bits:tolerance=2", "a share of the loss"),
        ("vocabulary:min_count=0", "1 or more"),
    ],
)
def test_what_is_wrong_and_what_to_do(text, message):
    with pytest.raises(BadInput, match=message):
        parse(text)
