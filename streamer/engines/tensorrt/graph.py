"""Preparing a graph for TensorRT's parser: checks of its Q/DQ nodes, and the cast to FP16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter

from streamer.common.errors import EngineError, ModelError
from streamer.models.graph.constants import Constants
from streamer.models.graph.int8 import quantized_type

if TYPE_CHECKING:
    from onnx import ModelProto

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_FP16_OPSET = 19  # the first in which Q/DQ scales may be float16
_AGAIN = "quantise the float model again: python -m calibration quantize"


def check_quantization(proto: ModelProto, name: str) -> None:
    """Refuses Q/DQ nodes that TensorRT refuses, or silently computes differently from other engines.

    TensorRT wants signed 8-bit values with zero point 0 and a bias left in float. Its parser refuses an int32 bias and
    any other zero point; it takes unsigned values with zero point 0 for signed ones, which clips half of their range.
    """
    constants = Constants(proto)
    for node in proto.graph.node:
        if node.op_type not in _QUANTIZING:
            continue
        zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
        if len(node.input) > 2 and node.input[2] and zero_point is None:
            raise ModelError(
                f"{name}: node {node.name!r} ({node.op_type}) computes its zero point, TensorRT takes only 0: {_AGAIN}"
            )
        if zero_point is not None and np.any(zero_point):
            worst = zero_point.reshape(-1)[np.flatnonzero(zero_point)[0]]
            raise ModelError(
                f"{name}: node {node.name!r} ({node.op_type}) has zero point {worst}, TensorRT takes only 0: {_AGAIN}"
            )
        kind = quantized_type(node, zero_point, constants)
        if kind == np.int32:
            raise ModelError(
                f"{name}: node {node.name!r} dequantises {node.input[0]!r} from int32, TensorRT takes only int8: leave"
                f" the bias in float and {_AGAIN}"
            )
        if kind == np.uint8:
            raise ModelError(
                f"{name}: node {node.name!r} ({node.op_type}) is uint8, TensorRT takes it for int8 and clips: {_AGAIN}"
            )


def to_float16(proto: ModelProto, name: str) -> ModelProto:
    """Returns a copy of a float32 graph that computes in float16, Q/DQ scales included.

    Input, output and the sigmoid stay float32. A strongly typed TensorRT network uses FP16 only this way.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError as error:
        raise EngineError("FP16 needs ONNX Runtime's converter: pip install 'nanodet-streamer[onnxruntime]'") from error
    limit = float(np.finfo(np.float16).max)
    for constant in proto.graph.initializer:
        if constant.data_type == TensorProto.FLOAT and np.abs(numpy_helper.to_array(constant)).max(initial=0) > limit:
            raise ModelError(f"{name}: {constant.name!r} exceeds float16's range: build without FP16")
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if opset < _FP16_OPSET and any(node.op_type in _QUANTIZING for node in proto.graph.node):
        copy = version_converter.convert_version(copy, _FP16_OPSET)
    half: ModelProto = convert_float_to_float16(copy, keep_io_types=True, op_block_list=["Sigmoid"])
    OnnxModel.graph_topological_sort(half.graph)  # the converter appends its casts at the end
    return half
