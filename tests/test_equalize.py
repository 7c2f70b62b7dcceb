"""Equalisation: the graph computes the same, ranges of its channels come nearer, and shuffles are followed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime", reason="the graph is run with ONNX Runtime")

from calibration.channels import Channels
from calibration.equalize import equalized
from calibration.ranges import activation_slopes, best_range, convolution_ranges

WIDE = 8


class Graph:
    """Builds a graph node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, inputs: list[str], *outputs: str, **options: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), name=outputs[0], **options))
        return outputs[0]

    def conv(self, source: str, name: str, wide: int, deep: int, group: int = 1, spread: float = 0.0) -> str:
        weight = self._random.normal(0, 0.4, (wide, deep // group, 3, 3)) * np.exp(
            self._random.normal(0, spread, (wide, 1, 1, 1))
        )
        names = [
            self.constant(f"{name}.weight", weight.astype(np.float32)),
            self.constant(f"{name}.bias", self._random.normal(0, 0.1, wide).astype(np.float32)),
        ]
        return self.add("Conv", [source, *names], name, pads=[1] * 4, group=group)

    def model(self, output: str) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 16, 16])
            for name, channels in (("image", 3), (output, WIDE))
        ]
        graph = helper.make_graph(self.nodes, "g", ends[:1], ends[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def shuffle_block(graph: Graph, source: str) -> str:
    """ShuffleNet's block: half passes, half goes through pointwise, depthwise and pointwise; then a channel shuffle."""
    graph.constant("halves", np.array([WIDE // 2] * 2, np.int64))
    graph.add("Split", [source, "halves"], "kept", "worked", axis=1)
    half = WIDE // 2
    first = graph.add("LeakyRelu", [graph.conv("worked", "a", half, half, spread=1.5)], "a.act", alpha=0.1)
    second = graph.conv(first, "b", half, half, group=half, spread=1.5)
    third = graph.add("LeakyRelu", [graph.conv(second, "c", half, half, spread=1.5)], "c.act", alpha=0.1)
    joined = graph.add("Concat", ["kept", third], "joined", axis=1)
    apart = graph.constant("apart", np.array([1, 2, half, 16, 16], np.int64))
    flat = graph.constant("flat", np.array([1, WIDE, 16, 16], np.int64))
    graph.add("Reshape", [joined, apart], "five")
    graph.add("Transpose", ["five"], "swapped", perm=[0, 2, 1, 3, 4])
    return graph.add("Reshape", ["swapped", flat], "shuffled")


def block(behind: str = "LeakyRelu") -> onnx.ModelProto:
    graph = Graph()
    stem = graph.conv("image", "stem", WIDE, 3, spread=1.5)
    active = graph.add(behind, [stem], "stem.act")
    return graph.model(graph.conv(shuffle_block(graph, active), "last", WIDE, WIDE))


def images(count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def run(model: onnx.ModelProto, tensor: str = "") -> np.ndarray:
    import onnxruntime

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    if tensor:
        probed.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"image": images()[0]})
    return outputs[-1]


def spread(model: onnx.ModelProto, tensor: str) -> float:
    ranges = np.abs(run(model, tensor)).max(axis=(0, 2, 3))
    return float(ranges.max() / np.median(ranges))


@pytest.mark.parametrize("behind", ["LeakyRelu", "Relu", "HardSwish", "Sigmoid"])
def test_an_equalised_graph_computes_the_same(behind: str) -> None:
    model = block(behind)
    changed = equalized(model, images())
    np.testing.assert_allclose(run(changed), run(model), rtol=1e-3, atol=1e-4)
    assert changed.SerializeToString() == equalized(model, images()).SerializeToString()


def test_ranges_of_channels_come_nearer() -> None:
    model = block()
    changed = equalized(model, images())
    for tensor in ("stem.act", "b", "joined"):
        assert spread(changed, tensor) < 0.75 * spread(model, tensor), tensor
    assert (
        spread(changed, "a.act") < 1.2 < spread(model, "a.act")
    )  # a depthwise convolution alone reads it: nothing is in the way


def test_what_must_not_change_does_not() -> None:
    """Behind an activation that isn't linear on either side of 0, and what is joined with that; the graph's output."""
    channels = Channels(block("HardSwish"))
    held = {node.name: bool(channels.fixed[labels].all()) for node, labels in channels.made}
    assert held == {"stem": True, "a": False, "b": False, "c": True, "last": True}

    graph = Graph()
    first = graph.conv("image", "one", WIDE, 3)
    second = graph.conv(first, "two", WIDE, WIDE)
    third = graph.add("Conv", [second, "two.weight", "two.bias"], "three", pads=[1] * 4)
    model = graph.model(third)
    np.testing.assert_allclose(run(equalized(model, images())), run(model), rtol=1e-3, atol=1e-4)


def test_sums_keep_channels_in_proportion() -> None:
    graph = Graph()
    first, second = (graph.conv("image", name, WIDE, 3, spread=1.5) for name in ("one", "two"))
    total = graph.add("Add", [first, graph.add("Relu", [second], "two.act")], "sum")
    model = graph.model(graph.conv(total, "last", WIDE, WIDE))
    channels = Channels(model)
    made = {node.name: labels.tolist() for node, labels in channels.made}
    assert made["one"] == made["two"]
    changed = equalized(model, images())
    np.testing.assert_allclose(run(changed), run(model), rtol=1e-3, atol=1e-4)
    assert spread(changed, "sum") < 0.6 * spread(model, "sum")


def test_best_range_gives_up_what_the_activation_shrinks() -> None:
    values = np.linspace(-100, 1, 2001)
    counts = np.where(values < -5, 1e-6, 1.0)
    low, high = best_range(values, counts, 0.1)
    assert -60 < low < -3
    assert high == pytest.approx(1, abs=0.3)
    assert best_range(values, counts, 0.0)[0] == 0
    assert best_range(np.zeros(1), np.ones(1), 0.1) == (0, pytest.approx(1e-6))


def test_ranges_are_of_convolutions_in_front_of_an_activation() -> None:
    model = block()
    assert activation_slopes(model) == {"stem": pytest.approx(0.01), "a": pytest.approx(0.1), "c": pytest.approx(0.1)}
    ranges = convolution_ranges(model, images())
    assert list(ranges) == ["stem", "a", "c"]
    assert all(low < 0 < high for low, high in ranges.values())
    assert convolution_ranges(block("Relu"), images())["stem"][0] == 0
