from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.models.vision import mobilenet, resnet, unet
from ondevice.models.vision.pixels import pixels

RESNET = {"classes": 5, "width": 8, "blocks": [1, 1, 1]}
MOBILENET = {"classes": 5, "stem": 8, "rows": [[1, 8, 1, 1], [3, 12, 2, 2]], "last": 24}
UNET = {"classes": 4, "width": 4, "depth": 2}
NETWORKS = [(resnet.build, RESNET), (mobilenet.build, MOBILENET), (unet.build, UNET)]
Build = Callable[[Mapping[str, Any]], nn.Module]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_resnet_18_has_its_published_size() -> None:
    network = resnet.build({"classes": 1000, "width": 64, "blocks": [2, 2, 2, 2]})
    stem = 64 * 3 * (7 * 7 - 3 * 3)  # ImageNet's 7x7 stem is a 3x3 here
    assert parameters(network) == 11_689_512 - stem


def test_mobilenet_v2_has_its_published_size() -> None:
    rows = [
        [1, 16, 1, 1],
        [6, 24, 2, 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    network = mobilenet.build({"classes": 1000, "stem": 32, "rows": rows, "last": 1280})
    assert parameters(network) == 3_504_872


@pytest.mark.parametrize(("build", "config"), NETWORKS)
def test_the_seed_decides_the_weights(build: Build, config: Mapping[str, Any]) -> None:
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = build(config).eval()
        with torch.inference_mode():
            outputs.append(network(torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3
    assert outputs[0].shape == ((2, 4, 16, 16) if build is unet.build else (2, 5))


@pytest.mark.parametrize(("build", "config"), NETWORKS)
def test_onnx_runtime_gives_the_same(build: Build, config: Mapping[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = build(config).eval()
    picture = torch.randn(2, 3, 16, 16)
    path = str(tmp_path / "network.onnx")
    torch.onnx.export(network, (picture,), path, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: picture.numpy()}
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, given)[0], network(picture).numpy(), atol=1e-4)


@pytest.mark.parametrize(("build", "config"), NETWORKS)
def test_networks_are_captured_by_torch_export(build: Build, config: Mapping[str, Any]) -> None:
    network = build(config).eval()
    picture = torch.randn(2, 3, 16, 16)
    captured = torch.export.export(network, (picture,)).module()
    torch.testing.assert_close(captured(picture), network(picture))


def test_the_head_reads_features() -> None:
    network = resnet.build(RESNET).eval()
    picture = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(network.fc(network.features(picture)), network(picture))


def test_pixels_are_centred_and_others_refused() -> None:
    picture = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    torch.testing.assert_close(pixels(picture).flatten(), torch.tensor([-2.0, -1.2, 2.0]))
    with pytest.raises(BadInput, match="uint8"):
        pixels(picture.astype(np.float32))  # type: ignore[arg-type]
