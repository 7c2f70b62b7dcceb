"""Small Q/DQ networks with random weights, for the int8 engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from streamer.models.file import ModelFile

CLASSES, BINS = 3, 16
_FIRST_AXIS_OPSET = 13  # of DequantizeLinear


class QdqGraph:
    """Builds a graph node by node; ends in NanoDet's output of one stride."""

    def __init__(self, size_wh: tuple[int, int], *, seed: int = 0, zero_point: int | None = 0, opset: int = 17) -> None:
        """Starts with the picture; activations have that zero point, or uint8's 128 if None."""
        self.size_wh = size_wh
        self._opset = opset
        self._random = np.random.default_rng(seed)
        self._zero_point = zero_point
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._outputs: list[str] = []

    def constant(self, value: Any) -> str:
        """Adds a constant and returns its name."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node and returns its output."""
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def pair(self, tensor: str, scale: float) -> str:
        """Quantises and dequantises a tensor."""
        zero = np.uint8(128) if self._zero_point is None else np.int8(self._zero_point)
        parts = [self.constant(np.float32(scale)), self.constant(zero)]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [tensor, *parts]), *parts])

    def convolution(
        self, tensor: str, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, group: int = 1,
        quantised: bool = True, activation: str = "LeakyRelu", scale: float = 0.03, pads: Sequence[int] | None = None,
    ) -> str:  # fmt: skip
        """Adds a convolution with activation and pair; without a pair where the scale is 0.

        `pads` are top, left, bottom and right; without them half the kernel.
        """
        shape = (outputs, inputs // group, kernel, kernel)
        values = self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) / 2)
        if quantised:
            scales = (np.abs(values).max(axis=(1, 2, 3)) / 127).astype(np.float32)
            levels = np.clip(np.rint(values / scales[:, None, None, None]), -127, 127).astype(np.int8)
            stored = [self.constant(levels), self.constant(scales), self.constant(np.zeros(outputs, np.int8))]
            weights = self.node("DequantizeLinear", stored, axis=0)
        else:
            weights = self.constant(values.astype(np.float32))
        bias = self.constant((self._random.standard_normal(outputs) * 0.2).astype(np.float32))
        found = self.node(
            "Conv", [tensor, weights, bias], kernel_shape=[kernel, kernel], strides=[stride, stride],
            pads=pads or [kernel // 2] * 4, group=group,
        )  # fmt: skip
        if activation == "Clip":
            found = self.node("Clip", [found, self.constant(np.float32(0)), self.constant(np.float32(1.5))])
        elif activation:
            found = self.node(activation, [found], **({"alpha": 0.1} if activation == "LeakyRelu" else {}))
        return self.pair(found, scale) if scale else found

    def sliced(self, tensor: str, start: int, stop: int) -> str:
        """Takes channels of a tensor."""
        return self.node("Slice", [tensor, *(self.constant(np.array([value])) for value in (start, stop, 1))])

    def halves(self, tensor: str, width: int) -> tuple[str, str]:
        """Takes the first and the second `width` channels of a tensor."""
        return self.sliced(tensor, 0, width), self.sliced(tensor, width, 2 * width)

    def shuffled(self, tensors: list[str], channels: int, size_hw: tuple[int, int], groups: int = 2) -> str:
        """Joins tensors and lets their channels take turns, as ShuffleNetV2 does."""
        joined = self.node("Concat", tensors, axis=1)
        split = np.array([-1, groups, channels // groups, *size_hw])
        turned = self.node("Transpose", [self.node("Reshape", [joined, self.constant(split)])], perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [turned, self.constant(np.array([-1, channels, *size_hw]))])

    def split(self, tensor: str, sizes: list[int]) -> list[str]:
        """Takes a tensor's channels apart, that many at a time."""
        names = [f"split{len(self._nodes)}.{index}" for index in range(len(sizes))]
        self._nodes.append(helper.make_node("Split", [tensor, self.constant(np.array(sizes))], names, axis=1))
        return names

    def reversed(self, tensor: str) -> str:
        """Takes a tensor's channels from the last to the first."""
        places = (np.array([value]) for value in (-1, -(1 << 62), 1, -1))
        return self.node("Slice", [tensor, *(self.constant(value) for value in places)])

    def resized(self, tensor: str, mode: str) -> str:
        """Doubles a tensor's size as PyTorch does."""
        way = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        options = way if mode == "nearest" else {"coordinate_transformation_mode": "half_pixel"}
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.node("Resize", [tensor, "", scales], mode=mode, **options)

    def output(self, tensor: str, inputs: int) -> None:
        """Adds a head to a tensor of `inputs` channels; its points follow those of earlier ones."""
        quantised = self._opset >= _FIRST_AXIS_OPSET
        found = self.convolution(tensor, inputs, CLASSES + BINS, 1, activation="", scale=0, quantised=quantised)
        flat = self.node("Reshape", [found, self.constant(np.array([0, CLASSES + BINS, -1]))])
        self._outputs.append(self.node("Transpose", [flat], perm=[0, 2, 1]))

    def unfinished(self, tensor: str, channels: int) -> ModelFile:
        """Returns a file whose output is a tensor, for what is refused before the output is read."""
        proto = self._proto(tensor)
        spec: Any = SimpleNamespace(input_size_wh=self.size_wh, num_points=1, output_channels=channels)
        return ModelFile(Path("network.onnx"), "", spec, proto)

    def model(self, *, scores_first: bool = True) -> ModelFile:
        """Joins the outputs and returns the file; the last channels are the scores unless `scores_first`."""
        joined = self.node("Concat", self._outputs, axis=1)
        places = (0, CLASSES, CLASSES + BINS) if scores_first else (0, BINS, CLASSES + BINS)
        parts = [
            self.node("Slice", [joined, *(self.constant(np.array([value])) for value in (*place, 2))])
            for place in pairwise(places)
        ]
        scores = 0 if scores_first else 1
        parts[scores] = self.node("Sigmoid", [parts[scores]])
        self._nodes.append(helper.make_node("Concat", parts, ["output"], axis=2))
        proto, (width, height) = self._proto("output"), self.size_wh
        points = run_whole(proto, np.zeros((1, 3, height, width), np.float32), ["output"])["output"].shape[1]
        spec: Any = SimpleNamespace(input_size_wh=self.size_wh, num_points=points, output_channels=CLASSES + BINS)
        return ModelFile(Path("network.onnx"), "", spec, proto)

    def _proto(self, output: str) -> onnx.ModelProto:
        width, height = self.size_wh
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "network", [image], [result], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=10)


def pictures(batch: int, size_wh: tuple[int, int], seed: int = 3) -> npt.NDArray[np.float32]:
    """Noise in the range of normalised pictures."""
    return np.random.default_rng(seed).uniform(-2, 2, (batch, 3, *size_wh[::-1])).astype(np.float32)


def run_whole(
    proto: onnx.ModelProto, images: npt.NDArray[np.float32], names: list[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Runs a graph in ONNX Runtime node by node, without fusing, and returns these tensors."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    known = {value.name for value in whole.graph.output}
    whole.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options)
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))
