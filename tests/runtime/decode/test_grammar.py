"""Whatever the model would rather say: what a grammar lets through is what was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ondevice.errors import BadInput
from ondevice.runtime.decode.constraint import Constraint
from ondevice.runtime.decode.grammar import Grammars
from ondevice.runtime.decode.sampling import Sampling

VOCABULARY, END = 400, 1  # more rows of logits than tokens


def bytes_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(
        ['{"name": "some text", "count": 12, "list": [true, false, null]}'] * 9, trainer
    )
    return tokenizer


TOKENIZER = bytes_tokenizer()
GRAMMARS = Grammars(TOKENIZER, VOCABULARY, [END])


def write(constraint: Constraint, seed: int, limit: int = 2000) -> str | None:
    """What a model of random taste writes; None where it goes on past the limit."""
    random, sampler = np.random.default_rng(seed), Sampling(1.0, seed=seed).sampler()
    taste = random.normal(0, 3, VOCABULARY)
    tokens: list[int] = []
    while not constraint.complete and len(tokens) < limit:
        allowed = constraint.allowed()
        token = sampler.choose(
            (taste + random.normal(0, 3, VOCABULARY)).astype(np.float32), tokens, allowed
        ).token
        assert allowed[token]
        constraint.accept(token)
        if token == END:
            break
        tokens.append(token)
    else:
        if not constraint.complete:
            return None
    return str(TOKENIZER.decode(tokens, skip_special_tokens=False))


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    words = st.text('abcdé "\\{', min_size=1, max_size=5)
    leaves = st.one_of(
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.tuples(st.integers(-50, 50), st.integers(0, 50)).map(
            lambda two: {"type": "integer", "minimum": two[0], "maximum": two[0] + two[1]}
        ),
        st.tuples(st.integers(0, 3), st.integers(0, 5)).map(
            lambda two: {"type": "string", "minLength": two[0], "maxLength": two[0] + two[1]}
        ),
        st.lists(words, min_size=1, max_size=3, unique=True).map(lambda texts: {"enum": texts}),
        st.just({"type": "string", "pattern": "^[a-c]{2,4}$"}),
    )  # fmt: skip

    def nest(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        parts = st.dictionaries(words, inner, max_size=3)
        objects = st.tuples(parts, st.randoms()).map(
            lambda both: {
                "type": "object", "properties": both[0], "additionalProperties": False,
                "required": [name for name in both[0] if both[1].random() < 0.5],
            }
        )  # fmt: skip
        arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda three: {
                "type": "array",
                "items": three[0],
                "minItems": three[1],
                "maxItems": three[1] + three[2],
            }
        )
        return objects | arrays | st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some})

    return st.recursive(leaves, nest, max_leaves=8)


@settings(max_examples=60)
@given(schema=schemas(), seed=st.integers(0, 1000))
def test_what_is_written_parses_and_validates(schema: dict[str, Any], seed: int) -> None:
    text = write(GRAMMARS.json_schema(schema), seed)
    assert text is not None
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(5))
def test_any_object_and_patterns_and_choices(seed: int) -> None:
    text = write(GRAMMARS.json_object(), seed)
    assert text is None or isinstance(json.loads(text), dict)
    text = write(GRAMMARS.regex(r"[a-f]{3}-[0-9]{2,5}"), seed)
    assert text is not None
    assert re.fullmatch(r"[a-f]{3}-[0-9]{2,5}", text)
    assert write(GRAMMARS.choice(["yes", "no (really)", "a.b"]), seed) in ("yes", "no (really)", "a.b")


def test_a_copy_goes_its_own_way() -> None:
    first = GRAMMARS.choice(["abc", "abd"])
    for token in TOKENIZER.encode("ab").ids:
        first.accept(token)
    second = first.copy()
    for each, letter in ((first, "c"), (second, "d")):
        each.accept(TOKENIZER.encode(letter).ids[0])
        assert each.complete
    with pytest.raises(BadInput, match="breaks"):
        second.accept(TOKENIZER.encode("x").ids[0])


def test_a_model_without_an_end_is_held_too() -> None:
    text = write(Grammars(TOKENIZER, VOCABULARY, []).json_schema({"enum": ["one", "two"]}), 0)
    assert text in ('"one"', '"two"')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"type": "object", "properties": 3}, "properties must be"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "#/missing"}, "missing"),
        ([1], "JSON object"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "cannot be used"),
    ],
)
def test_a_bad_schema_is_refused_by_what_is_wrong(schema: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        GRAMMARS.json_schema(schema)


def test_other_bad_input() -> None:
    with pytest.raises(BadInput, match="pattern cannot be used"):
        GRAMMARS.regex("(")
    with pytest.raises(BadInput, match="none of them empty"):
        GRAMMARS.choice(["a", ""])
    with pytest.raises(BadInput, match="grammar cannot be used"):
        GRAMMARS.lark("start: nothing")
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(BadInput):
        GRAMMARS.json_schema(deep)
