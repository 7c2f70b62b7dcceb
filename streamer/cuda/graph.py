"""CUDA graphs, which PyCUDA lacks, through `cuda-bindings` where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from streamer.cuda.status import check


def capture(stream: int, body: Callable[[], None]) -> Callable[[], None] | None:
    """Records the work that `body` puts on a stream, without running it.

    Args:
        stream: a CUDA stream's handle; it stays the caller's.
        body: puts work on the stream.

    Returns:
        What launches the recorded work on the stream; it owns the graph. None where `cuda-bindings` isn't installed.

    Raises:
        EngineError: if something in `body` can't be recorded.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return None
    from cuda.bindings import driver

    handle = driver.CUstream(stream)
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    check("begin recording a graph", driver.cuStreamBeginCapture(handle, mode))
    try:
        body()
    except BaseException:
        driver.cuStreamEndCapture(handle)  # the stream must not stay in recording; what went wrong is on its way up
        raise
    graph = check("end recording a graph", driver.cuStreamEndCapture(handle))
    try:
        executable = check("instantiate a graph", driver.cuGraphInstantiate(graph, 0))
    finally:
        check("free a recorded graph", driver.cuGraphDestroy(graph))
    return _Graph(executable, handle)


class _Graph:
    """Owns an executable graph; calling it launches it."""

    def __init__(self, executable: object, stream: object) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._executable = executable
        self._stream = stream

    def __call__(self) -> None:
        check("launch a graph", self._driver.cuGraphLaunch(self._executable, self._stream))

    def __del__(self) -> None:
        self._driver.cuGraphExecDestroy(self._executable)
