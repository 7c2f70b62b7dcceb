"""Recognises the family of a file without a description by its graph.

Colour order and range are then those of the family's published models. NanoDet can't be recognised: its graph doesn't
show the anchor offset, nor whether pictures are padded.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from streamer.models.graph.shapes import dimensions
from streamer.models.spec import ModelSpec

_CLASSES = 80
_PADDLE = "Paddle"


def recognised(proto: ModelProto, name: str) -> ModelSpec | None:
    """Returns a description called `name` with COCO's labels, or None where the family isn't recognised."""
    family = _family(proto)
    return None if family is None else ModelSpec.from_mapping({"name": name, "family": family, "labels": "coco"}, name)


def _family(proto: ModelProto) -> str | None:
    constants = {constant.name for constant in proto.graph.initializer}
    inputs = {value.name: dimensions(value) for value in proto.graph.input if value.name not in constants}
    outputs = {value.name: dimensions(value) for value in proto.graph.output}
    last = sorted(shape[-1] if shape else 0 for shape in outputs.values())
    operators = {node.op_type for node in proto.graph.node}
    if len(outputs) == 3 and len(_integers(proto)) == 1 and "orig_target_sizes" in inputs:  # labels, boxes, scores
        return "d-fine"
    if last == [4, _CLASSES] and "TopK" in operators:  # selects the queries
        return "d-fine"
    if last == [32] * 4 + [_CLASSES] * 4 and _PADDLE in {opset.domain for opset in proto.opset_import}:
        return "picodet"
    if last == [5 + _CLASSES] and len(inputs) == 1:
        (image,), (output,) = inputs.values(), outputs.values()
        points = (
            sum(-(-image[2] // stride) * -(-image[3] // stride) for stride in (8, 16, 32)) if len(image) == 4 else 0
        )
        return "yolox" if len(output) == 3 and output[1] == points > 0 else None
    return None


def _integers(proto: ModelProto) -> list[str]:
    """Returns the outputs that are of whole numbers."""
    kinds = (TensorProto.INT32, TensorProto.INT64)
    return [value.name for value in proto.graph.output if value.type.tensor_type.elem_type in kinds]
