"""The live figures: what they say, how often they change, and when they are news."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamer.runtime import overlay as overlays
from streamer.runtime.overlay import REFRESH_S, Overlay, StreamStatus

WELL = StreamStatus(None, captured=10, processed=9, dropped=1, preempted=0, fps=25.04, latency_ms=(12.4, 30.6))


class Camera:
    """A status and a clock, both as the test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status, self.now_s = WELL, 100.0
        monkeypatch.setattr(overlays, "time", self)

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    return Camera(monkeypatch)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "25.0 FPS  12 / 31 ms p50 / p95"),
        ({"fps": 0.0}, "waiting  12 / 31 ms p50 / p95"),
        ({"fps": 0.0, "processed": 0, "latency_ms": None}, "starting"),
        ({"lost_s": 12.3}, "reconnecting (12 s)"),
        ({"lost_s": 12.3, "captured": 0}, "connecting (12 s)"),
        ({"preempted": 1}, "25.0 FPS  12 / 31 ms p50 / p95  preempted"),
    ],
)
def test_what_it_says(changes: dict[str, object], line: str, camera: Camera) -> None:
    overlay = Overlay("openvino int8", lambda: replace(WELL, **changes))
    assert overlay.lines(is_lost="lost_s" in changes) == (line, "1 dropped  openvino int8")


def test_it_changes_a_few_times_a_second_or_when_the_source_is_lost_or_back(camera: Camera) -> None:
    overlay = Overlay("x", lambda: camera.status)
    first = overlay.lines(is_lost=False)
    camera.status = replace(WELL, fps=5.0)
    camera.now_s += REFRESH_S * 0.9
    assert overlay.lines(is_lost=False) == first
    camera.now_s += REFRESH_S * 0.2
    assert overlay.lines(is_lost=False)[0].startswith("5.0 FPS")
    camera.status = replace(WELL, lost_s=1.0)
    assert overlay.lines(is_lost=True)[0] == "reconnecting (1 s)"
    camera.status = WELL
    assert overlay.lines(is_lost=False) == first


def test_a_lost_source_is_news_and_a_preempted_one_for_two_seconds(camera: Camera) -> None:
    overlay = Overlay("x", lambda: camera.status)
    assert not overlay.has_news()
    camera.status = replace(WELL, lost_s=0.0)
    assert overlay.has_news()
    camera.status = replace(WELL, preempted=3)
    assert overlay.has_news()
    camera.now_s += 1.9
    assert overlay.has_news()
    camera.now_s += 0.2
    assert not overlay.has_news()


def test_without_an_engine_to_name_there_is_none(camera: Camera) -> None:
    camera.status = replace(WELL, lost_s=1.0)
    overlay = Overlay(None, lambda: camera.status)
    assert overlay.lines(is_lost=True) == ()
    assert not overlay.has_news()
