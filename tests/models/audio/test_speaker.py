from __future__ import annotations

import pytest
import torch

from ondevice.models.audio.speaker import build

CONFIG = {"bands": 20, "width": 24, "dimension": 16}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(CONFIG).eval()


@pytest.mark.parametrize("frames", [2, 7, 150])
def test_vectors_have_length_one(model, frames):
    vectors = model(torch.randn(3, frames, 20))
    assert vectors.shape == (3, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_a_row_is_the_same_alone_and_in_a_batch(model):
    features = torch.randn(4, 60, 20)
    assert torch.allclose(model(features)[2], model(features[2:3])[0], atol=1e-5)


def test_where_in_a_long_recording_the_voice_was_changes_little(model):
    # Statistics over time: a rotation by whole frames only touches the borders.
    features = torch.randn(1, 400, 20)
    moved = features.roll(100, dims=1)
    assert (model(features) * model(moved)).sum().item() > 0.99
