"""Which frames count as processed, dropped late, or neither, whatever order the sinks come to them in."""

from __future__ import annotations

import time

import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.common.queues import BoundedQueue, OverflowPolicy
from streamer.common.stats import StageTimes, StreamStats
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.failure_policy import FailurePolicy
from streamer.runtime.sink_worker import FrameDelivery, SinkWorker
from tests.fakes import MemorySink, no_fault


class Outputs:
    """Two sinks of one stream, each with a queue for one frame that drops the oldest; written when the test says so."""

    def __init__(self, *, broken: bool = False) -> None:
        def fail(_: int) -> None:
            raise SinkError("disk full")

        self.stats, self.times = StreamStats(), StageTimes()
        self.stops = 0
        self.failures = FailurePolicy("camera", 2, self._stop)
        self.workers = [
            SinkWorker(
                name,
                MemorySink(before=fail if broken and name == "a" else no_fault),
                BoundedQueue(1, OverflowPolicy.DROP_OLDEST),
                self.stats,
                self.times,
                self.failures,
            )
            for name in "ab"
        ]

    def deliver(self, *, is_new: bool = True) -> FrameDelivery:
        """Offers one frame to both sinks."""
        frame = Frame(np.zeros((2, 2, 3), np.uint8), "camera", 0, 0.0, time.perf_counter())
        delivery = FrameDelivery(frame, {}, Detections.empty(), 2, is_new=is_new)
        for worker in self.workers:
            worker.offer(delivery)
        return delivery

    def write(self, number: int) -> None:
        """Has a sink write what waits for it."""
        worker = self.workers[number]
        assert worker.run_once(0.0, may_linger=False)

    @property
    def counts(self) -> tuple[int, int]:
        """Frames processed and frames dropped late."""
        return self.stats.processed, self.stats.dropped_late

    def _stop(self) -> None:
        self.stops += 1


def test_a_frame_that_reached_every_sink_is_processed() -> None:
    outputs = Outputs()
    outputs.deliver()
    outputs.write(0)
    assert outputs.counts == (0, 0)
    outputs.write(1)
    assert outputs.counts == (1, 0)
    assert set(outputs.times.summary()) == {"write a", "write b"}


@pytest.mark.parametrize("late", [0, 1])
def test_a_frame_that_is_late_for_one_sink_is_not_processed_though_the_other_writes_it_first(late: int) -> None:
    outputs = Outputs()
    outputs.deliver()
    outputs.write(1 - late)
    outputs.deliver()  # the first is dropped for it
    assert outputs.counts == (0, 1)
    outputs.write(0)
    outputs.write(1)
    assert outputs.counts == (1, 1)


@pytest.mark.parametrize("late", [0, 1])
def test_a_frame_that_is_late_for_one_sink_is_not_processed_though_the_other_writes_it_later(late: int) -> None:
    outputs = Outputs()
    first = outputs.deliver()
    outputs.workers[1 - late].queue.get(0)
    outputs.deliver()  # the first is dropped for one sink, while the other has it in hand
    assert outputs.counts == (0, 1)
    outputs.workers[1 - late].write(first)
    assert outputs.counts == (0, 1)


def test_a_frame_that_is_late_for_both_sinks_is_dropped_once() -> None:
    outputs = Outputs()
    outputs.deliver()
    outputs.deliver()
    assert outputs.counts == (0, 1)


def test_a_frame_that_is_shown_again_counts_nowhere() -> None:
    outputs = Outputs()
    outputs.deliver(is_new=False)
    outputs.deliver(is_new=False)
    outputs.write(0)
    outputs.write(1)
    assert outputs.counts == (0, 0)


def test_a_frame_counts_though_one_sink_fails() -> None:
    outputs = Outputs(broken=True)
    outputs.deliver()
    assert not outputs.workers[0].run_once(0.0, may_linger=False)
    outputs.write(1)
    assert outputs.counts == (1, 0)
    assert [(name, str(error)) for name, error in outputs.failures.errors] == [("a", "disk full")]
    outputs.workers[0].fail(SinkError("again"))  # is told once
    assert (len(outputs.failures.errors), outputs.stops) == (1, 0)
    outputs.deliver()
    assert outputs.counts == (1, 0)
    outputs.workers[1].fail(SinkError("full too"))
    assert (len(outputs.failures.errors), outputs.stops) == (2, 1)
    assert outputs.counts == (1, 0)
