from __future__ import annotations

import pytest
import torch

from ondevice.errors import BadInput
from ondevice.models.audio.dscnn import build

CONFIG = {"frames": 49, "coefficients": 10, "channels": 64, "blocks": 4, "classes": 12}


def test_it_is_the_published_size():
    model = build(CONFIG)
    weights = sum(
        each.numel() for name, each in model.named_parameters() if name.endswith("weight") and each.ndim > 1
    )
    # 10 x 4 x 64, four of 3 x 3 x 64 + 64 x 64, 64 x 12
    assert weights == 2560 + 4 * (576 + 4096) + 768


def test_rows_do_not_know_each_other():
    torch.manual_seed(0)
    model = build(CONFIG).eval()
    cepstra = torch.randn(5, 49, 10)
    together = model(cepstra)
    assert together.shape == (5, 12)
    assert torch.allclose(together[3], model(cepstra[3:4])[0], atol=1e-5)


def test_its_statistics_are_taken_off():
    torch.manual_seed(0)
    model = build(CONFIG).eval()
    cepstra = torch.randn(2, 49, 10)
    before = model(cepstra)
    model.mean.fill_(3.0)
    model.deviation.fill_(2.0)
    assert torch.allclose(model(cepstra * 2 + 3), before, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 48, 10), (1, 49, 13), (49, 10)])
def test_cepstra_of_another_size_are_refused(shape):
    with pytest.raises(BadInput, match="49, 10"):
        build(CONFIG)(torch.zeros(shape))
