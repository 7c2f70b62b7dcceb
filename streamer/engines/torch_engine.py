"""PyTorch on CUDA: the network rebuilt from an exported file, for GPU machines without TensorRT."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch._dynamo import config as _dynamo_config

from streamer.common.cache import cache_dir
from streamer.common.errors import ConfigError, EngineError, ModelError
from streamer.cuda.current_context import preserving_current
from streamer.cuda.engine import Binding, CudaEngine, Launch
from streamer.cuda.gpu import Gpu
from streamer.models.file import ModelFile
from streamer.models.graph.constants import Constants
from streamer.models.nanodet import NanoDet, build, fuse_batchnorm, load_into

log = logging.getLogger(__name__)

_TYPES = {"f16": torch.float16, "f32": torch.float32}
_WARM_UPS = 3
_SLOW_S = 2.0
_RECOMPILE_LIMIT = 256  # counts every engine and batch size of a process; the default is 8

_Run = Callable[[Tensor, Tensor], None]


class TorchEngine(CudaEngine):
    """Runs the network in PyTorch, channels last, with one CUDA graph for each binding.

    Convolutions are cuDNN's; where Triton is installed, `torch.compile` fuses everything between them.
    """

    name = "torch"
    channels_last = True

    def __init__(self, model: ModelFile, gpu: Gpu, *, precision: str = "auto") -> None:
        """Rebuilds the network from a file exported by this project; `precision` is f16, f32, or auto: f16."""
        if precision not in ("auto", *_TYPES):
            raise ConfigError(f"the torch engine computes in f16 or f32, not {precision}; use --precision auto")
        if not torch.cuda.is_available():
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
            raise EngineError(
                f"PyTorch {torch.__version__} (built for {built}) finds no CUDA: install the build for your driver"
            )
        self.precision = "f16" if precision == "auto" else precision
        self.input_type = self.output_type = np.dtype(f"f{_TYPES[self.precision].itemsize}")
        network = rebuild(model)
        self._device = torch.device("cuda", gpu.index)
        try:
            with gpu.active(), _on_device(self._device):
                points = Points(network).to(self._device, _TYPES[self.precision])
                points.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(f"not enough memory on {gpu.name} for {model.path.name}") from error
        self._run = compiled(points)
        if model.quantized:
            log.warning("%s holds INT8 weights; the torch engine dequantises them", model.path.name)
            self.precision += " (int8 weights dequantised)"
        self._spec = model.spec

    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> TorchBinding:
        width, height = self._spec.input_size_wh
        rows = (batch, self._spec.num_points, self._spec.output_channels)
        with _on_device(self._device):
            pixels = tensor_over(input_address, (batch, height, width, 3), self.output_type, self._device)
            output = tensor_over(output_address, rows, self.output_type, self._device)
            return TorchBinding(self._run, pixels.permute(0, 3, 1, 2), output, stream, self._device)

    def close(self) -> None:
        self._run = None  # type: ignore[assignment]
        with _on_device(self._device):
            torch.cuda.empty_cache()


class TorchBinding(Binding):
    """The network on one stream, between two buffers of the caller."""

    def __init__(self, run: _Run, images: Tensor, output: Tensor, stream: int, device: torch.device) -> None:
        super().__init__(stream)
        self._run = run
        self._images = images
        self._output = output
        self._device = device
        self._external = torch.cuda.ExternalStream(stream, device=device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        started_at_s = time.perf_counter()
        with _dynamo_config.patch(recompile_limit=_RECOMPILE_LIMIT):
            for _ in range(_WARM_UPS):  # compiles, and cuDNN tunes its algorithms: neither works during capture
                self.enqueue()
        self._external.synchronize()
        if (took_s := time.perf_counter() - started_at_s) > _SLOW_S:
            log.info("PyTorch compiled for batch %d in %.0f s", images.shape[0], took_s)

    def enqueue(self) -> None:
        try:
            with (
                _on_device(self._device),
                torch.inference_mode(),
                torch.cuda.stream(self._external),
                _cudnn_benchmark(),
            ):
                self._run(self._images, self._output)
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            raise EngineError(f"PyTorch failed: {str(error).strip().splitlines()[0]}") from error

    def capture(self, body: Launch) -> Launch | None:
        """Captures through PyTorch, whose allocator must take part."""
        try:
            with _on_device(self._device):
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self._external, capture_error_mode="thread_local"):
                    body()
        except RuntimeError as error:
            raise EngineError(f"PyTorch can't record a graph: {str(error).strip().splitlines()[0]}") from error
        self._graph = graph
        return self._replay

    def _replay(self) -> None:
        assert self._graph is not None, "replayed only after capture"
        try:
            with _on_device(self._device), torch.cuda.stream(self._external):
                self._graph.replay()
        except RuntimeError as error:
            raise EngineError(f"PyTorch failed: {str(error).strip().splitlines()[0]}") from error

    def close(self) -> None:
        if self._graph is not None:
            with _on_device(self._device):
                self._graph.reset()
            self._graph = None


@contextlib.contextmanager
def _on_device(device: torch.device) -> Iterator[None]:
    """Makes a GPU PyTorch's current one within the block, and keeps the thread's CUDA context.

    Whatever PyTorch runs on another GPU than its current one, it ends by making its current one's context current.
    """
    with preserving_current(), torch.cuda.device(device):
        yield


class Points(nn.Module):
    """The network, writing into a given output, scores after sigmoid."""

    def __init__(self, network: NanoDet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, output: Tensor) -> None:
        """Runs the network on (B, 3, H, W) normalised images; overwrites (B, N, channels) contiguous output."""
        network, head = self.network, self.network.head
        classes = network.spec.num_classes
        levels = network.fpn(network.backbone(images))
        rows = [  # channels are last in memory, so permute is free; transposing NanoDet.forward's output isn't
            predict(convs(level)).permute(0, 2, 3, 1).flatten(1, 2)
            for convs, predict, level in zip(head.cls_convs, head.gfl_cls, levels, strict=True)
        ]
        points = torch.cat(rows, dim=1)
        output.copy_(torch.cat((points[..., :classes].sigmoid(), points[..., classes:]), dim=2))


def compiled(points: Points) -> _Run:
    """Returns the network, compiled where Triton is installed: at the first run of each batch size."""
    if importlib.util.find_spec("triton") is None:
        log.info("Triton is not installed: without torch.compile the torch engine takes about 1.5 times as long")
        return points
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "torch"))
    return torch.compile(points, fullgraph=True, dynamic=False)


def rebuild(model: ModelFile) -> NanoDet:
    """Returns the network of a model file in float32 on the CPU, batch normalisation folded.

    Raises:
        ModelError: if the file doesn't describe the architecture or its weights have other names.
    """
    network = build(model.spec)
    fuse_batchnorm(network)
    own = network.state_dict()
    weights = {name: torch.from_numpy(array.copy()) for name, array in weights_by_name(model.proto, own).items()}
    try:
        load_into(network, weights)
    except ModelError as error:
        raise ModelError(
            f"{str(model.path)!r}: {error}; the torch engine needs a file of `python -m calibration export`"
        ) from error
    return network.requires_grad_(False)


def weights_by_name(proto: onnx.ModelProto, wanted: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the graph's constants under the names `wanted`, INT8 ones dequantised.

    A weight is a constant of that name, of any floating type, or the result of quantising and dequantising one: the
    names that quantisers generate contain the weight's own.
    """
    constants = Constants(proto)
    found = {name: constants.get(name) for name in wanted if name in constants}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or node.output[0] not in constants:
            continue
        places = (constants.origin(node.input[0]), node.input[0], node.output[0])
        names = [name for name in wanted if any(name in place for place in places)]
        if names:
            found[max(names, key=len)] = constants.get(node.output[0])
    return {name: array.astype(np.float32) for name, array in found.items() if array is not None}


def tensor_over(address: int, shape: tuple[int, ...], dtype: np.dtype[np.floating], device: torch.device) -> Tensor:
    """Returns a tensor over the caller's memory."""
    interface = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3, "strides": None}
    holder = type("DeviceArray", (), {"__cuda_array_interface__": interface})()
    return torch.as_tensor(holder, device=device)


def _cudnn_benchmark() -> Any:
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
