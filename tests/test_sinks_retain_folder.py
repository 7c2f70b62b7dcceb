"""What is kept of a whole folder of cameras, by size and by the space left, over a day of an invented clock."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from streamer.sinks.options import Retention
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Series
from tests.test_sinks_retain import Clocks
from tests.test_sinks_retain_clocks import DAY_S, HOUR_S, YEAR_S, record, segment

BESIDE = (".jsonl", ".vtt")
_OURS = re.compile(r"[a-z]+-[0-9]{8}T[0-9]{6}\.[0-9]{3}Z\.(mp4|jsonl|vtt)", re.ASCII)
LIMIT = 12_000


class Camera:
    """Records segments of random sizes with what is beside them, as a run does."""

    def __init__(self, path: Path, retention: SegmentRetention, random: Random, clocks: Clocks) -> None:
        self.series = Series(path, retention, beside=BESIDE)
        self._random, self._clocks = random, clocks
        self.open: Path = path
        self.begun: list[Path] = []

    def begin(self) -> None:
        self.open = record(self.series, self._clocks.now_s, size=0)
        self.begun.append(self.open)
        for ending in BESIDE:
            self._grow(self.open.with_suffix(ending), 5)

    def grow(self) -> None:
        self._grow(self.open, self._random.randint(50, 300))

    def _grow(self, path: Path, size: int) -> None:
        with path.open("ab") as file:
            file.write(b"x" * size)
        os.utime(path, (self._clocks.now_s, self._clocks.now_s))


def ours(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [
            Path(entry) for entry in entries if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in ours(folder))


def strangers(folder: Path) -> list[Path]:
    """Makes files, links and folders that look much like segments."""
    target = folder.parent / "holiday.mp4"
    target.write_bytes(b"x" * 1000)
    stamp = "20200101T000000.000Z"
    names = ("door.mp4", f"door-{stamp}.avi.part", f".door-{stamp}.mp4", f"door-{stamp}.MP4", f"door{stamp}.mp4")
    made = [folder / name for name in (*names, "door-20200101T000000Z.mp4", f"door-{stamp}.txt")]
    for path in made:
        path.write_bytes(b"x" * 5000)
    link, inside = folder / f"door-{stamp}.mp4", folder / f"yard-{stamp}.mp4"
    link.symlink_to(target)
    inside.mkdir()
    (inside / f"door-{stamp}.mp4").write_bytes(b"x" * 5000)
    return [*made, link, inside / f"door-{stamp}.mp4", target]


def days(clocks: Clocks, jump_s: float) -> Iterator[int]:
    """Passes 24 hours, ten minutes a step; the clock is set in the middle."""
    for minute in range(0, 24 * 60, 10):
        yield minute
        clocks.pass_by(600)
        if minute == 12 * 60:
            clocks.now_s += jump_s


@pytest.mark.parametrize("jump_s", [0.0, -DAY_S, YEAR_S], ids=["right", "back", "ahead"])
@pytest.mark.parametrize("words", [(), ("folder",)], ids=["run", "folder"])
def test_a_day_of_two_runs_keeps_the_budget_to_the_byte(
    jump_s: float, words: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, random, clocks = tmp_path / "cameras", Random(17), Clocks()
    folder.mkdir()
    foreign = strangers(folder)
    old = [segment(folder, clocks.now_s - (9 - hour) * HOUR_S, stem="gone", size=400) for hour in range(8)]
    retain = Retention(size_bytes=LIMIT, whole_folder=bool(words))
    runs = [clocks.retention(retain), clocks.retention(retain)]
    names = (("door", "yard"), ("desk",))
    cameras = [
        Camera(folder / f"{name}.mp4", run, random, clocks)
        for run, each in zip(runs, names, strict=True)
        for name in each
    ]
    for minute in days(clocks, jump_s):
        for number, camera in enumerate(cameras):
            if minute % 30 == 10 * number:
                camera.begin()
            if camera.begun:
                camera.grow()
        for run in runs:
            run.prune()
        assert all(camera.open.exists() for camera in cameras if camera.begun)
        if words:
            assert total(folder) <= LIMIT
        else:
            assert all(each.exists() for each in old)
            stems = ({f"{name}-" for name in each} for each in names)
            for own in stems:
                assert sum(path.stat().st_size for path in ours(folder) if path.name.startswith(tuple(own))) <= LIMIT
    assert all(path.exists() for path in foreign) and (tmp_path / "holiday.mp4").stat().st_size == 1000
    for camera in cameras:
        kept = [path.exists() for path in camera.begun]
        assert kept == sorted(kept) and 3 < sum(kept) < len(kept), "the oldest went first"
        for path, is_kept in zip(camera.begun, kept, strict=True):
            assert all(path.with_suffix(ending).exists() == is_kept for ending in BESIDE)
    if words:
        assert not any(path.exists() for path in old)
        kept_since = [camera.begun[[path.exists() for path in camera.begun].index(True)] for camera in cameras]
        begun = [camera.begun.index(first) for camera, first in zip(cameras, kept_since, strict=True)]
        assert max(begun) - min(begun) <= 2, "all cameras reach back as far"
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


class Disk:
    """A file system of a size, with some free, on which a folder's files are."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self.others = 0

    @property
    def free(self) -> int:
        return self._size - self.others - sum(path.stat().st_size for path in ours(self._folder))

    def __call__(self, _: Path) -> tuple[int, int, int]:
        return self._size, self._size - self.free, self.free


def of_disk(disk: Disk, clocks: Clocks, retain: Retention) -> SegmentRetention:
    return SegmentRetention(retain, clock=lambda: clocks.now_s, run_clock=lambda: clocks.run_s, space=disk)


@pytest.mark.parametrize("retain", [Retention(free_bytes=2000), Retention(free_share=0.2)], ids=["bytes", "share"])
@pytest.mark.parametrize("jump_s", [0.0, -DAY_S, YEAR_S], ids=["right", "back", "ahead"])
def test_space_stays_free_whatever_else_fills_the_disk(retain: Retention, jump_s: float, tmp_path: Path) -> None:
    folder, random, clocks = tmp_path / "cameras", Random(3), Clocks()
    folder.mkdir()
    disk = Disk(folder, 10_000)
    retention = of_disk(disk, clocks, retain)
    camera = Camera(folder / "door.mp4", retention, random, clocks)
    for minute in days(clocks, jump_s):
        if minute % 30 == 0:
            camera.begin()
        camera.grow()
        disk.others = 3000 if 600 < minute < 900 else 0
        retention.prune()
        assert disk.free >= 2000
    kept = [path.exists() for path in camera.begun]
    assert kept == sorted(kept) and sum(kept) > 10


def test_that_nothing_can_be_deleted_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clocks, disk = Clocks(), Disk(tmp_path, 10_000)
    retention = of_disk(disk, clocks, Retention(size_bytes=500, free_bytes=2000))
    camera = Camera(tmp_path / "door.mp4", retention, Random(1), clocks)
    camera.begin()
    disk.others = 9000
    for _ in range(30):
        camera.grow()
        retention.prune()
    assert camera.open.exists() and total(tmp_path) > 500
    assert sorted(caplog.messages) == [
        f"recordings can't be kept so that 2 kB of {tmp_path} stay free: nothing is left that may be deleted",
        "recordings can't be kept within 0 kB: nothing is left that may be deleted",
    ]
    caplog.clear()
    disk.others = 0
    camera.begin()
    retention.prune()
    assert not caplog.messages


def test_limits_go_together(tmp_path: Path) -> None:
    clocks = Clocks()
    old = [segment(tmp_path, clocks.now_s - hours * HOUR_S, size=100) for hours in (40, 20, 10, 5, 1)]

    def left(retain: str) -> list[bool]:
        retention = of_disk(Disk(tmp_path, 600), clocks, Retention.parse(retain))
        retention.add(tmp_path / "out.mp4")
        retention.prune()
        return [path.exists() for path in old]

    assert left("1d") == [False, True, True, True, True]
    assert left("1d,50%-free") == [False, False, True, True, True]
    assert left("1d,1TB,10%-free") == [False, False, True, True, True]
    assert left("8h,1TB") == [False, False, False, True, True]


def test_a_segment_goes_with_what_is_beside_it_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    stuck, loose = (segment(tmp_path, clocks.now_s - hours * HOUR_S, size=100) for hours in (9, 8))
    for path in (stuck, loose):
        path.with_suffix(".jsonl").write_bytes(b"x" * 7)
    real: Callable[..., None] = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    retention = clocks.retention(Retention(size_bytes=1))
    for ending in (".mp4", ".jsonl"):
        retention.add(tmp_path / f"out{ending}")
    retention.prune()
    assert stuck.exists() and stuck.with_suffix(".jsonl").exists()
    assert not loose.exists() and not loose.with_suffix(".jsonl").exists()


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    clocks = Clocks()
    (tmp_path / "mine").mkdir()
    other = segment(tmp_path, clocks.now_s - HOUR_S, size=100)
    mine = segment(tmp_path / "mine", clocks.now_s - HOUR_S, stem="another-camera", size=100)
    retention = clocks.retention(Retention(size_bytes=1, whole_folder=True))
    record(Series(tmp_path / "mine" / "door.mp4", retention), datetime.now(UTC).timestamp())
    assert other.exists() and not mine.exists()
