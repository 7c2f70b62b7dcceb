"""NCNN's two files, written from an ONNX network of `tests.quantized`, or layer by layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

HALF, PLAIN, TABLE = "half", "plain", "table"


class NcnnFile:
    """Collects layers and their weights."""

    def __init__(self, storage: str = PLAIN) -> None:
        self._storage = storage
        self._lines: list[str] = []
        self._blobs: set[str] = set()
        self._weights = b""

    def layer(self, kind: str, inputs: list[str], outputs: list[str], **values: Any) -> None:
        """Adds a layer; `values` are its parameters, p0, p1, ..., an array as a list."""
        words = [kind, f"{kind}_{len(self._lines)}", str(len(inputs)), str(len(outputs)), *inputs, *outputs]
        for key, value in values.items():
            number = int(key[1:])
            if isinstance(value, list):
                words.append(f"{-23300 - number}={len(value)}," + ",".join(map(str, value)))
            else:
                words.append(f"{number}={value}")
        self._lines.append(" ".join(words))
        self._blobs.update(outputs)

    def plain(self, values: Any) -> None:
        """Adds numbers as float32."""
        self._weights += np.ascontiguousarray(values, "<f4").tobytes()

    def tagged(self, values: Any) -> None:
        """Adds a layer's weight, stored as the file stores them."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if self._storage == HALF:
            content = flat.astype("<f2").tobytes()
            self._weights += (0x01306B47).to_bytes(4, "little") + content + b"\0" * (-len(content) % 4)
        elif self._storage == TABLE:
            table = np.linspace(flat.min(), flat.max(), 256, dtype=np.float32)
            places = np.abs(flat[:, None] - table).argmin(axis=1).astype(np.uint8).tobytes()
            self._weights += b"\1\0\0\0" + table.tobytes() + places + b"\0" * (-len(places) % 4)
        else:
            self._weights += b"\0\0\0\0"
            self.plain(flat)

    def write(self, path: Path) -> Path:
        """Writes both files, and returns that of the layers."""
        path.write_text("\n".join(["7767517", f"{len(self._lines)} {len(self._blobs)}", *self._lines]) + "\n")
        path.with_suffix(".bin").write_bytes(self._weights)
        return path


def from_onnx(model: onnx.ModelProto, path: Path, storage: str = PLAIN, *, rows: bool = True) -> Path:
    """Writes what `tests.quantized.network` makes as older exporters do, scores after a sigmoid.

    Args:
        model: the network.
        path: the ``.param`` file.
        storage: how weights are stored.
        rows: whether outputs are (points, channels), rather than (channels, height, width).
    """
    file = NcnnFile(storage)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    file.layer("Input", [], ["images"])
    left = {name: [f"{name}_{place}" for place in range(count)] for name, count in _readers(model).items() if count > 1}
    for node in model.graph.node:
        given = [left[name].pop() if name in left else name for name in node.input]
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        made = [node.output[0]]
        if node.op_type == "Conv":
            weight = weights[node.input[1]]
            pad, stride = attributes["pads"][0], attributes.get("strides", [1, 1])[0]
            values = {"p0": len(weight), "p1": weight.shape[2], "p3": stride, "p4": pad, "p5": 1, "p6": weight.size}
            file.layer("Convolution", given[:1], made, **values)
            file.tagged(weight)
            file.plain(weights[node.input[2]])
        elif node.op_type == "LeakyRelu":
            file.layer("ReLU", given[:1], made, p0=attributes["alpha"])
        elif node.op_type == "MaxPool":
            file.layer("Pooling", given[:1], made, p0=0, p1=2, p2=2, p5=1)
        elif node.op_type == "Resize":
            file.layer("Interp", given[:1], made, p0=1, p1=2.0, p2=2.0)
        elif node.op_type == "Add":
            file.layer("BinaryOp", given, made, p0=0)
        else:
            file.layer("Concat", given, made, p0=0)
        if made[0] in left:
            file.layer("Split", made, left[made[0]][:])
    for value in model.graph.output:
        name, channels = value.name, value.type.tensor_type.shape.dim[1].dim_value
        last = name
        if name.startswith("cls"):
            file.layer("Sigmoid", [name], [last := f"{name}.sigmoid"])
        if rows:
            file.layer("Reshape", [last], [f"{name}.flat"], p0=-1, p1=channels)
            file.layer("Permute", [f"{name}.flat"], [f"{name}.rows"], p0=1)
    return file.write(path)


def _readers(model: onnx.ModelProto) -> Counter[str]:
    return Counter(name for node in model.graph.node for name in node.input)
