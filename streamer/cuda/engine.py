"""The interface of GPU engines: normalised input to raw output, both in device memory, on a given stream."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np

from streamer.cuda.status import check, find_bindings

Launch = Callable[[], None]


class Binding(abc.ABC):
    """An engine bound to one stream, one pair of buffers and one batch size; independent of other bindings."""

    def __init__(self, stream: int) -> None:
        self.stream = stream

    @abc.abstractmethod
    def enqueue(self) -> None:
        """Puts the network's work on the stream and returns at once."""

    def capture(self, body: Launch) -> Launch | None:
        """Records what `body` puts on the stream as a CUDA graph; see `capture_graph`."""
        return capture_graph(self.stream, body)

    @abc.abstractmethod
    def close(self) -> None:
        """Frees what belongs to this binding alone. Safe to call twice."""


class CudaEngine(abc.ABC):
    """A network on a GPU, which any number of bindings run in parallel.

    The buffers belong to the caller. The input is (batch, 3, H, W), normalised, laid out as NCHW, or as NHWC where
    `channels_last`; the output is (batch, N, channels), contiguous, scores after sigmoid. An int8 input is
    round(x / `input_scale`) + `input_zero_point`.

    Attributes:
        name: such as ``tensorrt``.
        precision: what most of the network is computed in.
        input_type: float16, float32 or int8.
        output_type: float16 or float32.
        channels_last: whether the input is NHWC in memory.
        input_pitch: values from pixel to pixel of an NHWC input; those behind the third are 0.
        input_scale: of an int8 input.
        input_zero_point: of an int8 input.
    """

    name: str
    precision: str
    input_type: np.dtype[np.floating] | np.dtype[np.int8]
    output_type: np.dtype[np.floating]
    channels_last: bool
    input_pitch: int = 3
    input_scale: float = 1.0
    input_zero_point: int = 0

    @abc.abstractmethod
    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> Binding:
        """Binds `batch` pictures to these device addresses and this stream, and warms up."""

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the network; its bindings must be closed before. Safe to call twice."""


def capture_graph(stream: int, body: Launch) -> Launch | None:
    """Records the work that `body` puts on a stream as a CUDA graph, through `cuda-bindings`, without running it.

    Returns:
        A function that launches the graph on the stream and owns it; None where `cuda-bindings` isn't installed.
    """
    driver = find_bindings()
    if driver is None:
        return None
    handle = driver.CUstream(stream)
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    check("begin recording a graph", driver.cuStreamBeginCapture(handle, mode))
    try:
        body()
    except BaseException:
        driver.cuStreamEndCapture(handle)  # the stream must not stay in recording mode
        raise
    graph = check("end recording a graph", driver.cuStreamEndCapture(handle))
    try:
        executable = check("instantiate a graph", driver.cuGraphInstantiate(graph, 0))
    finally:
        check("free a recorded graph", driver.cuGraphDestroy(graph))
    return _Graph(driver, executable, handle)


class _Graph:
    """Owns an executable graph; calling it launches it."""

    def __init__(self, driver: Any, executable: object, stream: object) -> None:
        self._driver, self._executable, self._stream = driver, executable, stream

    def __call__(self) -> None:
        check("launch a graph", self._driver.cuGraphLaunch(self._executable, self._stream))

    def __del__(self) -> None:
        self._driver.cuGraphExecDestroy(self._executable)
