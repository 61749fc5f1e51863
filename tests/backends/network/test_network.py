"""ONNX networks on the own engine, against ONNX Runtime, torch and, where it is installed, MNN."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ondevice.backends.network import open_network  # noqa: E402
from ondevice.backends.network.fallback import OnnxRuntime  # noqa: E402
from ondevice.backends.network.reader import OnnxFile  # noqa: E402
from ondevice.errors import BadInput, UnsupportedModel  # noqa: E402
from ondevice.kernels import available  # noqa: E402
from ondevice.kernels.network import Network  # noqa: E402
from ondevice.models.vision.networks import save_network  # noqa: E402
from ondevice.runtime.preinfer.prepare import Prepared  # noqa: E402
from ondevice.runtime.preinfer.schemes import Rates, Selector  # noqa: E402

Floats = npt.NDArray[np.float32]


def selector(isa: str, threads: int = 1) -> Selector:
    """Of made-up rates: the same choices on every machine."""
    network = Network(1, isa)
    tiles = {v: ((1, 1e-9), (max(2, network.rows), 4e-9 * v)) for v in (1, 2)}
    rates = Rates(network.lanes, network.rows, tiles, 3e-10, 2e-8, 3e10, 1e-6)
    return Selector(rates, threads)


def by_onnxruntime(path: Path, inputs: dict[str, Floats]) -> list[Floats]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def save(
    path: Path,
    nodes: Sequence[Any],
    x: Sequence[Any],
    y: Sequence[Any],
    constants: dict[str, Any],
    opset: int = 17,
) -> Path:
    """A network with the input x and the output y."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(y))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    onnx.save(model, str(path))
    return path


def filters(rng: np.random.Generator, *shape: int) -> Floats:
    return (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)


@pytest.mark.parametrize(
    "name, isa", [("resnet-18", available()[0]), *(("mobilenet-v2", isa) for isa in available())]
)
def test_published_shapes(name: str, isa: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path = save_network(name, tmp_path / "net.onnx", size=64, classes=10)
    x = rng.standard_normal((2, 3, 64, 64), dtype=np.float32)
    (want,) = by_onnxruntime(path, {"pictures": x})
    graph = OnnxFile(path).graph({"pictures": x.shape})
    for threads in (1, 2):
        prepared = Prepared(graph, selector(isa, threads), threads=threads, instruction_set=isa)
        got = prepared.run({"pictures": x})["logits"]
        assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
        np.testing.assert_array_equal(prepared.run({"pictures": x})["logits"], got)
    assert prepared.memory.size <= 1.05 * prepared.memory.bound
    assert {row.backend for row in prepared.rows} == {"native"}


def test_every_operator_that_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    """One network with all of them: pools that reach over the edge, uneven pads, channels that fill no block, a scale
    that follows no convolution, a product of matrices, results that are read twice."""
    average = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 0, 2, 1], strides=[1, 2]),
        helper.make_node("Relu", ["a"], ["a1"]),
        helper.make_node("Conv", ["a1", "w2"], ["b"], auto_pad="SAME_UPPER"),
        helper.make_node("Conv", ["a1", "w3"], ["c"], pads=[2, 2, 2, 2], dilations=[2, 2]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Clip", ["d", "low", "high"], ["d1"]),
        helper.make_node("MaxPool", ["d1"], ["e"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        helper.make_node("AveragePool", ["d1"], ["f"], **average),
        helper.make_node("BatchNormalization", ["e", "s", "o", "m", "v"], ["e1"]),
        helper.make_node("Concat", ["e1", "f", "e"], ["g"], axis=1),
        helper.make_node("Shape", ["g"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["g", "flat"], ["h"]),
        helper.make_node("MatMul", ["h", "matrix"], ["i"]),
        helper.make_node("Relu", ["i"], ["y"]),
    ]  # fmt: skip
    constants = {
        "w1": filters(rng, 24, 5, 3, 3), "b1": rng.standard_normal(24, dtype=np.float32),
        "w2": filters(rng, 20, 24, 3, 3), "w3": filters(rng, 20, 24, 3, 3),
        "low": np.float32(-0.4), "high": np.float32(0.9),
        **{name: rng.uniform(0.5, 1.5, 20).astype(np.float32) for name in "somv"},
        "zero": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    x = rng.standard_normal((2, 5, 15, 19), dtype=np.float32)
    constants["matrix"] = filters(rng, 60 * 8 * 4, 7)
    path = save(tmp_path / "net.onnx", nodes, ("n", 5, 15, 19), ("n", 7), constants)
    (want,) = by_onnxruntime(path, {"x": x})
    for isa in available():
        prepared = Prepared(OnnxFile(path).graph({"x": x.shape}), selector(isa), instruction_set=isa)
        np.testing.assert_allclose(prepared.run({"x": x})["y"], want, atol=2e-4)


@pytest.fixture
def hybrid(tmp_path: Path, rng: np.random.Generator) -> Path:
    """With operators that have no kernel: a hard swish, groups, and a resize between convolutions."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=4),
        helper.make_node("Resize", ["c", "", "scales"], ["d"], mode="nearest"),
        helper.make_node("Conv", ["d", "w3"], ["e"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    constants = {
        "w1": filters(rng, 32, 3, 3, 3), "w2": filters(rng, 32, 8, 3, 3), "w3": filters(rng, 16, 32, 3, 3),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    return save(tmp_path / "hybrid.onnx", nodes, ("n", 3, "h", "w"), ("n", 16, "h2", "w2"), constants)


def test_what_has_no_kernel_runs_on_the_fallback(hybrid: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 3, 20, 17), dtype=np.float32)
    (want,) = by_onnxruntime(hybrid, {"x": x})
    for threads in (1, 2):
        with open_network(hybrid, shapes=x.shape, threads=threads) as session:
            np.testing.assert_allclose(session.run(x)["y"], want, atol=1e-4)
            assert session.prepared is not None
            outside = {row.node.name for row in session.prepared.rows if row.backend == "onnxruntime"}
            assert {"b", "c", "d"} <= outside


def test_any_node_runs_on_either_backend(tmp_path: Path, rng: np.random.Generator) -> None:
    """A fallback that costs nothing takes all, fused nodes too, and gives the same."""

    class Free(OnnxRuntime):
        def seconds(self, node: Any, graph: Any) -> float:
            return 0.0

    path = save_network("resnet-18", tmp_path / "net.onnx", size=32, classes=10)
    x = rng.standard_normal((1, 3, 32, 32), dtype=np.float32)
    (want,) = by_onnxruntime(path, {"pictures": x})
    file = OnnxFile(path)
    isa = available()[0]
    graph = file.graph({"pictures": x.shape})
    prepared = Prepared(graph, selector(isa), instruction_set=isa, fallback=Free(file))
    assert {row.backend for row in prepared.rows if row.node.kind != "view"} == {"onnxruntime"}
    got = prepared.run({"pictures": x})["logits"]
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()


def test_no_fallback_is_an_error_that_names_the_node(hybrid: Path) -> None:
    isa = available()[0]
    with pytest.raises(UnsupportedModel, match="b: no kernel here and no fallback"):
        Prepared(OnnxFile(hybrid).graph({"x": (1, 3, 8, 8)}), selector(isa), instruction_set=isa)


def test_another_size_is_prepared_anew(hybrid: Path, rng: np.random.Generator) -> None:
    with open_network(hybrid, shapes=(1, 3, 16, 16), threads=1) as session:
        first = session.prepared
        for size in ((2, 3, 9, 30), (1, 3, 16, 16)):
            x = rng.standard_normal(size, dtype=np.float32)
            (want,) = by_onnxruntime(hybrid, {"x": x})
            np.testing.assert_allclose(session.run(x)["y"], want, atol=1e-4)
            assert session.prepared is not first
    with pytest.raises(BadInput, match="closed"):
        session.run(x)


def test_a_prepared_network_refuses_other_sizes(tmp_path: Path) -> None:
    path = save_network("mobilenet-v2", tmp_path / "net.onnx", size=32, classes=4)
    with open_network(path, threads=1) as session:
        with pytest.raises(BadInput, match=r"takes \(None, 3, 32, 32\), not \(1, 3, 33, 32\)"):
            session.run(np.zeros((1, 3, 33, 32), np.float32))
        assert session.prepared is not None
        with pytest.raises(BadInput, match="prepared for float32"):
            session.prepared.run({"pictures": np.zeros((3, 3, 32, 32), np.float32)})
        with pytest.raises(BadInput, match="prepared for float32"):
            session.run(np.zeros((1, 3, 32, 32)))


def test_files_that_cannot_be_read(tmp_path: Path, hybrid: Path) -> None:
    with pytest.raises(BadInput, match="not an ONNX model"):
        OnnxFile(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(hybrid.read_bytes()[:500])
    with pytest.raises(BadInput, match="not an ONNX model"):
        OnnxFile(broken)
    with pytest.raises(BadInput, match="leaves sizes of x open"):
        open_network(hybrid)
    with pytest.raises(BadInput, match="threads must be"):
        open_network(hybrid, shapes=(1, 3, 8, 8), threads=0)


def test_torch_by_its_own_export(tmp_path: Path, rng: np.random.Generator) -> None:
    """Oracle: a torch module in evaluation, and the file that torch makes of it."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 40, 1), nn.BatchNorm2d(40), nn.MaxPool2d(2), nn.Conv2d(40, 24, 5, padding=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    x = torch.from_numpy(rng.standard_normal((2, 3, 40, 40), dtype=np.float32))
    path = tmp_path / "torch.onnx"
    torch.onnx.export(module, (x,), str(path), dynamo=False, input_names=["x"], output_names=["y"])
    with open_network(path, threads=1) as session:
        got = session.run(x.numpy())["y"]
    np.testing.assert_allclose(got, module(x).detach().numpy(), atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("MNN") is None, reason="needs MNN: pip install 'ondevice-ml[peers]'"
)
def test_mnn_on_the_same_file(tmp_path: Path, rng: np.random.Generator) -> None:
    from ondevice.backends.peers.mnn import MnnNetwork

    path = save_network("mobilenet-v2", tmp_path / "net.onnx", size=64, classes=10)
    x = rng.standard_normal((1, 3, 64, 64), dtype=np.float32)
    want = MnnNetwork(path, x.shape, threads=1).run(x)
    with open_network(path, threads=1) as session:
        got = session.run(x)["logits"]
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
