"""Small model files for the tests of the engine builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from streamer.models.file import ModelFile, load_model
from streamer.models.spec import ModelSpec
from tests.tiny import tiny_model, tiny_spec


def save(path: Path, proto: onnx.ModelProto, spec: ModelSpec | None = None) -> ModelFile:
    """Writes a graph with its description and reads it back as the runtime does."""
    helper.set_model_props(proto, (spec or tiny_spec()).to_metadata())
    onnx.save(proto, path)
    return load_model(path)


def float_model(path: Path, *, seed: int = 0) -> ModelFile:
    """The tiny network of `tests.tiny` in float32."""
    return save(path, tiny_model(tiny_spec(), seed=seed))


def quantized_graph(
    *, zero_point: int = 0, activation: Any = np.int8, bias: Any = np.float32, weight_zero_point: int = 0
) -> onnx.ModelProto:
    """The tiny network with Q/DQ around its convolutions: int8 weights per channel, a bias of type `bias`.

    Nodes are called ``q8``, ``dq8``, ``dqw8`` and ``dqb8`` for stride 8, and so on.
    """
    proto = tiny_model(tiny_spec())
    graph = proto.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.name.startswith("weight")}
    kept = [i for i in graph.initializer if i.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    nodes = []
    for node in graph.node:
        if node.op_type == "Conv":
            stride = node.input[1].removeprefix("weight")
            weight = weights[node.input[1]]
            channels = len(weight)
            scales = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / 127, 1e-6).astype(np.float32)
            rounded = np.round(weight / scales[:, None, None, None]).astype(np.int8)
            scale, zero = constant(f"s{stride}", np.float32(0.03)), constant(f"z{stride}", activation(zero_point))
            stored = [
                constant(f"wq{stride}", rounded),
                constant(f"ws{stride}", scales),
                constant(f"wz{stride}", np.full(channels, weight_zero_point, np.int8)),
            ]
            nodes += [
                helper.make_node("QuantizeLinear", ["images", scale, zero], [f"iq{stride}"], name=f"q{stride}"),
                helper.make_node("DequantizeLinear", [f"iq{stride}", scale, zero], [f"id{stride}"], name=f"dq{stride}"),
                helper.make_node("DequantizeLinear", stored, [f"w{stride}"], axis=0, name=f"dqw{stride}"),
            ]
            values = np.arange(channels).astype(bias)
            offset = constant(f"b{stride}", values)
            if values.dtype != np.float32:
                parts = [
                    offset,
                    constant(f"bs{stride}", np.full(channels, 1e-3, np.float32)),
                    constant(f"bz{stride}", np.zeros(channels, bias)),
                ]
                offset = f"bd{stride}"
                nodes.append(helper.make_node("DequantizeLinear", parts, [offset], axis=0, name=f"dqb{stride}"))
            del node.input[:]
            node.input.extend([f"id{stride}", f"w{stride}", offset])
            node.name = f"conv{stride}"
        nodes.append(node)
    kept_nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept_nodes)
    return proto
