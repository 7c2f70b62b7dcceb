"""The live figures: what they say, how often they change, and when they are news."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from streamer.app.config import StreamConfig
from streamer.common.clock_zone import ClockZone
from streamer.common.errors import ConfigError
from streamer.frames.frame import Frame
from streamer.runtime import overlay as overlays
from streamer.runtime.overlay import REFRESH_S, Overlay, StreamStatus, stamp

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


def test_news_are_one_line(camera: Camera) -> None:
    overlay = Overlay("x", lambda: camera.status)
    assert overlay.news() is None
    camera.status = replace(WELL, preempted=1)
    assert overlay.news() == "preempted"
    camera.status = replace(WELL, lost_s=12.0)
    assert overlay.news() == "reconnecting (12 s)"


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


@pytest.mark.parametrize(
    ("pts_s", "shown"),
    [(0.0, "0:00:00.0"), (0.3, "0:00:00.3"), (59.96, "0:00:59.9"), (83.4, "0:01:23.4"), (36_610.0, "10:10:10.0")],
)
def test_the_stamp_of_a_file_is_its_position(pts_s: float, shown: str) -> None:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), "clip", 0, pts_s, 1.0)
    assert stamp(frame, ClockZone("utc"), live=False, name="clip") == f"{shown}  clip"
    assert stamp(frame, ClockZone("utc"), live=False, name=None) == shown


def test_the_stamp_of_a_camera_is_when_the_frame_was_captured() -> None:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), "door", 0, 5.0, time.perf_counter() - 3600)
    shown = datetime.strptime(stamp(frame, ClockZone("utc"), live=True, name="door"), "%Y-%m-%d %H:%M:%S UTC  door")
    assert abs((datetime.now(UTC).replace(tzinfo=None) - shown).total_seconds() - 3600) < 60


MOMENT = datetime(2026, 7, 1, 22, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("utc", "2026-07-01 22:30:05 UTC"),
        ("UTC", "2026-07-01 22:30:05 UTC"),
        ("Europe/Berlin", "2026-07-02 00:30:05 CEST"),
        ("Asia/Kathmandu", "2026-07-02 04:15:05 UTC+0545"),
    ],
)
def test_a_clock_names_its_zone(zone: str, shown: str) -> None:
    assert ClockZone.parse(zone).clock(MOMENT) == shown


def test_the_local_clock_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5EDT,M3.2.0,M11.1.0")
    time.tzset()
    try:
        assert ClockZone.parse("local").clock(MOMENT) == "2026-07-01 18:30:05 EDT"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "/etc/passwd", "../x", "yes", "a\0b", "x" * 5000])
def test_a_zone_that_isnt_there_is_a_wrong_option(zone: str) -> None:
    with pytest.raises(ConfigError, match="there is no time zone .*: use utc, local, or a name such as Europe/Berlin"):
        ClockZone.parse(zone)


@pytest.mark.parametrize(
    ("values", "overlay", "zone"),
    [({}, None, None), ({"overlay": True, "timestamp": "local"}, True, "local"), ({"overlay": False}, False, None)],
)
def test_the_configuration_says_what_is_drawn(
    values: dict[str, object], overlay: bool | None, zone: str | None
) -> None:
    config = StreamConfig.model_validate(values)
    assert config.overlay is overlay
    assert config.timestamp == (None if zone is None else ClockZone(zone))


def test_a_source_may_have_its_own_zone_and_overlay() -> None:
    config = StreamConfig.model_validate(
        {
            "source": {"a": {"uri": "a.mp4", "overlay": False, "timestamp": "Asia/Tokyo"}, "b": "b.mp4"},
            "overlay": True,
            "timestamp": "utc",
        }
    )
    of = {name: config.overrides_for(name) for name in "ab"}
    assert [(one.overlay, one.timestamp) for one in of.values()] == [
        (False, ClockZone("Asia/Tokyo")), (True, ClockZone("utc"))
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="there is no time zone .Mars."):
        StreamConfig.model_validate({"source": {"a": {"uri": "a.mp4", "timestamp": "Mars"}}})
