"""What moe-tiny records of its experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ondevice.models.zoo import from_hugging_face
from ondevice.train.recipes.moe_tiny import configuration, expert_use, information


def test_every_choice_is_counted() -> None:
    torch.manual_seed(0)
    module = from_hugging_face(configuration()).eval()
    use = expert_use(module, np.arange(300))
    assert use.shape == (4, 16)
    assert use.sum(axis=1) == pytest.approx(np.ones(4))


def test_information_is_none_for_equal_use_and_all_for_experts_of_their_own() -> None:
    assert information(np.full((5, 2, 16), 1 / 16)) == pytest.approx(0)
    assert information(np.eye(4)[:, None, :].repeat(3, axis=1)) == pytest.approx(2)
