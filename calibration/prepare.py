"""Prepares a float graph for quantisers: opset 13 or later, without arithmetic on shapes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from streamer.common.errors import ConfigError, ModelError
from streamer.models.graph.constants import fold_constants
from streamer.models.graph.editor import opset_of

FIRST_PER_CHANNEL_OPSET = 13
_OPSET = 17
_MAX_DIFFERENCE = 1e-3
_BATCH = "batch"


def prepared(model: ModelProto, images: npt.NDArray[np.float32]) -> ModelProto:
    """Returns an equivalent copy of a float model for quantisers.

    Opsets before 13, which lack per-channel scales, become 17; computed shapes are folded for the size of `images`.

    Args:
        model: float32, one input.
        images: one picture, (1, 3, H, W) float32, normalised, for comparing results.

    Raises:
        ConfigError: onnxsim is needed and missing.
        ModelError: the model can't be converted or simplified, or its results change.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    fold_constants(changed)
    before = opset_of(changed)
    computes_shapes = any(node.op_type == "Shape" for node in changed.graph.node)
    if before >= FIRST_PER_CHANNEL_OPSET and not computes_shapes:
        return changed
    if computes_shapes:
        changed = _simplified(changed, images.shape)
    if before < FIRST_PER_CHANNEL_OPSET:
        try:
            changed = onnx.version_converter.convert_version(changed, _OPSET)
        except Exception as error:  # of no base but Exception
            raise ModelError(
                f"can't bring the model from opset {before} to {_OPSET}, which per-channel scales need "
                f"({_first_line(error)}): export it with opset {FIRST_PER_CHANNEL_OPSET} or later"
            ) from error
        changed.ir_version = max(changed.ir_version, 8)
        fold_constants(changed)
    for one, other in zip(_run(changed, images), _run(model, images), strict=True):
        apart = float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")
        if not apart <= _MAX_DIFFERENCE * max(1.0, float(np.abs(other).max(initial=0))):
            raise ModelError(
                f"simplified and brought to opset {_OPSET}, the model computes something else (by {apart:.3g}): export "
                f"it with opset {FIRST_PER_CHANNEL_OPSET} or later, and simplify it"
            )
    return changed


def _simplified(model: ModelProto, shape: tuple[int, ...]) -> ModelProto:
    """Returns the graph simplified for one input size, and for any batch where possible."""
    try:
        import onnxsim
    except ImportError as error:
        raise ConfigError(f"quantize needs {error.name}: pip install 'nanodet-streamer[quantize]'") from error
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, shape, strict=True):
        dimension.dim_value = size
    dimensions[0].dim_param = _BATCH
    del model.graph.value_info[:]
    for batch in (_BATCH, 1):
        if batch == 1:
            dimensions[0].dim_value = 1
        try:
            simplified, same = onnxsim.simplify(model, check_n=0)
        except Exception as error:  # of no base but Exception
            raise ModelError(f"onnxsim can't simplify the model: {_first_line(error)}") from error
        if same and not any(node.op_type == "Shape" for node in simplified.graph.node):
            break
    fold_constants(simplified)
    result: ModelProto = simplified
    return result


def _run(model: ModelProto, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[npt.NDArray[np.float32]] = session.run(None, {session.get_inputs()[0].name: images})
    return outputs


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
