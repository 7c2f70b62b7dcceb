"""Starts of an engine in a process of its own: until the first detection, and the GPU memory that it takes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.common.errors import EngineError, StreamerError

if TYPE_CHECKING:  # importing it would count into a start
    from streamer.cuda.engine import Binding, CudaEngine, Launch
    from streamer.cuda.gpu import Gpu
    from streamer.models.spec import ModelSpec

_CACHES = {"NANODET_STREAMER_CACHE": ".", "CUDA_CACHE_PATH": "driver", "TORCHINDUCTOR_CACHE_DIR": "torch"}
_REPLACED = ("TRITON_CACHE_DIR",)  # below PyTorch's, where it isn't set


@contextmanager
def caches_in(folder: Path) -> Iterator[None]:
    """Has this process, and those that it starts, keep whatever they compile or measure in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.pop(name, None) for name in (*_CACHES, *_REPLACED)}
    os.environ |= {name: str((folder / place).absolute()) for name, place in _CACHES.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def first_detection(model: Path, engine: str, device: str = "cuda") -> dict[str, float]:
    """Starts a process that opens a detector and detects in one picture.

    Returns:
        `start_s` from starting the process to the first detections, and of it `open_s` in `open_detector` and `first_s`
        for the picture.

    Raises:
        EngineError: the process fails.
    """
    return _answer("first", model, engine, device)


def footprint(model: Path, engine: str, batches: Sequence[int]) -> dict[str, Any]:
    """Starts a process that opens an engine alone and binds it, once for each batch size.

    Returns:
        For each batch size as text: `allocated_bytes` by the engine's allocator and `driver_bytes` more in use by the
        driver's account, both without the network's input and output; `launches`: kernels for a batch, None where
        they can't be counted.

    Raises:
        EngineError: the process fails.
    """
    return _answer("memory", model, engine, ",".join(map(str, batches)))


def _answer(task: str, model: Path, engine: str, detail: str) -> dict[str, Any]:
    """Runs this module as a program; adds `start_s`, the time until its answer."""
    command = [sys.executable, "-m", "benchmarks.gpu_start", task, str(model), engine, detail]
    with tempfile.TemporaryFile("w+") as errors:
        started_at_s = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("{")), "")
            start_s = time.perf_counter() - started_at_s
            process.stdout.read()
            status = process.wait()
        if status or not line:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["no message"]
            raise EngineError(
                f"{engine} with {model.name} in a process of its own ended with status {status}: {last[0]}"
            )
    found: dict[str, Any] = json.loads(line)
    return found | {"start_s": start_s}


def _first(model: str, engine: str, device: str) -> None:
    from streamer.detector import open_detector

    started_at_s = time.perf_counter()
    with open_detector(model, engine=engine, device=device) as detector:
        from streamer.detector.self_check import packaged_frame  # imports what opening imports beside the GPU's start

        opened_at_s = time.perf_counter()
        detector.submit(packaged_frame())
        detector.collect()
        done_at_s = time.perf_counter()
        print(json.dumps({"open_s": opened_at_s - started_at_s, "first_s": done_at_s - opened_at_s}), flush=True)


def _memory(name: str, engine: str, batches: str) -> None:
    import pycuda.driver as drv

    from streamer.cuda.gpu import NON_BLOCKING, Gpu
    from streamer.detector.cuda import load_engine
    from streamer.models.file import load_model
    from streamer.models.zoo import resolve_model

    path, spec = resolve_model(name)
    model = load_model(path, spec)
    sizes = [int(batch) for batch in batches.split(",")]
    found: dict[str, Any] = {"launches": None}
    with Gpu(0) as gpu:
        before = gpu.memory_used()
        loaded = load_engine(engine, model, gpu, "auto", max(sizes))
        with gpu.active():
            stream: Any = drv.Stream(NON_BLOCKING)
        for batch in sizes:
            with _bound(loaded, model.spec, gpu, batch, stream) as (_, buffers_bytes, allocated_bytes):
                own = _torch_bytes(gpu.index) if engine == "torch" else allocated_bytes
                found[str(batch)] = {"allocated_bytes": own, "driver_bytes": gpu.memory_used() - before - buffers_bytes}
            if engine == "torch":
                _torch_release()
        if engine == "torch":  # last: the profiler takes memory too
            with _bound(loaded, model.spec, gpu, sizes[0], stream) as (binding, _, _), gpu.active():
                found["launches"] = _torch_launches(binding.enqueue)
        with gpu.active():
            loaded.close()
            del stream
    print(json.dumps(found), flush=True)


@contextmanager
def _bound(
    engine: CudaEngine, spec: ModelSpec, gpu: Gpu, batch: int, stream: Any
) -> Iterator[tuple[Binding, int, int]]:
    """Binds an engine, captures its graph and runs it once.

    Yields:
        The binding, the bytes that its input and output take of the driver, and those that `gpu` counts for the engine.
    """
    from streamer.cuda.memory import DeviceBuffer

    width, height = spec.input_size_wh
    sizes = (
        batch * engine.input_pitch * width * height * engine.input_type.itemsize,
        batch * spec.num_points * spec.output_channels * engine.output_type.itemsize,
    )
    empty = gpu.memory_used()
    buffers = [DeviceBuffer(gpu, nbytes) for nbytes in sizes]
    gpu.synchronize()
    buffers_bytes = gpu.memory_used() - empty
    with gpu.active():
        binding = engine.bind(batch, buffers[0].address, buffers[1].address, int(stream.handle))
        launch: Launch | None = binding.capture(binding.enqueue) or binding.enqueue
        assert launch is not None
        launch()
        stream.synchronize()
    yield binding, buffers_bytes, gpu.device_bytes - sum(sizes)
    with gpu.active():
        stream.synchronize()
        launch = None  # a graph is freed before what it uses
        binding.close()
    for buffer in buffers:
        buffer.free()


def _torch_bytes(index: int) -> int:
    import torch

    return int(torch.cuda.memory_reserved(index))


def _torch_release() -> None:
    import torch

    torch.cuda.empty_cache()


def _torch_launches(body: Any) -> int | None:
    """Counts what PyTorch puts on the GPU in one run; None where its profiler sees nothing."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            body()
            torch.cuda.synchronize()
        counted = sum(event.device_type.name == "CUDA" for event in seen.events() or ())
    except RuntimeError:
        return None
    return counted or None


def main(arguments: Sequence[str] | None = None) -> int:
    """Does one task and prints its answer, one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_start", description=__doc__)
    parser.add_argument("task", choices=("first", "memory"))
    parser.add_argument("model", metavar="NAME|FILE")
    parser.add_argument("engine")
    parser.add_argument("detail", help="the device, or batch sizes with commas between")
    options = parser.parse_args(arguments)
    try:
        (_first if options.task == "first" else _memory)(options.model, options.engine, options.detail)
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
