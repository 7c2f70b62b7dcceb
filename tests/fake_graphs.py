"""CUDA graphs on the fake GPUs: `cuda-bindings` as `streamer.cuda.engine.capture_graph` uses it."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest

from tests.fake_cuda import FakeCuda
from tests.fake_gpu import put_module


def install_graphs(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> list[int]:
    """Replaces `cuda-bindings`; returns a list that gets the number of operations in each graph that is launched."""
    launched: list[int] = []

    def begin(stream: int, mode: object) -> tuple[int]:
        cuda.recorded[stream] = []
        return (0,)

    def launch(graph: list[Callable[[], None]], stream: int) -> tuple[int]:
        launched.append(len(graph))
        for work in graph:
            work()
        return (0,)

    driver = types.SimpleNamespace(
        CUstream=int, CUstreamCaptureMode=types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
        cuStreamBeginCapture=begin, cuStreamEndCapture=lambda stream: (0, cuda.recorded.pop(stream)),
        cuGraphInstantiate=lambda graph, flags: (0, list(graph)), cuGraphDestroy=lambda graph: (0,),
        cuGraphLaunch=launch, cuGraphExecDestroy=lambda graph: (0,),
    )  # fmt: skip
    put_module(monkeypatch, "cuda", __path__=[])
    put_module(monkeypatch, "cuda.bindings", driver=driver)
    return launched
