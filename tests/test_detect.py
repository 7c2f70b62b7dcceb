"""The library: pictures in, detections out, without a pipeline; and the command line on a thread."""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import logging
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import streamer.detector.base
import streamer.frames.detections
import streamer.frames.draw
from streamer import Detections, Frame, draw, open_detector, open_source
from streamer.app.cli import main
from streamer.common.errors import ConfigError, EngineError
from streamer.common.interrupt import Interrupt
from streamer.detector.base import Detector
from streamer.detector.filter_options import ClassThresholds
from streamer.frames.palette import class_colour
from tests.fakes import CountingSource, SlowDetector, wait_for

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def picture() -> Image:
    """A picture of the packaged clip, BGR."""
    with open_source("sample") as source:
        return next(iter(source)).image


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    with open_detector(self_check=False) as opened:
        yield opened


def same(one: Detections, other: Detections) -> bool:
    return one.to_dict() == other.to_dict()


def test_a_picture_gives_what_a_stream_gives(detector: Detector, picture: Image) -> None:
    found = detector.detect(picture)
    assert [one.label for one in found] == ["person", "cup"]
    frame = Frame(picture, "x", 0, 0.0, 0.0)
    ((_, streamed),) = detector.stream([frame])
    assert same(found, streamed) and same(found, detector.detect(frame))


def test_other_scores_and_classes_are_reported_without_loading_the_model_again(picture: Image) -> None:
    with open_detector(self_check=False) as one, open_detector(self_check=False, conf=0.1) as other:
        before = one.detect(picture)
        one.report(ClassThresholds(0.1), None)
        assert same(one.detect(picture), other.detect(picture))
        assert len(one.detect(picture)) > len(before)
        one.report(ClassThresholds(0.1, (("person", 0.5),)), ["person", "CUP"])
        assert {found.label for found in one.detect(picture)} == {"person", "cup"}
        assert all(found.score > 0.5 for found in one.detect(picture) if found.label == "person")
        one.report(ClassThresholds(0.4), None)
        assert same(one.detect(picture), before)
        with pytest.raises(ConfigError, match="no class 'cupp'"):
            one.report(ClassThresholds(), ["cupp"])
        assert same(one.detect(picture), before)


def test_rgb_and_views_are_taken(detector: Detector, picture: Image) -> None:
    found = detector.detect(picture)
    assert same(found, detector.detect(np.ascontiguousarray(picture[..., ::-1]), rgb=True))
    assert not same(found, detector.detect(picture[..., ::-1]))
    wide = np.zeros((720, 2000, 3), np.uint8)
    wide[:, :1280] = picture
    assert same(found, detector.detect(wide[:, :1280]))


def test_a_batch_of_any_sizes_keeps_its_order(detector: Detector, picture: Image) -> None:
    black = np.zeros((40, 30, 3), np.uint8)
    batch = [picture, black, picture[::2, ::2], picture, black] * 3
    found = detector.detect_batch(batch)
    assert len(found) == 15
    assert all(same(one, detector.detect(image)) for one, image in zip(found, batch[:5], strict=False))
    assert detector.detect_batch([]) == []
    assert detector.detect_batch(iter([black]))[0].labels == detector.labels


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        ("cat.jpg", TypeError, "cv2.imread reads a file"),
        (None, TypeError, "got NoneType"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(4, 4\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"\(4, 4, 4\) uint8"),
        (np.zeros((4, 4, 3)), ValueError, "float64"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"\(0, 4, 3\)"),
    ],
)
@pytest.mark.parametrize("rgb", [False, True])
def test_what_is_no_picture_is_refused(
    image: Any, error: type[Exception], said: str, rgb: bool, detector: Detector
) -> None:
    with pytest.raises(error, match=said):
        detector.detect(image, rgb=rgb)
    assert detector.in_flight == 0


@pytest.mark.parametrize(("depth", "batch", "count"), [(1, 1, 3), (4, 1, 3), (4, 4, 9), (5, 2, 9)])
def test_a_batch_goes_together_where_the_detector_can(depth: int, batch: int, count: int) -> None:
    slow = SlowDetector(depth=depth, batch=batch)
    images = [np.zeros((2, 2, 3), np.uint8) for _ in range(count)]
    assert len(slow.detect_batch(images)) == count
    assert max(map(len, slow.batches)) == min(batch, count)
    assert slow.in_flight == 0


def test_frames_of_an_abandoned_stream_are_dropped() -> None:
    slow, image = SlowDetector(depth=3), np.zeros((2, 2, 3), np.uint8)
    stream = slow.stream(CountingSource(10))
    next(stream)
    with pytest.raises(ValueError, match="in flight"):
        slow.detect(image)
    stream.close()
    assert slow.in_flight == 0
    assert len(slow.detect(image)) == 1


@pytest.mark.parametrize("uri", ["sample", Path("clip.mp4")])
def test_a_stream_wants_an_open_source(uri: Any) -> None:
    with pytest.raises(TypeError, match="open_source opens one"):
        next(SlowDetector().stream(uri))


def test_after_a_failure_nothing_is_in_flight() -> None:
    def fail(index: int) -> None:
        if index == 1:
            raise EngineError("broken")

    slow = SlowDetector(depth=3, during=fail)
    images = [np.zeros((2, 2, 3), np.uint8) for _ in range(5)]
    with pytest.raises(EngineError, match="broken"):
        slow.detect_batch(images)
    assert slow.in_flight == 0


def run(task: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(task(), 60))


def test_an_async_loop_gets_all_frames_in_order() -> None:
    async def task() -> None:
        slow = SlowDetector(depth=2)
        frames = [frame.index async for frame, found in slow.astream(CountingSource(20)) if len(found) == 1]
        assert frames == list(range(20))
        assert slow.in_flight == 0

    run(task)


def test_the_event_loop_runs_while_a_frame_is_awaited() -> None:
    async def task() -> None:
        came = threading.Event()

        async def let_it_come() -> None:
            came.set()

        source = CountingSource(1, before=lambda _: wait_for(came.is_set))
        other = asyncio.create_task(let_it_come())
        assert [frame.index async for frame, _ in SlowDetector().astream(source)] == [0]
        await other

    run(task)


class Endless(CountingSource):
    """A source that waits for ever after its second frame, until it is interrupted."""

    def __init__(self) -> None:
        self.interrupted = threading.Event()
        super().__init__(1 << 30, before=lambda index: None if index < 2 else wait_for(self.interrupted.is_set))

    def interrupt(self) -> None:
        self.interrupted.set()


@pytest.mark.parametrize("way", ["break", "cancel", "error"])
def test_leaving_an_async_loop_interrupts_the_source_and_ends_the_thread(way: str) -> None:
    async def task() -> None:
        source, slow = Endless(), SlowDetector()
        before = threading.active_count()

        async def loop() -> None:
            async with contextlib.aclosing(slow.astream(source)) as results:
                async for _ in results:
                    if way == "break":
                        break
                    if way == "error":
                        raise KeyError("mine")

        if way == "error":
            with pytest.raises(KeyError):
                await loop()
        elif way == "break":
            await loop()
        else:
            running = asyncio.create_task(loop())
            while not source.closed and not slow.submitted:
                await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert source.interrupted.is_set()
        assert slow.in_flight == 0
        await asyncio.to_thread(wait_for, lambda: threading.active_count() <= before + 1)  # to_thread's own

    run(task)


def test_an_async_loop_raises_what_the_source_raises() -> None:
    def fail(index: int) -> None:
        if index == 2:
            raise EngineError("camera gone")

    async def task() -> None:
        with pytest.raises(EngineError, match="camera gone"):
            async for _ in SlowDetector().astream(CountingSource(5, before=fail)):
                pass

    run(task)


ONE = Detections(np.array([[10, 30, 60, 80]]), np.array([0.9]), np.array([1]), labels=("a", "b"))


def test_draw_returns_a_copy() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    image.flags.writeable = False
    drawn = draw(image, ONE)
    assert drawn.flags.writeable and not np.shares_memory(drawn, image)
    assert tuple(drawn[79, 30].tolist()) == class_colour(1)
    assert (image == 90).all()
    empty = draw(image, Detections.empty())
    assert (empty == image).all() and empty.flags.writeable and not np.shares_memory(empty, image)


def test_draw_keeps_the_order_of_the_channels() -> None:
    image = np.full((120, 160, 3), (10, 100, 200), np.uint8)
    drawn = draw(image[..., ::-1], ONE, rgb=True)
    np.testing.assert_array_equal(drawn[..., ::-1], draw(image, ONE))


def test_draw_takes_labels_and_frames() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    plain = Detections(ONE.boxes_xyxy, ONE.scores, ONE.class_ids)
    np.testing.assert_array_equal(draw(image, plain, labels=["a", "b"]), draw(image, ONE))
    np.testing.assert_array_equal(draw(Frame(image, "x", 0, 0.0, 0.0), ONE), draw(image, ONE))
    assert (draw(image, plain) != draw(image, ONE)).any()  # the number in place of the label
    assert (draw(image, ONE, show_scores=False) != draw(image, ONE)).any()


@pytest.mark.parametrize("class_id", [-1, 2])
def test_draw_refuses_a_class_without_a_label(class_id: int) -> None:
    with pytest.raises(ValueError, match="class ids from 0 to 1"):
        draw(np.zeros((9, 9, 3), np.uint8), Detections(ONE.boxes_xyxy, ONE.scores, np.array([class_id])), labels="ab")


@pytest.mark.parametrize("module", [streamer.detector.base, streamer.frames.detections, streamer.frames.draw])
def test_examples_in_docstrings_run(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 3 and result.failed == 0


def on_thread(*arguments: str, interrupt: Interrupt | None = None) -> int:
    """Returns the exit status of the command line on a thread that isn't the main one."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main(arguments, interrupt)))
    thread.start()
    thread.join()
    return statuses[0]


def test_the_command_line_runs_on_a_thread_and_leaves_signals_alone(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    output = tmp_path / "out.jsonl"
    assert on_thread("--source", "sample", "--output", str(output), "--max-frames", "5") == 0
    assert len(output.read_text().splitlines()) == 5
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert on_thread("--source", str(tmp_path / "nothing.mp4"), "--output", "null") == 1
    assert on_thread("--source", "sample", "--conf", "2") == 2


def test_the_command_line_leaves_the_logging_of_its_host_alone(caplog: pytest.LogCaptureFixture) -> None:
    root, ours = logging.getLogger(), logging.getLogger("streamer")
    before = root.level, ours.level, list(root.handlers)
    levels: list[tuple[int, int]] = []
    caplog.handler.addFilter(lambda record: levels.append((root.level, ours.level)) is None)
    assert on_thread("--source", "sample", "--output", "null", "--max-frames", "1", "--log-level", "debug") == 0
    assert set(levels) == {(before[0], logging.DEBUG)}
    assert (root.level, ours.level, list(root.handlers)) == before


def test_the_command_line_on_a_thread_ends_in_good_order_on_request(tmp_path: Path) -> None:
    interrupt, output = Interrupt(), tmp_path / "out.jsonl"
    stopper = threading.Thread(target=lambda: (wait_for(output.exists), interrupt.stop()))
    stopper.start()
    assert on_thread("sample", "--pace", "source", "--output", str(output), interrupt=interrupt) == 0
    stopper.join()
    assert len(output.read_text().splitlines()) < 300
