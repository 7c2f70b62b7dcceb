"""External weights: tensors in another file (`NAME.onnx.data`)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from streamer.common.errors import ModelError

_MOST_BYTES = 1 << 31
"""The limit of one ONNX file."""


def load_external_data(proto: ModelProto, path: Path) -> bytes:
    """Reads the external weights of the model in file `path`, in place; returns their bytes.

    Raises:
        ModelError: a file is outside the model's folder, missing or too short; the message continues the model's name.
    """
    read = []
    left = _MOST_BYTES
    for tensor in _tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            left -= _size(tensor)
            if left < 0:
                raise ModelError("keeps more than 2 GB of weights in other files: no NanoDet has as many")
            tensor.raw_data = _content(tensor, path.parent)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
            read.append(tensor.raw_data)
    return b"".join(read)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.TENSOR, AttributeProto.TENSORS):
                yield from (attribute.t, *attribute.tensors)
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            elif attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                for inner in (attribute.g, *attribute.graphs):
                    yield from _tensors(inner)


def _size(tensor: TensorProto) -> int:
    """Returns a tensor's size in bytes, from its shape and type."""
    try:
        bits = 4 if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4) else 0
        bits = bits or 8 * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"keeps the weight {tensor.name!r} of an unknown type in another file") from None
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"is damaged at its weight {tensor.name!r}: it has a negative size")
    return -(-prod(tensor.dims) * bits // 8)


def _content(tensor: TensorProto, folder: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        file = (folder / location).resolve()
        inside = bool(location) and file.is_relative_to(folder.resolve()) and not Path(location).is_absolute()
        found = inside and file.is_file()
    except (OSError, ValueError):
        inside = found = False
    if not inside:
        raise ModelError(
            f"keeps its weights in {location!r}, outside of its folder, where nothing is read; make it one file: "
            "onnx.save(onnx.load(...))"
        )
    if not found:
        raise ModelError(f"keeps its weights in another file, and {location!r} is not beside it: put it there")
    size = _size(tensor)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
        if offset < 0 or length != size:
            raise ValueError
        with file.open("rb") as opened:
            opened.seek(offset)
            content = opened.read(size)
    except OSError as error:
        raise ModelError(
            f"keeps its weights in {location!r}, which can't be read: {error.strerror or error}"
        ) from error
    except (ValueError, OverflowError):
        raise ModelError(f"is damaged: it doesn't say rightly where in {location!r} {tensor.name!r} is") from None
    if len(content) < size:
        raise ModelError(f"keeps its weights in {location!r}, which was cut short: get both files again")
    return content
