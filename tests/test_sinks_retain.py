"""Old segments: the right ones go, the oldest first, and nothing else does."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.frames.frame import Frame
from streamer.sinks.jsonl import JsonlSegmentsSink
from streamer.sinks.options import Retention
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Series
from streamer.sinks.video.segments import VideoSegmentsSink
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
    """Something in the folder: a file of so many bytes, last written so long ago, or a link or a folder."""

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
    sink = VideoSegmentsSink(tmp_path / "out.mp4", info(), 2.0, SegmentRetention(Retention(size_bytes=900_000)))
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


def test_it_is_looked_after_every_ten_seconds_while_a_segment_is_written(tmp_path: Path) -> None:
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


def test_what_cannot_be_deleted_stays_and_is_said_once(
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


def test_a_file_that_vanishes_meanwhile_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = [write_old(tmp_path, number, 100) for number in range(4)]
    unlink_fails(monkeypatch, lambda path: os.unlink(path))  # another program is faster  # noqa: PTH108
    retention = SegmentRetention(Retention(size_bytes=250))
    retention.add(tmp_path / "out.mp4")
    retention.prune()
    assert [path.exists() for path in old] == [False, False, True, True]
    assert not caplog.records


def test_a_folder_that_vanishes_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    retention = SegmentRetention(Retention(age_s=1))
    retention.add(tmp_path / "nowhere" / "out.mp4")
    retention.prune()
    retention.prune()
    (message,) = caplog.messages
    assert message.startswith(f"can't look for old segments in {tmp_path / 'nowhere'}: No such file or directory")


def test_frames_go_on_while_segments_are_deleted(tmp_path: Path) -> None:
    size = SegmentRetention(Retention(size_bytes=30_000))
    with VideoSegmentsSink(tmp_path / "out.mkv", info(), 0.5, size) as sink:
        for frame in frames(even(600)):
            sink.write(Frame(frame.pixels, "clip", frame.index, frame.pts_s, time.perf_counter()), NOTHING)
    left = sorted(tmp_path.iterdir())
    assert 2 < len(left) < 40
    assert sum(path.stat().st_size for path in left) <= 30_000
    numbers = [number for path in left for number in read(path)[0]]
    assert numbers == list(range(numbers[0], 600))


HOUR_S, DAY_S, YEAR_S = 3600.0, 86_400.0, 365 * 86_400.0


def segment(folder: Path, begun_s: float, written_s: float | None = None, *, stem: str = "out", size: int = 10) -> Path:
    """Writes a segment that was begun at one time by its name, and written last at another by the file system."""
    begun = datetime.fromtimestamp(begun_s, UTC)
    path = folder / f"{stem}-{begun:%Y%m%dT%H%M%S}.{begun.microsecond // 1000:03d}Z.mp4"
    path.write_bytes(b"x" * size)
    written_s = begun_s + 600 if written_s is None else written_s
    os.utime(path, (written_s, written_s))
    return path


def numbers(folder: Path, *paths: Path) -> list[int]:
    """Returns which of the paths are there."""
    return [number for number, path in enumerate(paths) if path.exists()]


def record(series: Series, begun_s: float, *, size: int = 10) -> Path:
    """Has a run write a segment, which the file system dates as the clock does."""

    def make(path: Path) -> Path:
        with path.open("xb") as file:
            file.write(b"x" * size)
        os.utime(path, (begun_s, begun_s))
        return path

    return series.begin(datetime.fromtimestamp(begun_s, UTC), make)


@pytest.mark.parametrize("retain", [Retention(size_bytes=45), Retention(age_s=DAY_S)], ids=["size", "age"])
@pytest.mark.parametrize("away_s", [-57 * YEAR_S, -YEAR_S, -HOUR_S * 3])
def test_with_a_clock_in_the_past_what_is_recorded_stays(retain: Retention, away_s: float, tmp_path: Path) -> None:
    clocks = Clocks()
    old = [segment(tmp_path, clocks.now_s - (3 - number) * HOUR_S) for number in range(3)]
    clocks.now_s += away_s
    series = Series(tmp_path / "out.mp4", clocks.retention(retain))
    new = []
    for _ in range(3):
        new.append(record(series, clocks.now_s))
        clocks.pass_by(600)
    series.close()
    assert numbers(tmp_path, *new) == [0, 1, 2]
    assert numbers(tmp_path, *old) == ([0, 1, 2] if retain.size_bytes is None else [2])


@pytest.mark.parametrize("jump_s", [57 * YEAR_S, YEAR_S, 2 * DAY_S])
def test_a_clock_that_is_put_right_in_the_run_deletes_nothing(jump_s: float, tmp_path: Path) -> None:
    clocks = Clocks()
    right_s = clocks.now_s
    old = [segment(tmp_path, right_s - (3 - number) * HOUR_S) for number in range(3)]
    clocks.now_s = right_s - jump_s
    series = Series(tmp_path / "out.mp4", clocks.retention(Retention(age_s=DAY_S)))
    early = record(series, clocks.now_s)
    clocks.pass_by(60)
    clocks.now_s += jump_s
    late = record(series, clocks.now_s)
    series.prune()
    assert numbers(tmp_path, *old, early, late) == [0, 1, 2, 3, 4]
    clocks.pass_by(DAY_S - 30)
    record(series, clocks.now_s)
    assert numbers(tmp_path, *old, early, late) == [3, 4], "by now all that was there has its age"
    clocks.pass_by(HOUR_S)
    record(series, clocks.now_s)
    assert numbers(tmp_path, early, late) == [1]


@pytest.mark.parametrize("is_at_start", [True, False])
def test_with_a_clock_in_the_future_old_segments_stay_until_the_run_has_lasted(
    is_at_start: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    old = [segment(tmp_path, clocks.now_s - (50 - number) * HOUR_S) for number in range(50)]
    if is_at_start:
        clocks.now_s += 10 * YEAR_S
    series = Series(tmp_path / "out.mp4", clocks.retention(Retention(age_s=DAY_S)))
    record(series, clocks.now_s)
    if is_at_start:
        assert all(path.exists() for path in old)
        (message,) = caplog.messages
        assert message.startswith(f"the clock may be wrong: 50 segments such as {old[-1]} are kept until this run has")
    clocks.pass_by(600)
    if not is_at_start:
        clocks.now_s += 10 * YEAR_S
    record(series, clocks.now_s)
    assert len(numbers(tmp_path, *old)) == (50 if is_at_start else 24)
    clocks.pass_by(DAY_S)
    record(series, clocks.now_s)
    assert not numbers(tmp_path, *old)


def test_after_a_pause_of_days_the_clock_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - 5 * DAY_S)
    record(Series(tmp_path / "out.mp4", clocks.retention(Retention(age_s=DAY_S))), clocks.now_s)
    assert not old.exists()
    assert not caplog.messages


def test_a_name_counts_only_where_the_files_own_time_bears_it_out(tmp_path: Path) -> None:
    clocks = Clocks()
    now_s = clocks.now_s
    never_set = segment(tmp_path, 600.0, now_s - HOUR_S)  # the clock was put right while it was written
    oldest = segment(tmp_path, now_s - 9 * HOUR_S)
    ahead = segment(tmp_path, now_s + YEAR_S, now_s - 5 * HOUR_S)
    copied = segment(tmp_path, now_s - 7 * HOUR_S, now_s)
    in_order = [oldest, copied, ahead, never_set]
    for kept in (3, 2, 1):
        retention = clocks.retention(Retention(size_bytes=kept * 10))
        retention.add(tmp_path / "out.mp4")
        retention.prune()
        assert numbers(tmp_path, *in_order) == list(range(4 - kept, 4))


def test_a_young_copy_of_an_old_segment_is_young(tmp_path: Path) -> None:
    clocks = Clocks()
    copied = segment(tmp_path, clocks.now_s - 5 * DAY_S, clocks.now_s - 60)
    retention = clocks.retention(Retention(age_s=DAY_S))
    retention.add(tmp_path / "out.mp4")
    retention.prune()
    assert copied.exists()


def test_a_limit_is_one_for_all_outputs_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    clocks = Clocks()
    retention = clocks.retention(Retention(size_bytes=100))
    outputs = [tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "elsewhere" / "a.mp4"]
    old = [
        segment(path.parent, clocks.now_s - (9 - number - 3 * hours) * HOUR_S, stem=path.stem, size=20)
        for hours in range(2)
        for number, path in enumerate(outputs)
    ]
    series = [Series(path, retention) for path in outputs]
    assert numbers(tmp_path, *old) == [0, 1, 2, 3, 4, 5]
    new = [record(each, clocks.now_s, size=20) for each in series]
    retention.prune()
    assert numbers(tmp_path, *old) == [4, 5]
    for each in series:
        each.end()
        clocks.pass_by(1)
    new.append(record(series[2], clocks.now_s, size=70))
    retention.prune()
    assert numbers(tmp_path, *old) == []
    assert numbers(tmp_path, *new) == [2, 3]


def test_what_another_run_is_writing_stays(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl", reason="no locks of open files on this system")
    clocks = Clocks()
    old = [segment(tmp_path, clocks.now_s - (9 - number) * HOUR_S) for number in range(3)]
    with old[0].open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        retention = clocks.retention(Retention(size_bytes=10))
        retention.add(tmp_path / "out.mp4")
        retention.prune()
    assert numbers(tmp_path, *old) == [0]


def test_one_output_reached_by_two_paths_is_counted_once(tmp_path: Path) -> None:
    clocks = Clocks()
    (tmp_path / "link").symlink_to(".")
    retention = clocks.retention(Retention(size_bytes=50))
    for folder in (tmp_path, tmp_path / "link"):
        record(Series(folder / "out.mp4", retention), clocks.now_s, size=20)
        clocks.pass_by(1)
    retention.prune()
    assert len(list(tmp_path.glob("out-*.mp4"))) == 2


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
