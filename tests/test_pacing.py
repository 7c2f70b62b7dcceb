"""Frames at their own time, whatever their time stamps say."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

from streamer.frames.frame import Frame
from streamer.sources import pacing
from streamer.sources.pacing import Pacer

PIXELS = np.zeros((2, 2, 3), np.uint8)


class Clock(threading.Event):
    """A stop event and the clock beside it, which goes on by what is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_s = 100.0
        monkeypatch.setattr(pacing, "time", self)

    def perf_counter(self) -> float:
        return self.now_s

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None and 0 <= timeout <= threading.TIMEOUT_MAX
        self.now_s += timeout
        return False


def test_no_frame_is_waited_for_longer_than_a_moment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, pacer = Clock(monkeypatch), Pacer()
    times_s = [0.0, 0.5, 10.4, 36_000.0, 36_000.5, 1e300, 1e300]
    with caplog.at_level(logging.WARNING):
        shown = [pacer.wait(Frame(PIXELS, "x", n, at_s, 0.0), clock) for n, at_s in enumerate(times_s)]
    captured = [frame.captured_at_s - 100.0 for frame in shown]
    assert captured[:5] == pytest.approx([0.0, 0.5, 10.4, 20.4, 20.9])
    assert captured[5:] == pytest.approx([30.9, 30.9])
    assert [frame.pts_s for frame in shown] == times_s
    assert [record.getMessage() for record in caplog.records] == [
        "source 'x': its next frame is 35990 s later, by its time stamp; it is shown after 10 s"
    ]


def test_a_stop_ends_the_wait() -> None:
    pacer, stop = Pacer(), threading.Event()
    stop.set()
    began_s = time.perf_counter()
    for pts_s in (0.0, 5.0, 1e12):
        pacer.wait(Frame(PIXELS, "x", 0, pts_s, 0.0), stop)
    assert stop.is_set() and time.perf_counter() - began_s < 5.0
