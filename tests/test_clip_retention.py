"""Old clips are deleted with what is beside them and their rows; a simulated day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.clips import sink as sink_module
from streamer.sinks.clips.clip import parse_name
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.sink import ClipSink
from streamer.sinks.clips.timing import ClipTiming
from streamer.sinks.clips.trigger import LabelTrigger
from streamer.sinks.options import Retention
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sources.base import SourceInfo
from tests.clip_files import NOON
from tests.media import picture

HOUR_S, EVERY_S, FPS = 3600.0, 600.0, 3
CAT = Detections(np.array([[10, 10, 60, 50]], np.float32), np.array([0.9], np.float32), np.array([0]))
NOTHING = Detections.empty()


@contextmanager
def day(folder: Path, retain: Retention, now: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[ClipSink]:
    """Opens clips of a run whose clocks are both `now`."""
    monkeypatch.setattr(sink_module, "captured_utc", lambda frame: NOON + timedelta(seconds=frame.pts_s))
    retention = SegmentRetention(retain, clock=lambda: NOON.timestamp() + now[0], run_clock=lambda: now[0])
    live = SourceInfo("door", "door", fps=FPS, live=True)
    with (
        ClipFolder(folder, retention=retention, paths=OutputPaths()) as opened,
        ClipSink(
            opened, live, labels=("cat",), trigger=LabelTrigger(("cat",), None, 1), timing=ClipTiming(1.0, 1.0),
            clock=lambda: now[0],
        ) as sink,
    ):  # fmt: skip
        yield sink


def event_at(sink: ClipSink, begin_s: float, now: list[float]) -> None:
    """Plays six seconds of a camera, with an object in the third."""
    for number in range(6 * FPS):
        now[0] = begin_s + number / FPS
        frame = Frame(picture(number), "door", round(now[0] * FPS), now[0], 0.0)
        sink.write(frame, CAT if 2 * FPS <= number < 3 * FPS else NOTHING)


def files_and_rows(sink: ClipSink) -> tuple[dict[str, int], set[str]]:
    folder = sink._folder
    folder.forget_deleted()
    folder.index.flush()
    files = {path.name: path.stat().st_size for path in folder.path.iterdir() if parse_name(path.name)}
    return files, {clip.id for clip in folder.index.find(limit=None)}


@pytest.mark.slow
def test_clips_of_a_day_are_kept_for_as_long_as_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with day(tmp_path / "clips", Retention(age_s=2 * HOUR_S), now, monkeypatch) as sink:
        for number in range(int(24 * HOUR_S / EVERY_S)):
            event_at(sink, number * EVERY_S, now)
            if number % 12 == 11:
                files, rows = files_and_rows(sink)
                assert {parse_name(name).id for name in files} == rows  # type: ignore[union-attr]
                begun = sorted((parse_name(name).begin_utc - NOON).total_seconds() for name in files)  # type: ignore[union-attr]
                assert now[0] - 2 * HOUR_S - EVERY_S <= begun[0] <= now[0] - 2 * HOUR_S + EVERY_S or number < 13
                assert len(files) == 4 * len(rows)
        assert sink.clips == 24 * HOUR_S / EVERY_S


@pytest.mark.slow
def test_clips_of_a_day_stay_within_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most_bytes = [0.0], 300_000
    with day(tmp_path / "clips", Retention(size_bytes=most_bytes), now, monkeypatch) as sink:
        for number in range(int(24 * HOUR_S / EVERY_S)):
            event_at(sink, number * EVERY_S, now)
            if number % 12 == 11:
                assert sink._folder.retention is not None
                sink._folder.retention.prune()
                files, rows = files_and_rows(sink)
                assert sum(files.values()) <= most_bytes
                assert {parse_name(name).id for name in files} == rows  # type: ignore[union-attr]
        assert 5 < len(rows) < sink.clips


def test_a_clip_that_is_deleted_by_hand_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with day(tmp_path / "clips", Retention(age_s=HOUR_S), now, monkeypatch) as sink:
        for number in range(2):
            event_at(sink, number * EVERY_S, now)
        sink._folder.index.flush()
        newest, oldest = sink._folder.index.find()
        oldest.video.unlink()
        files, rows = files_and_rows(sink)
        assert rows == {newest.id} and set(files) == {path.name for path in newest.files}
