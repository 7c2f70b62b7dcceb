"""Several sources in one video: what is on each canvas, what blocks, and how it ends, with real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.frames.frame import Frame
from streamer.frames.scaling import fitted
from streamer.sinks.base import Sink
from streamer.sinks.mosaic.tiles import boxes
from streamer.sinks.mosaic.video import TiledVideo
from streamer.sinks.video.sink import VideoSegmentsSink, VideoSink
from streamer.sources.base import SourceInfo
from tests.fakes import MemorySink, wait_for
from tests.media import number_of, picture
from tests.recordings import ENDINGS, NOTHING, as_planes

PATIENCE_S = 60.0
SIZE_WH = (96, 64)


def info(name: str, *, live: bool = False, size_wh: tuple[int, int] | None = SIZE_WH) -> SourceInfo:
    return SourceInfo(name, "", size_wh, live=live)


def frame(number: int, pts_s: float = 0.0, *, planar: bool = False) -> Frame:
    made = Frame(picture(number, SIZE_WH), "x", number, pts_s, 0.0)
    return as_planes(made, 6) if planar else made


def numbers_on(image: np.ndarray, count: int) -> tuple[int | None, ...]:
    """Returns the number that each of `count` tiles of a canvas shows, None for a grey one."""
    found: list[int | None] = []
    for box in boxes(count, (image.shape[1], image.shape[0]), 2):
        width, height = fitted(SIZE_WH, box.size_wh, enlarge=True)
        left, top = box.left + (box.size_wh[0] - width) // 2, box.top + (box.size_wh[1] - height) // 2
        tile = image[top : top + height, left : left + width].astype(np.int16)
        middle = tile[tile.shape[0] // 8, tile.shape[1] // 8 :: tile.shape[1] // 4]
        is_grey = bool((middle.max(axis=1) - middle.min(axis=1) < 12).all())
        found.append(None if is_grey else number_of(tile.astype(np.uint8)))
    return tuple(found)


def canvases(memory: MemorySink, count: int) -> list[tuple[int | None, ...]]:
    return [numbers_on(made.image, count) for made in memory.frames]


def play(sink: Sink, times_s: Sequence[float], *, planar: bool = False) -> None:
    """Writes pictures with rising numbers and closes the sink."""
    with sink:
        for number, pts_s in enumerate(times_s):
            sink.write(frame(number, pts_s, planar=planar), NOTHING)


def even(count: int, fps: float) -> list[float]:
    return [index / fps for index in range(count)]


@pytest.fixture
def threads() -> Iterator[Callable[..., Future[None]]]:
    """Starts a function on a thread of its own; all have to end."""
    with ThreadPoolExecutor(16) as pool:
        futures: list[Future[None]] = []

        def start(work: Callable[..., None], *arguments: object, **options: object) -> Future[None]:
            futures.append(pool.submit(work, *arguments, **options))
            return futures[-1]

        yield start
        for future in futures:
            future.exception(PATIENCE_S)


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_of_different_rates_and_lengths_are_shown_in_step(
    ending: str, tmp_path: Path, threads: Callable[..., Future[None]]
) -> None:
    path = tmp_path / f"wall{ending}"
    video = TiledVideo(VideoSink(path, SourceInfo("wall", "", fps=30.0)), 30.0, by_clock=False)
    rates, counts = (30, 15, 10), (20, 15, 4)
    sinks = [video.add_tile(info(str(rate))) for rate in rates]
    done = [
        threads(play, sink, even(count, rate), planar=rate == 15)
        for sink, rate, count in zip(sinks, rates, counts, strict=True)
    ]
    for each in done:
        each.result(PATIENCE_S)
    with av.open(str(path)) as opened:
        decoded = [f.to_ndarray(format="bgr24") for f in opened.decode(video=0)]
    with av.open(str(path)) as opened:  # readers guess when to show H.264 in AVI: the packets tell
        times_s = [float(p.dts * p.time_base) for p in opened.demux(video=0) if p.dts is not None and p.size]
    # 15 frames at 15 a second last until 28/30 s; after 19/30 s nothing else changes.
    ticks = [*range(20), 20, 22, 24, 26, 28]
    assert [round((time_s - times_s[0]) * 30) for time_s in times_s] == ticks
    for tick, image in zip(ticks, decoded, strict=True):
        newest = tuple(min(count - 1, tick * rate // 30) for rate, count in zip(rates, counts, strict=True))
        assert numbers_on(image, 3) == newest
    assert [sink.written for sink in sinks] == [(path,), (), ()]


def test_a_source_that_is_ahead_blocks_until_the_slowest_catches_up(threads: Callable[..., Future[None]]) -> None:
    memory = MemorySink()
    video = TiledVideo(memory, 10.0, by_clock=False)
    fast, slow = video.add_tile(info("fast")), video.add_tile(info("slow"))
    written = [0]

    def run_ahead() -> None:
        for number in range(30):
            fast.write(frame(number, number / 10), NOTHING)
            written[0] = number + 1
        fast.close()

    done = threads(run_ahead)
    wait_for(lambda: written[0] == 4)
    slow.write(frame(0, 0.0), NOTHING)
    slow.write(frame(1, 0.5), NOTHING)
    wait_for(lambda: written[0] == 9)  # those before 0.5 s are shown
    assert not done.done()
    slow.close()
    done.result(PATIENCE_S)
    assert canvases(memory, 2) == [(number, int(number >= 5)) for number in range(30)]
    assert memory.closed == 1


@pytest.mark.parametrize("how", ["closed", "removed", "failed", "all closed"])
def test_a_blocked_source_is_released(how: str, threads: Callable[..., Future[None]]) -> None:
    def fail(_: int) -> None:
        raise SinkError("the disk is full")

    memory = MemorySink(before=fail if how == "failed" else lambda _: None)
    video = TiledVideo(memory, 10.0, by_clock=False)
    ahead, other = video.add_tile(info("ahead")), video.add_tile(info("other"))
    done = threads(play, ahead, even(10, 10))
    wait_for(lambda: len(ahead.queue.waiting) == 4)  # type: ignore[attr-defined]
    if how == "closed":
        other.close()
    elif how == "removed":
        video.remove("other")
    elif how == "all closed":
        video.close()
    else:
        other.write(frame(0, 0.0), NOTHING)
        other.write(frame(1, 0.2), NOTHING)
        with pytest.raises(SinkError, match="^the disk is full$"):
            done.result(PATIENCE_S)
        return
    done.result(PATIENCE_S)
    wait_for(lambda: memory.closed)
    count = 1 if how == "removed" else 2
    shown = [numbers[0] for numbers in canvases(memory, count)]
    assert shown == list(range(4 if how == "all closed" else 10))


def test_by_the_clock_a_slow_recording_blocks_no_source(threads: Callable[..., Future[None]]) -> None:
    go_on = threading.Event()
    now_s = [50.0]

    def block(number: int) -> None:
        assert go_on.wait(PATIENCE_S) or number

    memory = MemorySink(before=block)
    video = TiledVideo(memory, 10.0, by_clock=True, clock=lambda: now_s[0])
    one, two = video.add_tile(info("a")), video.add_tile(info("b"))
    assert one.live_view, "a person would be told of an outage, so the video is"
    for number in range(500):  # on this very thread
        for sink in (one, two):
            sink.write(frame(number, number / 30), NOTHING)
    one.close()
    now_s[0] += 5.04
    two.write(frame(777), NOTHING)
    go_on.set()
    wait_for(lambda: len(memory.frames) == 2)
    two.close()
    assert [made.index for made in memory.frames] == [0, 50], "those it had no time for are left out"
    assert [made.pts_s for made in memory.frames] == [0.0, 5.0]
    assert canvases(memory, 2)[-1] == (499, 777)


def test_by_the_clock_tiles_show_the_newest_picture_without_waiting() -> None:
    now_s = [50.0]
    memory = MemorySink()
    video = TiledVideo(memory, 10.0, by_clock=True, clock=lambda: now_s[0])
    sinks = [video.add_tile(info(name)) for name in "abc"]
    expected: list[tuple[int | None, ...]] = []

    def canvas(*numbers: int | None) -> None:
        expected.append(numbers)
        wait_for(lambda: len(memory.frames) == len(expected))
        now_s[0] += 0.1001

    sinks[0].write(frame(1), NOTHING)
    canvas(1, None, None)
    sinks[1].write(frame(2), NOTHING)
    canvas(1, 2, None)
    sinks[0].write(frame(3), NOTHING)
    sinks[0].close()
    canvas(3, 2, None)
    sinks[1].write(frame(4), NOTHING)
    sinks[2].close()
    canvas(3, 4, None)
    sinks[1].write(frame(5), NOTHING)
    sinks[1].close()
    expected.append((3, 5, None))
    assert canvases(memory, 3) == expected
    assert [made.index for made in memory.frames] == list(range(5))
    assert memory.closed == 1


class NamedSink(MemorySink):
    written = (Path("wall.mp4"),)


def test_sources_come_and_go_while_it_runs() -> None:
    now_s = [50.0]
    memory = NamedSink()
    video = TiledVideo(memory, 10.0, by_clock=True, clock=lambda: now_s[0])
    sinks = [video.add_tile(info("a")), video.add_tile(info("b"))]
    made = 0

    def canvas() -> np.ndarray:
        nonlocal made
        made += 1
        wait_for(lambda: len(memory.frames) == made)
        now_s[0] += 0.1001
        return memory.frames[-1].image

    sinks[0].write(frame(1), NOTHING)
    first = canvas()
    sinks[1].write(frame(2), NOTHING)
    assert numbers_on(canvas(), 2) == (1, 2)
    sinks.append(video.add_tile(info("c")))
    image = canvas()
    assert image.shape == first.shape, "a file has one size"
    assert numbers_on(image, 3) == (1, 2, None)
    video.remove("a")
    assert numbers_on(canvas(), 2) == (2, None)
    assert [sink.written for sink in sinks] == [(), (Path("wall.mp4"),), ()]
    sinks[0].write(frame(9), NOTHING)
    sinks[0].close()
    sinks[2].write(frame(3), NOTHING)
    assert numbers_on(canvas(), 2) == (2, 3)
    video.remove("b")
    assert numbers_on(canvas(), 1) == (3,)
    sinks[2].close()
    sinks[1].close()
    assert memory.closed == 1
    with pytest.raises(SinkError, match="'d' can't be added"):
        video.add_tile(info("d"))


def test_removing_the_last_tile_finishes_the_video() -> None:
    memory = MemorySink()
    video = TiledVideo(memory, 10.0, by_clock=True)
    sink = video.add_tile(info("a"))
    sink.write(frame(1), NOTHING)
    video.remove("nobody")
    video.remove("a")
    wait_for(lambda: memory.closed)
    sink.write(frame(2), NOTHING)
    sink.close()
    assert memory.closed == 1


def test_adding_a_live_source_switches_to_the_wall_clock(threads: Callable[..., Future[None]]) -> None:
    memory = MemorySink()
    now_s = [50.0]
    video = TiledVideo(memory, 10.0, by_clock=False, clock=lambda: now_s[0])
    ahead, other = video.add_tile(info("ahead")), video.add_tile(info("other"))
    assert not ahead.live_view
    done = threads(play, ahead, even(100, 10))
    wait_for(lambda: len(ahead.queue.waiting) == 4)  # type: ignore[attr-defined]
    camera = video.add_tile(info("camera", live=True))
    done.result(PATIENCE_S)
    assert all(sink.live_view for sink in (ahead, other, camera))
    other.close()
    camera.write(frame(7), NOTHING)
    camera.close()
    assert canvases(memory, 3)[-1] == (99, None, 7)
    assert memory.frames[-1].pts_s < 0.5


@pytest.mark.parametrize("by_clock", [True, False])
def test_a_failure_is_raised_once_for_every_source(by_clock: bool) -> None:
    def fail(_: int) -> None:
        raise SinkError("wall.mp4 broke off: No space left on device")

    memory = MemorySink(before=fail)
    video = TiledVideo(memory, 10.0, by_clock=by_clock)
    sinks = [video.add_tile(info(name)) for name in "abc"]
    for sink in sinks if not by_clock else sinks[:1]:
        sink.write(frame(1, 0.0), NOTHING)
    if not by_clock:
        for sink in sinks[:2]:
            sink.write(frame(1, 0.1), NOTHING)
        sinks[2].close()
    wait_for(lambda: memory.closed)
    wait_for(lambda: video.error is not None)
    for sink in sinks[:2]:
        with pytest.raises(SinkError, match="No space left"), sink:
            sink.write(frame(2, 0.2), NOTHING)
        sink.close()
    if by_clock:
        with pytest.raises(SinkError, match="No space left"):
            sinks[2].close()
    sinks[2].close()
    assert memory.closed == 1


def test_a_failure_to_finish_is_raised_by_the_last_source() -> None:
    class Unfinished(MemorySink):
        def close(self) -> None:
            super().close()
            raise SinkError("wall.mp4 broke off")

    for frames in (0, 1):
        video = TiledVideo(Unfinished(), 10.0, by_clock=True)
        sinks = [video.add_tile(info(name)) for name in "ab"]
        for sink in sinks[:frames]:
            sink.write(frame(1), NOTHING)
        sinks[0].close()
        with pytest.raises(SinkError, match="broke off"):
            sinks[1].close()
        sinks[1].close()


def test_a_bug_is_not_reported_as_a_failed_output() -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError("division by zero")

    video = TiledVideo(MemorySink(before=fail), 10.0, by_clock=True)
    sink = video.add_tile(info("a"))
    sink.write(frame(1), NOTHING)
    wait_for(lambda: video.error is not None)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        sink.write(frame(2), NOTHING)
    sink.close()


@pytest.mark.parametrize("segmented", [False, True])
def test_an_interrupted_run_leaves_a_playable_file(
    segmented: bool, tmp_path: Path, threads: Callable[..., Future[None]]
) -> None:
    path, source = tmp_path / "wall.mp4", SourceInfo("wall", "", fps=30.0)
    recording = VideoSegmentsSink(path, source, 0.5) if segmented else VideoSink(path, source)
    video = TiledVideo(recording, 30.0, by_clock=False)
    sinks = [video.add_tile(info(str(number))) for number in range(4)]
    stop, count = threading.Event(), [0]

    def run(sink: Sink) -> None:
        with sink:
            for number in range(100_000):
                if stop.is_set():
                    return
                sink.write(frame(number, number / 30), NOTHING)
                count[0] = max(count[0], number)

    done = [threads(run, sink) for sink in sinks]
    wait_for(lambda: len(sinks[0].written) == 1 and count[0] > 45)
    stop.set()
    for each in done:
        each.result(PATIENCE_S)
    files = [file for sink in sinks for file in sink.written]
    assert len(files) == len(set(files)) >= 1
    shown: list[tuple[int | None, ...]] = []
    for file in sorted(tmp_path.iterdir()):
        with av.open(str(file)) as opened:
            shown += [numbers_on(f.to_ndarray(format="bgr24"), 4) for f in opened.decode(video=0)]
    assert shown[:40] == [(number,) * 4 for number in range(40)]


def test_nothing_is_written_without_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "wall.mp4"
    video = TiledVideo(VideoSink(path, SourceInfo("wall", "")), 30.0, by_clock=True)
    with ExitStack() as stack:
        sinks = [stack.enter_context(video.add_tile(info(name))) for name in "ab"]
    assert [sink.written for sink in sinks] == [(), ()]
    assert not path.exists()


def test_the_canvas_suits_the_largest_source_also_one_that_comes_later() -> None:
    memory = MemorySink()
    video = TiledVideo(memory, 10.0, by_clock=True, max_wh=(1280, 720))
    sinks = [video.add_tile(info("small")), video.add_tile(info("large", size_wh=(640, 360)))]
    sinks[0].write(frame(1), NOTHING)
    wait_for(lambda: memory.frames)
    for sink in sinks:
        sink.close()
    assert memory.frames[0].size_wh == (1280, 360)
