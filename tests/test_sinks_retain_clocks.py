"""The age and the order of old segments where clocks, names and files disagree; several outputs of one run."""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamer.sinks.options import Retention
from streamer.sinks.retention import SegmentRetention, segment_path
from streamer.sinks.segmented import Series
from tests.test_sinks_retain import Clocks

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
def test_new_segments_are_kept_when_the_clock_is_in_the_past(retain: Retention, away_s: float, tmp_path: Path) -> None:
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
def test_setting_the_clock_right_during_a_run_deletes_nothing(jump_s: float, tmp_path: Path) -> None:
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


def test_a_pause_of_days_does_not_make_the_clock_doubtful(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - 5 * DAY_S)
    record(Series(tmp_path / "out.mp4", clocks.retention(Retention(age_s=DAY_S))), clocks.now_s)
    assert not old.exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_names_time_counts_only_if_the_files_time_agrees(tmp_path: Path) -> None:
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


def test_segments_of_another_running_process_are_kept(tmp_path: Path) -> None:
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


def left_of(tmp_path: Path, clocks: Clocks, retain: Retention, *old: Path, pass_s: float = 0.0) -> list[int]:
    """Deletes what a limit says; returns which segments are left."""
    retention = clocks.retention(retain)
    retention.add(tmp_path / "out.mp4")
    clocks.pass_by(pass_s)
    retention.prune()
    return numbers(tmp_path, *old)


@pytest.mark.parametrize(("ahead_s", "left"), [(HOUR_S, [0]), (HOUR_S + 1, [1])])
def test_a_name_may_be_an_hour_ahead_of_its_file(ahead_s: float, left: list[int], tmp_path: Path) -> None:
    clocks = Clocks()
    begun_s = clocks.now_s - DAY_S
    named = segment(tmp_path, begun_s, begun_s - ahead_s)
    other = segment(tmp_path, begun_s - HOUR_S / 2)
    assert left_of(tmp_path, clocks, Retention(size_bytes=10), named, other) == left


@pytest.mark.parametrize(("before_s", "left"), [(0.0, [1]), (1.0, [0])])
def test_a_name_before_2015_comes_from_a_clock_that_was_never_set(
    before_s: float, left: list[int], tmp_path: Path
) -> None:
    clocks = Clocks()
    named = segment(tmp_path, datetime(2015, 1, 1, tzinfo=UTC).timestamp() - before_s, clocks.now_s - HOUR_S)
    other = segment(tmp_path, clocks.now_s - YEAR_S)
    assert left_of(tmp_path, clocks, Retention(size_bytes=10), named, other) == left


@pytest.mark.parametrize(("behind_s", "left"), [(HOUR_S, [1]), (HOUR_S + 1, [0, 1])])
def test_a_clock_may_be_an_hour_behind_the_newest_file(behind_s: float, left: list[int], tmp_path: Path) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - 2 * DAY_S)
    newest = segment(tmp_path, clocks.now_s, clocks.now_s + behind_s)
    assert left_of(tmp_path, clocks, Retention(age_s=DAY_S), old, newest) == left


@pytest.mark.parametrize(("days_s", "left"), [(30 * DAY_S, []), (30 * DAY_S + 1, [0])])
def test_a_pause_may_last_thirty_days(days_s: float, left: list[int], tmp_path: Path) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - days_s - 600, clocks.now_s - days_s)
    assert left_of(tmp_path, clocks, Retention(age_s=DAY_S), old) == left


def test_a_clock_that_jumps_forward_in_the_run_is_not_believed(tmp_path: Path) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - HOUR_S)
    retention = clocks.retention(Retention(age_s=DAY_S))
    retention.add(tmp_path / "out.mp4")
    clocks.now_s += 2 * DAY_S
    retention.prune()
    assert old.exists()


@pytest.mark.parametrize(("age_s", "left"), [(DAY_S, [0]), (DAY_S + 1, [])])
def test_a_segment_is_kept_to_the_second(age_s: float, left: list[int], tmp_path: Path) -> None:
    clocks = Clocks()
    old = segment(tmp_path, clocks.now_s - age_s - 600, clocks.now_s - age_s)
    assert left_of(tmp_path, clocks, Retention(age_s=DAY_S), old) == left


def test_this_runs_segments_and_those_it_found_are_kept_to_the_second(tmp_path: Path) -> None:
    clocks = Clocks()
    found = segment(tmp_path, clocks.now_s + 2 * DAY_S)  # the clock is behind: its age is that of the run
    retention = clocks.retention(Retention(age_s=DAY_S))
    series = Series(tmp_path / "out.mp4", retention)
    own = record(series, clocks.now_s)
    series.end()
    for pass_s, left in ((DAY_S, [0, 1]), (1.0, [])):
        clocks.pass_by(pass_s)
        retention.prune()
        assert numbers(tmp_path, found, own) == left


def test_pruning_is_due_again_after_exactly_ten_seconds(tmp_path: Path) -> None:
    clocks = Clocks()
    retention = clocks.retention(Retention(size_bytes=1))
    retention.add(tmp_path / "out.mp4")
    retention.prune(rate_limited=True)
    old = segment(tmp_path, clocks.now_s - HOUR_S)
    for pass_s, left in ((9.0, [0]), (1.0, [])):
        clocks.pass_by(pass_s)
        retention.prune(rate_limited=True)
        assert numbers(tmp_path, old) == left


def test_the_first_pruning_is_due_at_once(tmp_path: Path) -> None:
    clocks = Clocks()
    clocks.run_s = 0.0
    retention = clocks.retention(Retention(size_bytes=1))
    retention.add(tmp_path / "out.mp4")
    old = segment(tmp_path, clocks.now_s - HOUR_S)
    retention.prune(rate_limited=True)
    assert not old.exists()


def test_a_doubtful_clock_is_told_once_with_both_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks(datetime(2026, 3, 4, 5, 6, tzinfo=UTC).timestamp())
    old = segment(tmp_path, datetime(2026, 1, 2, 3, 4, tzinfo=UTC).timestamp())
    retention = clocks.retention(Retention(age_s=DAY_S))
    retention.add(tmp_path / "out.mp4")
    for _ in range(2):
        retention.prune()
    assert caplog.messages == [
        f"the clock may be wrong: 1 segment such as {old} is kept until this run has lasted as long as they are to "
        "be kept; it is 2026-03-04 05:06 UTC now, they were written until 2026-01-02 03:14 UTC"
    ]


def test_the_time_of_a_run_includes_suspend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no clock that includes suspend")
    clocks = {time.CLOCK_BOOTTIME: 1000.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clocks[clock])
    retention = SegmentRetention(Retention(age_s=DAY_S), clock=lambda: 0.0)
    retention.add(tmp_path / "out.mp4")
    own = segment(tmp_path, 0.0)
    retention.begin(own)
    retention.end(own)
    for pass_s, left in ((DAY_S, [0]), (1.0, [])):
        clocks[time.CLOCK_BOOTTIME] += pass_s
        retention.prune()
        assert numbers(tmp_path, own) == left


@pytest.mark.parametrize(("microsecond", "shown"), [(999_999, "999"), (1_000, "001"), (999, "000")])
def test_a_segments_name_has_milliseconds(microsecond: int, shown: str) -> None:
    begun = datetime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC)
    assert segment_path(Path("a/b.c.mp4"), begun) == Path(f"a/b.c-20260102T030405.{shown}Z.mp4")
