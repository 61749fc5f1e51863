"""Text that is what was asked for by construction: JSON of a schema, a regular expression, one of some choices.

Knows tokenizers and llguidance, which says at each token what may follow. Knows nothing of models or of sampling.
A mask never leaves the text without a way on: only what is cut off at its limit is not whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.errors import BadInput, MissingExtra
from ondevice.runtime.decode.constraint import Bools, Constraint

# Compact JSON: with free whitespace a model can write blanks for ever and never end.
_COMPACT: Any = {"whitespace_flexible": False}


class Grammars:
    """Makes constraints for one tokenizer.

    tokenizer: a `tokenizers.Tokenizer`. vocabulary: rows of the logits, which may be more than it has tokens.
    ends: tokens that end a text. Raises MissingExtra without llguidance.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Collection[int]) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as error:
            raise MissingExtra("llguidance", "serve", "to hold a text to a schema") from error
        from tokenizers import Tokenizer

        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.no_padding()
        plain.no_truncation()
        self._vocabulary = vocabulary
        end = sorted(ends)
        if not end:  # the library needs one; this is past the tokens that the model knows
            end = [plain.get_vocab_size()]
            plain.add_special_tokens(["<|the end of a text|>"])
        try:
            self._tokens = LLTokenizer(plain.to_str(), n_vocab=max(vocabulary, *end) + 1, eos_token=end)
        except ValueError as problem:  # such as T5's, whose decoder it does not know
            raise BadInput(f"answers of this model cannot be held to a form: {problem}") from problem

    def json_schema(self, schema: Mapping[str, Any] | bool) -> Constraint:
        """JSON that the schema (draft 2020-12) accepts, without blanks.

        Raises BadInput for a schema that is none or has a keyword that cannot be held to.
        """
        from llguidance import LLMatcher

        if not isinstance(schema, Mapping):
            raise BadInput(f"the schema must be a JSON object, not {schema!r}")
        plain = {key: value for key, value in schema.items() if key != "x-guidance"}
        try:
            return self._constraint(
                LLMatcher.grammar_from_json_schema(json.dumps(plain), overrides=_COMPACT), "schema"
            )
        except (ValueError, RecursionError) as problem:
            raise (
                problem
                if isinstance(problem, BadInput)
                else BadInput(f"the schema cannot be read: {problem}")
            ) from problem

    def json_object(self) -> Constraint:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Constraint:
        """Text that the whole pattern matches (Rust's syntax, no look-around). Raises BadInput for one that is none."""
        from llguidance import LLMatcher

        return self._constraint(LLMatcher.grammar_from_regex(pattern), "pattern")

    def choice(self, texts: Sequence[str]) -> Constraint:
        """One of these texts. Raises BadInput for none or an empty one."""
        if not texts or not all(isinstance(each, str) and each for each in texts):
            raise BadInput("a choice needs a text or more, none of them empty")
        return self.regex("|".join(re.escape(each) for each in texts))

    def lark(self, grammar: str) -> Constraint:
        """Text of a grammar in llguidance's dialect of Lark. Raises BadInput for one that is none."""
        return self._constraint(grammar, "grammar")

    def _constraint(self, grammar: str, what: str) -> Constraint:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise BadInput(f"the {what} cannot be used: {matcher.get_error().strip()}")
        return _Matched(matcher, self._vocabulary)


class _Matched(Constraint):
    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> Bools:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise BadInput(f"the constraint is too hard to follow: {self._matcher.get_error().strip()}")
        return allowed

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise BadInput(f"token {token} breaks the constraint: {self._matcher.get_error().strip()}")

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    def copy(self) -> Constraint:
        return _Matched(self._matcher.deep_copy(), self._vocabulary)
