"""speculate: a session checks several guessed tokens in one pass; what it writes stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ondevice.errors import BadInput
from ondevice.verbs.open import language_folder

if TYPE_CHECKING:
    from ondevice.backends.language import LanguageSession
    from ondevice.runtime.decode.speculative import Speculation


def speculate(session: LanguageSession, draft: str = "auto", *, threads: int | None = None) -> Speculation:
    """Let texts that begin from now on be written with guesses; its `tokens_per_pass` says how often they were right.

    draft: "auto" or "lookup": what followed the same tokens earlier in the text; or a smaller language model with the
    same tokenizer, as `ondevice.open_language` takes it, which is loaded beside the first. How many tokens are guessed
    follows from how often guesses were right and how long steps took; tokens and their probabilities do not depend on
    it. Raises BadInput for another vocabulary, a model that is none, and an encoder-decoder.
    """
    from ondevice.backends.language import LanguageSession, read_files
    from ondevice.backends.native import processors
    from ondevice.runtime.decode.speculative import Lookup, SmallModel, Speculation
    from ondevice.runtime.decoder import Decoder

    engine = session.engine
    if not isinstance(engine.decoder, Decoder):
        raise BadInput("an encoder-decoder is not speculated with; leave --speculate out")
    if draft in ("auto", "lookup"):
        engine.speculation = Speculation(Lookup())
        return engine.speculation
    folder = language_folder(draft)
    if folder is None:
        raise BadInput(f"{draft!r} is no draft; give auto, lookup, or a smaller language model")
    files = read_files(folder)
    if files.tokenizer.get_vocab() != session.tokenizer.get_vocab():
        raise BadInput(
            f"the tokens of {draft} are not those of the model; take a draft with the same tokenizer"
        )
    small = LanguageSession.of(
        files, threads=threads or processors(), context=engine.decoder.context
    ).engine.decoder
    if not isinstance(small, Decoder):
        raise BadInput(f"{draft} is an encoder-decoder, which cannot write ahead")
    engine.speculation = Speculation(SmallModel(small, engine.decoder.vocabulary))
    return engine.speculation
