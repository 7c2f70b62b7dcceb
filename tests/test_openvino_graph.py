"""OpenVINO's operations as ONNX, each computed by both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from openvino import opset13 as ops  # noqa: E402

from streamer.common.errors import ModelError  # noqa: E402
from streamer.common.openvino_core import shared_core  # noqa: E402
from streamer.models.graph.openvino import read_openvino  # noqa: E402

SIZE = (1, 6, 8, 12)
RANDOM = np.random.default_rng(0)
Make = Callable[[Any], Any]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))


def fake(x: Any, low: Any, high: Any, out_low: Any, out_high: Any, levels: int = 256) -> Any:
    return ops.fake_quantize(x, *(np.float32(end) for end in (low, high, out_low, out_high)), levels)


def channels(first: float, last: float) -> np.ndarray:
    return np.linspace(first, last, 6, dtype=np.float32).reshape(1, 6, 1, 1)


def compressed(shape: tuple[int, ...], *, zero: bool) -> Any:
    """Integer weights of one scale for each output channel, as an IR that holds a quantised model has them."""
    stored = np.random.default_rng(1).integers(-127, 128, shape).astype(np.int8)
    values = ops.convert(ops.constant(stored), "f32")
    wide = (*shape[: len(shape) - 3], *[1] * 3) if len(shape) == 5 else (shape[0], 1, 1, 1)
    if zero:
        values = ops.subtract(values, ops.constant(np.full(wide, 3, np.float32)))
    return ops.multiply(
        values, ops.constant(np.linspace(0.01, 0.02, int(np.prod(wide)), dtype=np.float32).reshape(wide))
    )


def interpolate(x: Any, mode: str, how: str, coordinates: str, nearest: str = "floor") -> Any:
    operand = integers(16, 18) if how == "sizes" else ops.constant(np.array([2, 1.5], np.float32))
    return ops.interpolate(
        x, operand, mode, how, coordinate_transformation_mode=coordinates, nearest_mode=nearest, axes=integers(2, 3)
    )


def convolved(x: Any, weight: Any, **more: Any) -> Any:
    grouped = isinstance(weight, ov.Node) and len(weight.output(0).get_shape()) == 5
    options = {"strides": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1], "dilations": [1, 1], **more}
    return (ops.group_convolution if grouped else ops.convolution)(x, weight, **options)


def pooled(x: Any, kind: str, **more: Any) -> Any:
    options = {"rounding_type": "floor", "auto_pad": "explicit", **more}
    if kind == "max":
        return ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], **options).output(0)
    return ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], **options)


OPERATIONS: dict[str, Make] = {
    **{
        name: lambda x, name=name: getattr(ops, name)(x)
        for name in ("relu", "sigmoid", "tanh", "exp", "mish", "hswish")
    },
    **{
        name: lambda x, name=name: getattr(ops, name)(x)
        for name in ("abs", "floor", "ceiling", "sign", "erf", "softplus")
    },
    "swish": lambda x: ops.swish(x),
    "swish of beta": lambda x: ops.swish(x, ops.constant(np.float32(1.7))),
    "hsigmoid": lambda x: ops.hsigmoid(x),
    "elu": lambda x: ops.elu(x, 0.7),
    "selu": lambda x: ops.selu(x, np.float32(1.67), np.float32(1.05)),
    "gelu": lambda x: ops.gelu(x, "erf"),
    "clamp": lambda x: ops.clamp(x, -0.5, 0.7),
    "round": lambda x: ops.round(ops.multiply(x, np.float32(4)), "half_to_even"),
    "leaky": lambda x: ops.prelu(x, np.array([0.1], np.float32)),
    "prelu": lambda x: ops.prelu(x, np.linspace(0, 1, 6, dtype=np.float32)),
    "softmax": lambda x: ops.softmax(x, 1),
    "power": lambda x: ops.power(ops.abs(x), np.float32(1.5)),
    "convolution": lambda x: convolved(x, weights(4, 6, 3, 3)),
    "convolution with bias": lambda x: ops.add(convolved(x, weights(4, 6, 3, 3)), weights(1, 4, 1, 1)),
    "bias first": lambda x: ops.add(weights(1, 4, 1, 1), convolved(x, weights(4, 6, 3, 3), strides=[2, 2])),
    "bias of all": lambda x: ops.add(convolved(x, weights(4, 6, 3, 3)), weights(1, 1, 1, 1)),
    "convolution, same": lambda x: convolved(x, weights(4, 6, 3, 3), strides=[2, 2], auto_pad="same_upper"),
    "dilated": lambda x: convolved(x, weights(4, 6, 3, 3), dilations=[2, 1]),
    "groups": lambda x: convolved(x, ops.constant(weights(3, 4, 2, 3, 3))),
    "depthwise": lambda x: convolved(x, ops.constant(weights(6, 1, 1, 3, 3))),
    "int8 weights": lambda x: convolved(x, compressed((4, 6, 3, 3), zero=False)),
    "int8 weights, zero points": lambda x: convolved(x, compressed((4, 6, 3, 3), zero=True)),
    "int8 depthwise": lambda x: convolved(x, compressed((6, 1, 1, 3, 3), zero=False)),
    "int8 depthwise, reshaped": lambda x: convolved(
        x, ops.reshape(compressed((6, 1, 3, 3), zero=False), integers(6, 1, 1, 3, 3), False)
    ),
    "quantised weights": lambda x: convolved(x, fake(ops.constant(weights(4, 6, 3, 3)), -1.27, 1.27, -1.27, 1.27, 255)),
    "quantised weights of another range": lambda x: convolved(
        x, fake(ops.constant(weights(4, 6, 3, 3)), -2, 2, -1.5, 1.7, 255)
    ),
    "a computed weight": lambda x: convolved(
        x, ops.add(ops.constant(weights(4, 6, 3, 3)), ops.reduce_mean(x, integers(0, 1, 2, 3), False))
    ),
    "max pool": lambda x: pooled(x, "max"),
    "max pool, ceil": lambda x: pooled(x, "max", rounding_type="ceil"),
    "average without padding": lambda x: pooled(x, "average", exclude_pad=True),
    "average with padding": lambda x: pooled(x, "average", exclude_pad=False),
    **{
        name: lambda x, name=name: getattr(ops, name)(x, integers(2, 3), True)
        for name in ("reduce_mean", "reduce_max", "reduce_min", "reduce_sum")
    },
    "nearest by scales": lambda x: interpolate(x, "nearest", "scales", "asymmetric"),
    "nearest by sizes": lambda x: interpolate(x, "nearest", "sizes", "half_pixel", "round_prefer_floor"),
    "nearest, simple": lambda x: interpolate(x, "nearest", "sizes", "asymmetric", "simple"),
    "linear": lambda x: interpolate(x, "linear_onnx", "scales", "half_pixel"),
    "linear with corners": lambda x: interpolate(x, "linear_onnx", "sizes", "align_corners"),
    "cubic": lambda x: interpolate(x, "cubic", "scales", "half_pixel"),
    "concat": lambda x: ops.concat([x, ops.relu(x)], 1),
    "split": lambda x: ops.add(*ops.split(x, 1, 2).outputs()),
    "split in parts": lambda x: ops.concat(ops.variadic_split(x, 1, integers(2, -1)).outputs()[::-1], 1),
    "reshape": lambda x: ops.reshape(x, integers(0, 6, -1), True),
    "transpose": lambda x: ops.transpose(x, integers(0, 2, 3, 1)),
    "squeeze": lambda x: ops.squeeze(x, integers(0)),
    "unsqueeze": lambda x: ops.unsqueeze(x, integers(1)),
    "slice": lambda x: ops.slice(x, integers(1), integers(5), integers(2), integers(1)),
    "strided slice": lambda x: ops.strided_slice(
        x, integers(0, 1, 0, 0), integers(1, 5, 0, -1), integers(1, 2, 1, 1), [1, 0, 1, 1], [1, 0, 1, 0]
    ),
    "strided slice that drops": lambda x: ops.strided_slice(
        x, integers(0, -1), integers(1, 0), integers(1, 1), [1, 0], [1, 0], [], [0, 1]
    ),
    "gather": lambda x: ops.gather(x, integers(5, 0, 2), integers(1)),
    "pad": lambda x: ops.pad(x, integers(0, 0, 1, 2), integers(0, 0, 3, 0), "constant", np.float32(0.5)),
    "matmul": lambda x: ops.matmul(x, ops.constant(weights(5, 12)), False, True),
    "shuffle": lambda x: ops.shuffle_channels(x, 1, 3),
    "shape": lambda x: ops.convert(ops.shape_of(x), "f32"),
    "tile": lambda x: ops.tile(x, integers(1, 2, 1, 1)),
    "broadcast": lambda x: ops.broadcast(ops.reduce_mean(x, integers(2, 3), True), integers(1, 6, 8, 12)),
    "quantised, unsigned": lambda x: fake(x, 0, 2.55, 0, 2.55),
    "quantised, signed": lambda x: fake(x, -1.28, 1.27, -1.28, 1.27),
    "quantised, moved": lambda x: fake(x, -0.5, 2.05, -0.5, 2.05),
    "quantised, narrow": lambda x: fake(x, -1.27, 1.27, -1.27, 1.27, 255),
    "quantised, no zero": lambda x: fake(x, 0.31, 2.0, 0.31, 2.0),
    "quantised, another range": lambda x: fake(x, -1, 1, -2, 3),
    "quantised by channel": lambda x: ops.fake_quantize(
        x, -channels(1, 2), channels(1, 2), -channels(1, 2), channels(1, 2), 256
    ),
}


def written(make: Make, folder: Path, *, half: bool = False) -> Path:
    given = ops.parameter(SIZE, np.float32, name="x")
    made = make(given)
    path = folder / "m.xml"
    ov.save_model(ov.Model([made], [given], "m"), path, compress_to_fp16=half)
    return path


def computed(proto: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: values})[0]
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_computes_the_same(name: str, tmp_path: Path) -> None:
    path = written(OPERATIONS[name], tmp_path, half=name in ("convolution", "groups", "matmul"))
    proto = read_openvino(path)
    onnx.checker.check_model(proto, full_check=True)
    values = RANDOM.standard_normal(SIZE).astype(np.float32)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    compiled = shared_core().compile_model(shared_core().read_model(path), "CPU", exact)
    wanted = np.asarray(next(iter(compiled(values).values())), np.float32)
    got = computed(proto, values)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("quantised, unsigned", {"QuantizeLinear", "DequantizeLinear"}),
        ("quantised, narrow", {"Clip", "QuantizeLinear", "DequantizeLinear"}),
        ("int8 weights", {"Conv", "DequantizeLinear"}),
        ("int8 depthwise, reshaped", {"Conv", "DequantizeLinear"}),
        ("quantised weights", {"Conv", "DequantizeLinear"}),
        ("convolution with bias", {"Conv"}),
        ("leaky", {"LeakyRelu"}),
    ],
)
def test_what_engines_compute_fast_is_written_so(name: str, wanted: set[str], tmp_path: Path) -> None:
    assert {node.op_type for node in read_openvino(written(OPERATIONS[name], tmp_path)).graph.node} == wanted


def test_an_operation_that_no_network_here_has_is_refused(tmp_path: Path) -> None:
    path = written(lambda x: ops.cum_sum(x, np.int64(1)), tmp_path)
    with pytest.raises(ModelError, match=r"^holds the operation CumSum \('.*'\), which is not read: ") as caught:
        read_openvino(path)
    assert "\n" not in str(caught.value)
