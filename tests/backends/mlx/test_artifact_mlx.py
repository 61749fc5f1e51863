"""MLX on an artifact is held to torch on the same artifact, whatever form its weights have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs mlx: pip install 'ondevice-ml[mlx]'")
torch = pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from ondevice.backends import open_session  # noqa: E402

Compressed = Callable[..., tuple[Any, Any]]


def test_every_stored_form_agrees_with_torch(form: str, compressed: Compressed, sentences: list[str]) -> None:
    model, artifact = compressed(form)
    with open_session(artifact, "mlx") as session:
        ours = session.embed(sentences)
    expected = model.predict(sentences)
    if form in ("8 bits", "4 bits", "5 bits, groups of 96"):  # int8 activations: MLX has none
        assert (ours * expected).sum(1).min() > 0.999
    else:
        np.testing.assert_allclose(ours, expected, atol=5e-5)


@pytest.mark.parametrize("form_of_head", ["4 bits, float activations", "pruned"])
def test_classifiers_agree_with_torch(
    form_of_head: str, compressed: Compressed, sentences: list[str]
) -> None:
    model, artifact = compressed(form_of_head, "roberta", "ForSequenceClassification")
    with open_session(artifact, "mlx") as session:
        ours = session.classify(sentences)
    expected = torch.softmax(torch.tensor(model.predict(sentences)), dim=1)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
