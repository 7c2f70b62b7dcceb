"""Runs an ONNX graph of NanoDet's operators in PyTorch, with trainable weights and quantisation scales.

Importing this imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from streamer.common.errors import ModelError

_LEAST, _MOST = -128, 127


class _FakeQuantize(torch.autograd.Function):
    """Rounds half to even and clamps; the gradient of rounding is that of the identity (Bengio et al. 2013).

    The gradient of the scale is that of learned step size quantisation (Esser et al. 2020, equation 3).
    """

    @staticmethod
    def forward(context: Any, values: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        levels = values / scale
        quantized = levels.round().clamp_(_LEAST, _MOST)
        context.save_for_backward(levels, quantized, scale)
        return quantized * scale

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        levels, quantized, scale = context.saved_tensors
        inside = (levels >= _LEAST) & (levels <= _MOST)
        of_values = gradient * inside
        if not context.needs_input_grad[1]:
            return of_values, None
        of_scale = (gradient * quantized).sum() - (of_values * levels).sum()
        return of_values, of_scale.reshape(scale.shape)


def fake_quantize(values: Tensor, scale: Tensor) -> Tensor:
    """Quantises to int8 with zero point 0 and dequantises, with gradients for `values` and a scalar `scale`."""
    quantized: Tensor = _FakeQuantize.apply(values, scale)  # type: ignore[no-untyped-call]
    return quantized


class TorchGraph(nn.Module):
    """Runs an ONNX graph, node by node.

    Attributes:
        weights: float weights and biases of convolutions by ONNX name, quantised in `forward`.
        scales: logarithms of the scales of activations, shared by equal ones.
    """

    def __init__(self, model: ModelProto, float_weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Converts a graph.

        Args:
            model: float or Q/DQ, one input and one output.
            float_weights: original weights of quantised convolutions by node name.

        Raises:
            ModelError: an operator isn't supported.
        """
        super().__init__()
        graph = model.graph
        self._nodes = list(graph.node)
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._constants = {item.name: numpy_helper.to_array(item).copy() for item in graph.initializer}
        for node in self._nodes:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = numpy_helper.to_array(_attributes(node)["value"]).copy()
        unknown = sorted({node.op_type for node in self._nodes} - set(_OPERATORS) - set(_HANDLED))
        if unknown:
            raise ModelError(f"can't train a graph with {', '.join(unknown)}")
        self.weights = nn.ParameterDict()
        self.scales = nn.ParameterDict()
        self._groups: dict[str, str] = {}
        self._made_by = {output: node for node in self._nodes for output in node.output}
        for node in self._nodes:
            if node.op_type == "Conv":
                self._take_convolution(node, float_weights)
            elif node.op_type == "QuantizeLinear":
                self._take_scale(node.input[1])
        self._paired = {
            node.input[1]: self._made_by[node.input[0]].input[1]
            for node in self._nodes
            if node.op_type == "DequantizeLinear" and node.input[0] in self._made_by
        }
        self._last_use = {name: index for index, node in enumerate(self._nodes) for name in node.input}

    def _take_convolution(self, node: NodeProto, float_weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
        source = self._made_by.get(node.input[1])
        if source is None:
            self.weights[_key(node.input[1])] = nn.Parameter(torch.from_numpy(self._constants[node.input[1]]))
        else:
            self.weights[_key(node.input[1])] = nn.Parameter(torch.from_numpy(np.array(float_weights[node.name])))
            scale = torch.from_numpy(self._constants[source.input[1]]).reshape(-1, 1, 1, 1)
            self.register_buffer(_key(f"{node.input[1]}.scale"), scale)
        if len(node.input) > 2:
            self.weights[_key(node.input[2])] = nn.Parameter(torch.from_numpy(self._constants[node.input[2]]))

    def _take_scale(self, name: str) -> None:
        """Shares one parameter among equal scales, as of tensors that a Concat joins."""
        value = self._constants[name].astype(np.float32)
        self._groups[name] = _key(f"scale {value.tobytes().hex()}")
        if self._groups[name] not in self.scales:
            self.scales[self._groups[name]] = nn.Parameter(torch.tensor(float(value)).log())

    def scale_of(self, name: str) -> Tensor:
        """Returns an activation's scale by its ONNX name."""
        return self.scales[self._groups[name]].exp()

    def weight_scale(self, name: str) -> Tensor | None:
        """Returns a quantised weight's scales, (O, 1, 1, 1), or None for a float weight."""
        return getattr(self, _key(f"{name}.scale"), None)

    def forward(self, images: Tensor) -> Tensor:
        """Runs the graph on (B, 3, H, W) float32."""
        values: dict[str, Tensor] = {self._input: images}
        for index, node in enumerate(self._nodes):
            if node.op_type in ("Constant", "DequantizeLinear") and node.input and node.input[0] not in values:
                continue  # a weight
            if node.op_type == "Constant":
                continue
            made = self._run(node, values)
            for name, value in zip(node.output, made, strict=False):
                values[name] = value
            for name in node.input:
                if self._last_use[name] == index and name != self._output:
                    values.pop(name, None)
        return values[self._output]

    @torch.no_grad()
    def write_into(self, model: ModelProto) -> None:
        """Writes weights and scales into the Q/DQ graph, in place."""
        constants = {item.name: item for item in model.graph.initializer}

        def put(name: str, values: np.ndarray[Any, Any]) -> None:
            shape = tuple(constants[name].dims)
            constants[name].CopyFrom(numpy_helper.from_array(values.reshape(shape), name))

        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                put(node.input[1], self.scale_of(node.input[1]).cpu().numpy())
            elif node.op_type == "DequantizeLinear" and node.input[1] in self._paired:
                put(node.input[1], self.scale_of(self._paired[node.input[1]]).cpu().numpy())
            elif node.op_type == "Conv":
                weight, scale = self.weights[_key(node.input[1])], self.weight_scale(node.input[1])
                if scale is None:
                    put(node.input[1], weight.cpu().numpy())
                else:
                    levels = (weight / scale).round().clamp(_LEAST, _MOST).to(torch.int8)
                    put(self._made_by[node.input[1]].input[0], levels.cpu().numpy())
                if len(node.input) > 2:
                    put(node.input[2], self.weights[_key(node.input[2])].cpu().numpy())

    @torch.no_grad()
    def write_floats_into(self, original: ModelProto) -> None:
        """Writes weights and biases into the float graph, in place."""
        constants = {item.name: item for item in original.graph.initializer}
        by_name = {node.name: node for node in original.graph.node}
        for node in self._nodes:
            if node.op_type == "Conv":
                for mine, theirs in zip(node.input[1:], by_name[node.name].input[1:], strict=False):
                    values = self.weights[_key(mine)].cpu().numpy()
                    constants[theirs].CopyFrom(numpy_helper.from_array(values, theirs))

    def _run(self, node: NodeProto, values: Mapping[str, Tensor]) -> Sequence[Tensor]:
        first = values[node.input[0]]
        if node.op_type == "QuantizeLinear":
            return [fake_quantize(first, self.scale_of(node.input[1]))]
        if node.op_type in ("DequantizeLinear", "Identity"):
            return [first]
        if node.op_type == "Conv":
            return [self._convolve(node, first)]
        inputs = [values.get(name, self._constants.get(name)) if name else None for name in node.input]
        made = _OPERATORS[node.op_type](inputs, _attributes(node))
        return made if isinstance(made, (list, tuple)) else [made]

    def _convolve(self, node: NodeProto, features: Tensor) -> Tensor:
        options = _attributes(node)
        weight = self.weights[_key(node.input[1])]
        scale = self.weight_scale(node.input[1])
        if scale is not None:
            weight = fake_quantize(weight, scale)
        bias = self.weights[_key(node.input[2])] if len(node.input) > 2 else None
        pads = options.get("pads", [0, 0, 0, 0])
        if pads[:2] != pads[2:]:
            features = F.pad(features, (pads[1], pads[3], pads[0], pads[2]))
            pads = [0, 0, 0, 0]
        strides, dilations = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
        return F.conv2d(features, weight, bias, strides, tuple(pads[:2]), dilations, options.get("group", 1))


def _key(name: str) -> str:
    """Returns a tensor's name as PyTorch allows it."""
    return name.replace(".", "|")


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {
        item.name: value.decode() if isinstance(value := helper.get_attribute_value(item), bytes) else value
        for item in node.attribute
    }


def _max_pool(inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    pads = options.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise ModelError("can't train a graph whose MaxPool pads one side alone")
    return F.max_pool2d(inputs[0], options["kernel_shape"], options.get("strides"), tuple(pads[:2]))


def _resize(inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    mode = {"linear": "bilinear", "nearest": "nearest"}[options.get("mode", "nearest")]
    if mode == "bilinear" and options.get("coordinate_transformation_mode", "half_pixel") not in (
        "half_pixel",
        "pytorch_half_pixel",
    ):
        raise ModelError("can't train a graph that resizes other than by half-pixel centres")
    align = False if mode == "bilinear" else None
    if len(inputs) > 3 and inputs[3] is not None:
        return F.interpolate(inputs[0], size=[int(side) for side in inputs[3][2:]], mode=mode, align_corners=align)
    factors = [float(factor) for factor in inputs[2][2:]]
    return F.interpolate(inputs[0], scale_factor=factors, mode=mode, align_corners=align)


def _slice(inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    value = inputs[0]
    axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(len(inputs[1]))
    steps = inputs[4] if len(inputs) > 4 and inputs[4] is not None else [1] * len(inputs[1])
    places: list[slice] = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, inputs[1], inputs[2], steps, strict=True):
        places[int(axis)] = slice(int(start), int(end), int(step))
    return value[tuple(places)]


def _split(inputs: Sequence[Any], options: Mapping[str, Any]) -> Sequence[Tensor]:
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else options.get("split")
    axis = int(options.get("axis", 0))
    if sizes is None:
        return inputs[0].chunk(int(options["num_outputs"]), axis)
    return inputs[0].split([int(size) for size in sizes], axis)


def _reshape(inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    shape = [int(side) or inputs[0].shape[index] for index, side in enumerate(inputs[1])]
    if -1 not in shape:
        shape[0] = -1  # the batch: a file may fix it
    return inputs[0].reshape(shape)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Sequence[Any], Mapping[str, Any]], Tensor]:
    def run(inputs: Sequence[Any], _: Mapping[str, Any]) -> Tensor:
        first, second = (
            torch.from_numpy(value).to(inputs[0].device) if isinstance(value, np.ndarray) else value
            for value in inputs[:2]
        )
        result: Tensor = function(first, second)
        return result

    return run


_HANDLED = ("Constant", "Conv", "DequantizeLinear", "Identity", "QuantizeLinear")
_OPERATORS: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    "Add": _binary(torch.add),
    "Mul": _binary(torch.mul),
    "Sub": _binary(torch.sub),
    "Div": _binary(torch.div),
    "Concat": lambda inputs, options: torch.cat(list(inputs), int(options["axis"])),
    "Clip": lambda inputs, options: inputs[0].clamp(
        *(None if value is None else float(value) for value in (*inputs[1:], None, None)[:2])
    ),
    "Elu": lambda inputs, options: F.elu(inputs[0], float(options.get("alpha", 1.0))),
    "Flatten": lambda inputs, options: inputs[0].flatten(int(options.get("axis", 1))),
    "HardSigmoid": lambda inputs, options: (options.get("alpha", 0.2) * inputs[0] + options.get("beta", 0.5)).clamp(
        0, 1
    ),
    "HardSwish": lambda inputs, options: F.hardswish(inputs[0]),
    "LeakyRelu": lambda inputs, options: F.leaky_relu(inputs[0], float(options.get("alpha", 0.01))),
    "MaxPool": _max_pool,
    "Relu": lambda inputs, options: F.relu(inputs[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Selu": lambda inputs, options: F.selu(inputs[0]),
    "Sigmoid": lambda inputs, options: inputs[0].sigmoid(),
    "Slice": _slice,
    "Split": _split,
    "Transpose": lambda inputs, options: inputs[0].permute(list(options["perm"])),
}
