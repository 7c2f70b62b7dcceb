"""Random Q/DQ graphs: the int8 engine's programs on the CPU against ONNX Runtime, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from streamer.engines.int8.network import UnsupportedGraph
from tests.int8_host import HostProgram, step_errors
from tests.qdq_graphs import CLASSES, QdqGraph, pictures, run_whole
from tests.test_int8_kernels import is_exact

SIZES_WH = [(23, 18), (24, 20)]
ACTIVATIONS = ["", "LeakyRelu", "Relu", "Clip"]
SCALES = [0.0201, 0.0317, 0.0513]  # no quotient of two is near a half
MOST_PIXELS = 40


@dataclass(frozen=True)
class Made:
    """A tensor of a graph that is being built."""

    name: str
    channels: int
    height: int
    width: int


class GraphDrawer:
    """Draws a valid graph node by node."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        zero_point = self.one_of([0, 0, None, -128, 7])
        self.size_wh = self.one_of(SIZES_WH)
        self.graph = QdqGraph(self.size_wh, seed=self._draw(st.integers(0, 99)), zero_point=zero_point)
        self.batch = 2
        self.tensors = [Made(self._first_picture(), 3, *self.size_wh[::-1])]
        self.kinds = [
            self.convolution, self.depthwise, self.pool, self.resize, self.add, self.concat, self.pick, self.split,
            self.shuffle, self.again, self.clip,
        ]  # fmt: skip

        if self.one_of([True, False]):
            self.stem()

    def one_of(self, values: list[Any]) -> Any:
        """Draws one of a few values."""
        return self._draw(st.sampled_from(values))

    def some(self) -> Made:
        """Draws an earlier tensor."""
        return self.one_of(self.tensors)

    def scale(self) -> float:
        """Draws the scale of a pair, or none."""
        return self.one_of([*SCALES, *SCALES, 0])

    def pads(self, kernel: int) -> list[int]:
        """Draws padding of each side, less than the kernel."""
        return [self._draw(st.integers(0, kernel // 2)) for _ in range(4)]

    def _first_picture(self) -> str:
        return self.graph.pair("images", 0.0173) if self.one_of([True, True, False]) else "images"

    def keep(self, name: str, channels: int, height: int, width: int) -> None:
        """Adds a tensor, quantised or not."""
        scale = self.scale()
        self.tensors.append(Made(self.graph.pair(name, scale) if scale else name, channels, height, width))

    def convolution(self) -> None:
        one, kernel, stride = self.some(), self.one_of([1, 3, 5]), self.one_of([1, 2])
        pads = self.pads(kernel)
        size = [(side + pads[i] + pads[i + 2] - kernel) // stride + 1 for i, side in enumerate((one.height, one.width))]
        if min(size) < 1 or max(size) > MOST_PIXELS:
            return
        group = 3 if one.channels % 3 == 0 and self.one_of([True, False, False]) else 1
        outputs = self.one_of([3, 6, 9, 24]) if group == 3 else self.one_of([1, 5, 8, 16, 24, 40])
        name = self.graph.convolution(
            one.name, one.channels, outputs, kernel, stride=stride, group=group, pads=pads,
            quantised=self.one_of([True, True, False]), activation=self.one_of(ACTIVATIONS), scale=self.scale(),
        )  # fmt: skip
        self.tensors.append(Made(name, outputs, *size))

    def stem(self) -> None:
        """Begins as NanoDet does, where everything is as one kernel wants it."""
        one, kernel, outputs = self.tensors[0], self.one_of([1, 2, 3, 4]), self._draw(st.integers(1, 33))
        stride, pads = self.one_of([1, 2]), self.pads(kernel)
        size = [(side + pads[i] + pads[i + 2] - kernel) // stride + 1 for i, side in enumerate((one.height, one.width))]
        name = self.graph.convolution(
            one.name, 3, outputs, kernel, stride=stride, pads=pads, activation=self.one_of(ACTIVATIONS), scale=0.0317
        )
        below = [self._draw(st.integers(0, 1)) for _ in range(2)]
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, *below]}
        size = [(side + 1 + more - 3) // 2 + 1 for side, more in zip(size, below, strict=True)]
        self.keep(self.graph.node("MaxPool", [name], **options), outputs, *size)

    def depthwise(self) -> None:
        one, kernel, stride = self.some(), self.one_of([3, 5]), self.one_of([1, 2])
        size = [(side - 1) // stride + 1 for side in (one.height, one.width)]
        name = self.graph.convolution(
            one.name, one.channels, one.channels, kernel, stride=stride, group=one.channels,
            quantised=self.one_of([True, True, False]), activation=self.one_of(ACTIVATIONS), scale=self.scale(),
        )  # fmt: skip
        self.tensors.append(Made(name, one.channels, *size))

    def pool(self) -> None:
        one, kernel, stride = self.some(), self.one_of([2, 3]), self.one_of([1, 2])
        pads = self.pads(kernel)
        size = [(side + pads[i] + pads[i + 2] - kernel) // stride + 1 for i, side in enumerate((one.height, one.width))]
        if min(size) >= 1:
            options = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": pads}
            self.keep(self.graph.node("MaxPool", [one.name], **options), one.channels, *size)

    def resize(self) -> None:
        one = self.some()
        size = [self._draw(st.integers(1, 2 * side)) for side in (one.height, one.width)]
        if max(size) > MOST_PIXELS:
            return
        ways = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"]
        options = {"coordinate_transformation_mode": self.one_of(ways), "mode": self.one_of(["nearest", "linear"])}
        options["nearest_mode"] = self.one_of(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
        if self.one_of([True, False]):
            self.batch = 1  # the sizes have the batch's too
            given = ["", "", self.graph.constant(np.array([1, one.channels, *size], np.int64))]
        else:
            factors = [np.float32(self.one_of([0.5, 1.1, 1.5, 2])) for _ in range(2)]
            size = [
                int(np.floor(np.float32(side) * by)) for side, by in zip((one.height, one.width), factors, strict=True)
            ]
            if min(size) < 1 or max(size) > MOST_PIXELS:
                return
            given = ["", self.graph.constant(np.array([1, 1, *factors], np.float32))]
        self.keep(self.graph.node("Resize", [one.name, *given], **options), one.channels, *size)

    def add(self) -> None:
        one = self.some()
        other = self.one_of([t for t in self.tensors if t.name == one.name or _shape(t) == _shape(one)])
        total = self.graph.node("Add", [one.name, other.name])
        activation = self.one_of(["", "Relu", "LeakyRelu"])
        self.keep(self.graph.node(activation, [total]) if activation else total, *_shape(one))

    def concat(self) -> None:
        one = self.some()
        same = [tensor for tensor in self.tensors if _shape(tensor)[1:] == _shape(one)[1:]]
        parts = [one, *(self.one_of(same) for _ in range(self._draw(st.integers(1, 2))))]
        channels = sum(part.channels for part in parts)
        if channels <= 96:
            self.keep(self.graph.node("Concat", [part.name for part in parts], axis=-3), channels, *_shape(one)[1:])

    def pick(self) -> None:
        one = self.some()
        if self.one_of([True, False]):
            self.keep(self.graph.reversed(one.name), *_shape(one))
            return
        start = self._draw(st.integers(0, one.channels - 1))
        stop = self._draw(st.integers(start + 1, one.channels))
        ends = (start - one.channels, stop) if self.one_of([True, False]) else (start, stop)
        self.keep(self.graph.sliced(one.name, *ends), stop - start, *_shape(one)[1:])

    def split(self) -> None:
        one = self.some()
        if one.channels > 1:
            first = self._draw(st.integers(1, one.channels - 1))
            sizes = [first, one.channels - first]
            for name, count in zip(self.graph.split(one.name, sizes), sizes, strict=True):
                self.tensors.append(Made(name, count, *_shape(one)[1:]))

    def shuffle(self) -> None:
        one = self.some()
        groups = self.one_of([2, 3])
        if one.channels % groups == 0:
            size = (one.height, one.width)
            self.keep(self.graph.shuffled([one.name], one.channels, size, groups), *_shape(one))

    def again(self) -> None:
        one = self.some()
        self.keep(one.name, *_shape(one))

    def clip(self) -> None:
        one = self.some()
        limits = self.one_of([["", 0.9], [-0.3], [-0.5, 0.8], []])
        given = [self.graph.constant(np.float32(limit)) if limit != "" else "" for limit in limits]
        self.keep(self.graph.node("Clip", [one.name, *given]), *_shape(one))


def _shape(tensor: Made) -> tuple[int, int, int]:
    return tensor.channels, tensor.height, tensor.width


@settings(
    max_examples=12,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_a_random_graph_is_computed_as_onnx_runtime_does(kernel_folder: Path, data: st.DataObject) -> None:
    drawer = GraphDrawer(data)
    for _ in range(data.draw(st.integers(2, 9))):
        drawer.one_of(drawer.kinds)()
    last = drawer.tensors[-1]
    drawer.graph.output(last.name, last.channels)
    model, images = drawer.graph.model(), pictures(drawer.batch, drawer.size_wh)
    try:
        program = HostProgram(model, kernel_folder, batch=drawer.batch)
    except UnsupportedGraph as error:
        assert str(error) == "network.onnx: its input is read in two formats"
        reject()
    for error in step_errors(program, model, images):
        assert error.most <= (1 if error.step.format.is_int8 else 0.004), error
        assert error.share <= (0.06 if is_exact(error.step) else 0.2), error
    expected = run_whole(model.proto, images, ["output"])["output"]
    assert np.abs(program.output - expected)[..., :CLASSES].max() < 0.01
    assert np.abs(program.output - expected)[..., CLASSES:].max() < 0.01 * max(1.0, np.abs(expected).max())
