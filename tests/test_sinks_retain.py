"""Retention: the oldest segments are deleted first, and no other file."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.frames.frame import Frame
from streamer.sinks.jsonl import JsonlSegmentsSink
from streamer.sinks.options import Encoding, Retention
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.video.sink import VideoSegmentsSink
from tests.recordings import NOTHING, even, frames, info, read
from tests.test_sinks_video_broken import noise

OUTPUT = "out.v2.mp4"  # a dot in the stem: a pattern must take it as it is


BEGUN_S = datetime(2026, 1, 23, tzinfo=UTC).timestamp()  # what names count from


def stamped(number: int, stem: str = "out.v2", ending: str = ".mp4") -> str:
    return f"{stem}-20260123T{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}.{number % 1000:03d}Z{ending}"


STRANGERS = (
    "out.v2.mp4",
    "out.v2-.mp4",
    "out.v2-holiday.mp4",
    "out.v2-20260123T090000Z.mp4",
    "out.v2-20260123T090000.000Z.mp4.part",
    "out.v2-20260123T090000.000Z.mkv",
    "out.v2-20260123T090000.000Z.MP4",
    "out.v2-20260123T090000.000Z-2.mp4",
    "out.v2-20260123T090000.000Z.mp4\n",
    "out.v2-20260123T٠٩٠٠٠٠.٠٠٠Z.mp4",
    "outxv2-20260123T090000.000Z.mp4",
    "another-out.v2-20260123T090000.000Z.mp4",
    ".out.v2-20260123T090000.000Z.mp4",
    "out-20260123T090000.000Z.mp4",
    "OUT.V2-20260123T090000.000Z.mp4",
    "out.v2-20260123T090000000Z.mp4",
)


@dataclass(frozen=True)
class Entry:
    """Something in the folder: a file with a size and an age, a link or a folder."""

    name: str
    kind: str
    size: int
    age_s: float


@st.composite
def folders(draw: st.DrawFn) -> list[Entry]:
    numbers = draw(st.lists(st.integers(0, 80_000), unique=True, max_size=10))
    strangers = draw(st.lists(st.sampled_from(STRANGERS), unique=True, max_size=6))
    kinds = st.sampled_from(["file"] * 6 + ["link", "folder"])
    sizes, ages_s = st.integers(0, 500), st.integers(0, 200)
    own = [Entry(stamped(number), draw(kinds), draw(sizes), draw(ages_s)) for number in numbers]
    return own + [Entry(name, draw(kinds), draw(sizes), draw(ages_s)) for name in strangers]


def make(folder: Path, entries: list[Entry]) -> None:
    target = folder.parent / "target"
    target.write_bytes(b"x" * 1000)
    now_s = time.time()
    for entry in entries:
        path = folder / entry.name
        if entry.kind == "link":
            path.symlink_to(target)
        elif entry.kind == "folder":
            path.mkdir()
            (path / stamped(1)).write_bytes(b"x" * 1000)
        else:
            path.write_bytes(b"x" * entry.size)
            os.utime(path, (now_s, now_s - entry.age_s))


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=folders(), limit=st.integers(1, 1500), by_age=st.booleans(), open_number=st.integers(0, 20))
def test_only_the_right_files_go_and_the_oldest_first(
    entries: list[Entry], limit: int, by_age: bool, open_number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("retention") / "folder"
    folder.mkdir()
    make(folder, entries)
    own = sorted((e for e in entries if e.name not in STRANGERS and e.kind == "file"), key=lambda e: e.name)
    open_one = own[open_number].name if open_number < len(own) else None
    before = listed(folder)

    age_s = limit % 200 + 0.5  # ages are whole seconds: none is at the limit
    retain = Retention(age_s=age_s) if by_age else Retention(size_bytes=limit)
    retention = SegmentRetention(retain)
    retention.add(folder / OUTPUT)
    if open_one is not None:
        retention.begin(folder / open_one)
    retention.prune()

    total = sum(e.size for e in own)
    wanted = []
    for entry in own:
        if entry.name != open_one and (entry.age_s > age_s if by_age else total > limit):
            wanted.append(entry.name)
            total -= entry.size
    assert listed(folder) == before - set(wanted)
    assert (folder.parent / "target").stat().st_size == 1000
    shutil.rmtree(folder.parent)


class Clocks:
    """The system's clock and that of the run, which go together unless one is set."""

    def __init__(self, now_s: float = BEGUN_S + 86_400) -> None:
        self.now_s, self.run_s = now_s, 1000.0

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds
        self.run_s += seconds

    def retention(self, retain: Retention) -> SegmentRetention:
        return SegmentRetention(retain, clock=lambda: self.now_s, run_clock=lambda: self.run_s)


def write_old(folder: Path, number: int, size: int, age_s: float = 0.0) -> Path:
    path = folder / stamped(number, "out")
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_segments_of_earlier_runs_count_and_the_open_one_too(tmp_path: Path) -> None:
    old = [write_old(tmp_path, number, 400_000) for number in range(5)]
    sink = VideoSegmentsSink(tmp_path / "out.mkv", info(), 2.0, SegmentRetention(Retention(size_bytes=900_000)))
    with sink:
        sink.write(next(noise(1)), NOTHING)
    assert all(path.exists() for path in old), "they end in .mp4, so they are another output's"
    retention = SegmentRetention(Retention(size_bytes=900_000))
    sink = VideoSegmentsSink(tmp_path / "out.mp4", info(), 2.0, retention, encoding=Encoding(crf=14))
    pictures = list(noise(150))
    sink.write(pictures[0], NOTHING)
    assert [path.exists() for path in old] == [False, False, False, True, True]
    for frame in pictures[1:61]:
        sink.write(frame, NOTHING)
    open_size = max(path.stat().st_size for path in tmp_path.glob("out-2*.mp4") if path not in old)
    assert open_size > 500_000
    for frame in pictures[61:]:
        sink.write(frame, NOTHING)
    sink.close()
    left = list(tmp_path.glob("out-*.mp4"))
    assert not set(left) & set(old)
    assert sum(path.stat().st_size for path in left) <= 900_000 or len(left) == 1


def test_by_age_those_go_that_ended_too_long_ago(tmp_path: Path) -> None:
    old = [write_old(tmp_path, n, 10, age_s) for n, age_s in enumerate([500.0, 50.0, 500.0, 5.0])]
    with VideoSegmentsSink(tmp_path / "out.mp4", info(), 60.0, SegmentRetention(Retention(age_s=100))) as sink:
        for frame in frames(even(5)):
            sink.write(frame, NOTHING)
        assert [path.exists() for path in old] == [False, True, False, True]
        assert len(sink.written) == 1


def test_old_segments_are_deleted_every_ten_seconds_while_one_is_written(tmp_path: Path) -> None:
    clocks = Clocks()
    retention = clocks.retention(Retention(size_bytes=100))
    with VideoSegmentsSink(tmp_path / "out.mp4", info(), 3600.0, retention) as sink:
        pictures = frames(even(100))
        sink.write(next(pictures), NOTHING)
        old = write_old(tmp_path, 1, 1000)
        clocks.pass_by(9.9)
        sink.write(next(pictures), NOTHING)
        assert old.exists()
        clocks.pass_by(0.2)
        sink.write(next(pictures), NOTHING)
        assert not old.exists()


def test_the_segment_being_written_stays_however_large(tmp_path: Path) -> None:
    with VideoSegmentsSink(tmp_path / "out.mp4", info(), 1.0, SegmentRetention(Retention(size_bytes=1))) as sink:
        for frame in noise(70):
            sink.write(frame, NOTHING)
            assert len(list(tmp_path.iterdir())) == 1
    (last,) = tmp_path.iterdir()
    assert sink.written == (last,)
    assert len(read(last)[0]) == 10


def test_without_a_limit_everything_stays(tmp_path: Path) -> None:
    old = write_old(tmp_path, 1, 10, age_s=1e8)
    with VideoSegmentsSink(tmp_path / "out.mp4", info(), 1.0) as sink:
        for frame in frames(even(70)):
            sink.write(frame, NOTHING)
    assert old.exists()
    assert len(list(tmp_path.iterdir())) == 4


def unlink_fails(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]) -> None:
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        fault(path)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)


def test_a_failure_to_delete_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> None:
        if path in stuck:
            raise PermissionError(13, "Permission denied")

    stuck = [write_old(tmp_path, number, 10, age_s=500.0) for number in (1, 3)]
    loose = [write_old(tmp_path, number, 10, age_s=500.0) for number in (2, 4)]
    unlink_fails(monkeypatch, refuse)
    keep = SegmentRetention(Retention(age_s=100))
    with caplog.at_level(logging.WARNING), VideoSegmentsSink(tmp_path / "out.mp4", info(), 1.0, keep) as sink:
        for frame in frames(even(100)):
            sink.write(frame, NOTHING)
    assert all(path.exists() for path in stuck)
    assert not any(path.exists() for path in loose)
    assert caplog.messages == [f"can't delete {stuck[0]}: Permission denied; old segments stay there"]


def test_a_file_deleted_by_another_program_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = [write_old(tmp_path, number, 100) for number in range(4)]
    unlink_fails(monkeypatch, lambda path: os.unlink(path))  # another program is faster  # noqa: PTH108
    retention = SegmentRetention(Retention(size_bytes=250))
    retention.add(tmp_path / "out.mp4")
    retention.prune()
    assert [path.exists() for path in old] == [False, False, True, True]
    assert not caplog.records


def test_the_next_one_goes_in_place_of_one_that_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> None:
        if path == old[0]:
            raise PermissionError(13, "Permission denied")

    old = [write_old(tmp_path, number, 100) for number in range(3)]
    unlink_fails(monkeypatch, refuse)
    retention = SegmentRetention(Retention(size_bytes=200))
    retention.add(tmp_path / "out.mp4")
    with caplog.at_level(logging.INFO):
        retention.prune()
    assert [path.exists() for path in old] == [True, False, True]
    assert caplog.messages[1:] == [f"deleted {old[1]}"]


def test_a_file_that_goes_while_the_folder_is_read_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [write_old(tmp_path, number, 100) for number in range(4)]
    real = os.scandir

    @contextlib.contextmanager
    def scan(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(folder) as entries:
            found = list(entries)
        (tmp_path / found[0].name).unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", scan)
    retention = SegmentRetention(Retention(size_bytes=100))
    retention.add(tmp_path / "out.mp4")
    retention.prune()
    assert sum(path.exists() for path in old) == 1


def test_a_missing_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    retention = SegmentRetention(Retention(age_s=1))
    retention.add(tmp_path / "nowhere" / "out.mp4")
    retention.prune()
    retention.prune()
    (message,) = caplog.messages
    assert message.startswith(f"can't look for old segments in {tmp_path / 'nowhere'}: No such file or directory")


def test_no_frame_is_lost_while_segments_are_deleted(tmp_path: Path) -> None:
    size = SegmentRetention(Retention(size_bytes=30_000))
    with VideoSegmentsSink(tmp_path / "out.mkv", info(), 0.5, size) as sink:
        for frame in frames(even(600)):
            sink.write(Frame(frame.pixels, "clip", frame.index, frame.pts_s, time.perf_counter()), NOTHING)
    left = sorted(tmp_path.iterdir())
    assert 2 < len(left) < 40
    assert sum(path.stat().st_size for path in left) <= 30_000
    numbers = [number for path in left for number in read(path)[0]]
    assert numbers == list(range(numbers[0], 600))


def test_lines_are_kept_within_the_limit_too(tmp_path: Path) -> None:
    keep = SegmentRetention(Retention(size_bytes=30_000))
    lines = JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1.0, keep)
    video = VideoSegmentsSink(tmp_path / "out.mkv", info(), 1.0, keep)
    with lines, video:
        for frame in frames(even(300)):
            lines.write(frame, NOTHING)
            video.write(frame, NOTHING)
    left = list(tmp_path.iterdir())
    assert {path.suffix for path in left} == {".jsonl", ".mkv"}
    assert sum(path.stat().st_size for path in left) <= 30_000
    assert len(left) < 20
