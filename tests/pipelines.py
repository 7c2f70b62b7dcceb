"""Running pipelines in tests, so that a hang fails the test instead of the whole session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.runtime.pipeline import Pipeline
from streamer.runtime.report import RunReport
from streamer.runtime.stream import Stream
from tests.fakes import WAIT_S, wait_for


def fail_at(index: int, error: BaseException) -> Callable[[int], None]:
    def fault(at: int) -> None:
        if at == index:
            raise error

    return fault


def run_bounded(pipeline: Pipeline, **options: float) -> RunReport:
    """Runs a pipeline on a thread of its own to its end."""
    result, thread = _start(pipeline, **options)
    thread.join(WAIT_S)
    assert not thread.is_alive(), "the run hangs"
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def until_frames_wait(pipeline: Pipeline, count: int) -> None:
    """Waits until every stream that isn't at its end offers `count` frames, and all of them may go."""

    def is_waiting(stream: Stream) -> bool:
        frames = stream.inference.input
        return (len(frames.queue) >= count or frames.queue.is_closed) and frames.limit.available > 0

    wait_for(lambda: all(is_waiting(stream) for stream in pipeline.streams))


@contextmanager
def running(pipeline: Pipeline) -> Iterator[list[RunReport | BaseException]]:
    """Runs it on a thread of its own; stops it, and makes sure that it ends, at the end of the block."""
    result, thread = _start(pipeline)
    try:
        yield result
    finally:
        pipeline.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the run hangs"


def _start(pipeline: Pipeline, **options: float) -> tuple[list[RunReport | BaseException], threading.Thread]:
    result: list[RunReport | BaseException] = []

    def body() -> None:
        try:
            result.append(pipeline.run(**options))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return result, thread
