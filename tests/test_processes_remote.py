"""`RemoteSource` alone: what it sends to a worker, and what it keeps when the worker exits."""

from __future__ import annotations

import time

import numpy as np
import pytest

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers.messages import Open, Start, Status, Stop
from streamer.sources.workers.remote import Attachment, RemoteSource
from tests.test_processes import CPU, Kept

GONE = SourceError("gone")


class FakeWorker:
    """A worker that only records.

    Attributes:
        sent: the messages it got.
        acknowledged: the counters it reads.
        left: how often a source has left it.
    """

    def __init__(self, number: int = 1) -> None:
        self.sent: list[object] = []
        self.acknowledged = np.full(4, 99, np.uint64)
        self.left = 0
        self.attachment = Attachment(number, self.sent.append, self.acknowledged, self._leave)

    def _leave(self) -> None:
        self.left += 1


def remote(options: SourceOptions = CPU) -> RemoteSource:
    return RemoteSource(SourceSpec.parse("rtsp://u:p@door/live"), options)


def frame(index: int, at_s: float) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), "door", index, index / 10, at_s)


def attached(worker: FakeWorker, options: SourceOptions = CPU) -> tuple[RemoteSource, Kept]:
    """A source that was opened in a process and begun."""
    source, consumer = remote(options), Kept()
    assert source.attach(worker.attachment)
    source.on_opened(source.info, Status())
    source.start(consumer, paced=False)
    return source, consumer


def test_frames_of_the_last_process_are_not_counted_in_the_next() -> None:
    first, second = FakeWorker(1), FakeWorker(2)
    source, consumer = attached(first)
    for index in range(3):
        source.on_frame(frame(index, index), 1.0)
    source.acknowledge()
    assert first.acknowledged[1] == 1
    assert source.detach(GONE)
    source.acknowledge()  # while it is nowhere
    assert source.attach(second.attachment)
    source.on_frame(frame(0, 10.0), 1.0)
    source.acknowledge()  # the last of the first process's
    assert second.acknowledged[2] == 0
    source.acknowledge()
    assert second.acknowledged[2] == 1
    assert first.acknowledged[1] == 1
    assert [f.index for f in consumer.frames] == [0, 1, 2, 3]
    assert [f.pts_s for f in consumer.frames] == [0.0, 0.1, 0.2, 10.0]


def test_what_earlier_processes_said_of_it_adds_up() -> None:
    source, _ = attached(FakeWorker())
    source.on_status(source.info, Status(None, 2, 30, 4, ("4 damaged packets",)))
    assert source.skipped == ("4 damaged packets",)
    source.on_frame(frame(0, 0.0), 1.0)
    assert source.detach(GONE)
    assert (source.reconnects, source.dropped, source.damaged) == (2, 30, 4)
    assert source.attach(FakeWorker().attachment)
    source.on_status(source.info, Status(None, 1, 5, 1, ("1 damaged packet",)))
    source.on_frame(frame(0, 1.0), 1.0)
    assert (source.reconnects, source.dropped, source.damaged) == (4, 35, 5)
    assert source.skipped == ("5 damaged packets",)


def test_it_is_lost_since_its_last_frame_or_since_its_process_said_so() -> None:
    source, _ = attached(FakeWorker())
    now_s = time.perf_counter()
    source.on_frame(frame(0, now_s - 50), 1.0)
    assert source.detach(GONE)
    assert source.lost_s == pytest.approx(50, abs=5)
    assert source.attach(FakeWorker().attachment)
    source.on_status(source.info, Status(now_s - 1))  # the new process counts from its own beginning
    assert source.lost_s == pytest.approx(50, abs=5)
    source.on_frame(frame(0, now_s), 1.0)
    source.on_status(source.info, Status(now_s - 20))
    assert source.detach(GONE)
    assert source.lost_s == pytest.approx(20, abs=5)


def test_one_that_never_gave_a_frame_is_reached_and_not_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source, _ = attached(FakeWorker())
    assert source.detach(GONE)
    assert source.attach(FakeWorker().attachment)
    source.on_frame(frame(0, time.perf_counter()), 1.0)
    assert source.reconnects == 0
    assert "source 'door' is reached after" in caplog.text


def test_attempts_without_a_frame_between_are_limited() -> None:
    source, consumer = attached(FakeWorker(), SourceOptions(reconnect=2))
    for _ in range(3):  # a frame each time: they aren't in a row
        assert source.detach(GONE)
        assert source.attach(FakeWorker().attachment)
        source.on_frame(frame(0, 0.0), 1.0)
    for _ in range(2):
        assert source.detach(GONE)
        assert source.attach(FakeWorker().attachment)
    assert not source.detach(GONE)
    assert consumer.ends == [GONE]
    assert not source.attach(FakeWorker().attachment)


def test_one_that_is_not_begun_yet_is_begun_where_it_is_by_then() -> None:
    first, second = FakeWorker(1), FakeWorker(2)
    source = remote()
    assert source.attach(first.attachment)
    source.on_open_failed(source.info, SourceError("refused"))
    with pytest.raises(SourceError, match="refused"):
        source.wait_ready()
    assert source.detach(GONE)
    consumer = Kept()
    source.start(consumer, paced=False)
    assert source.attach(second.attachment)
    assert [type(said) for said in first.sent] == [Open]
    assert second.sent == [Open(2, SourceSpec.parse("rtsp://u:p@door/live"), CPU), Start(2, False)]
    source.close()
    assert second.sent[2:] == [Stop(2)]
    assert not source.detach(GONE)
    assert consumer.ends == [None]  # it was closed: no failure


# --- moving to another GPU ---

ON_GPU = SourceOptions(gpu=1)


def moved(worker: FakeWorker, spec: str, frames: int) -> tuple[RemoteSource, Kept, FakeWorker]:
    """A source that gave some frames, and was moved to GPU 0 and another worker."""
    other, consumer = FakeWorker(2), Kept()
    source = RemoteSource(SourceSpec.parse(spec), ON_GPU, lambda moving: moving.attach(other.attachment) and None)
    assert source.attach(worker.attachment)
    source.on_opened(source.info, Status())
    source.start(consumer, paced=True)
    for index in range(frames):
        source.on_frame(frame(index, float(index)), 1.0)
    source.on_status(source.info, Status(dropped=3, damaged=2))
    source.move_to_gpu(0)
    assert worker.left == 1
    assert worker.sent[-1] == Stop(1)
    assert source.gpu == 0
    return source, consumer, other


def test_a_camera_moves_and_its_time_goes_on() -> None:
    source, consumer, other = moved(FakeWorker(), "rtsp://u:p@door/live", 3)
    assert other.sent[0] == Open(2, SourceSpec.parse("rtsp://u:p@door/live"), SourceOptions(gpu=0), 0)
    assert other.sent[1] == Start(2, paced=True)
    assert source.lost_s is not None
    source.on_frame(frame(0, 10.0), 1.0)
    assert source.lost_s is None
    assert [f.index for f in consumer.frames] == [0, 1, 2, 3]
    assert consumer.frames[-1].pts_s == 10.0
    assert (source.reconnects, source.dropped, source.damaged) == (1, 3, 2)
    for _ in range(4):
        source.acknowledge()
    assert other.acknowledged[2] == 1


def test_a_file_moves_and_is_read_from_where_it_was() -> None:
    source, consumer, other = moved(FakeWorker(), "clip.mp4", 3)
    assert other.sent[0] == Open(2, SourceSpec.parse("clip.mp4"), SourceOptions(gpu=0), 3)
    source.on_frame(frame(3, 10.0), 1.0)
    assert [(f.index, f.pts_s) for f in consumer.frames] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, pytest.approx(0.3))]
    source.on_status(source.info, Status(damaged=2))  # the same packets again
    assert (source.lost_s, source.reconnects, source.damaged) == (None, 0, 2)


def test_a_source_that_moves_before_its_first_frame_begins_there() -> None:
    source, consumer, other = moved(FakeWorker(), "clip.mp4", 0)
    assert other.sent[0] == Open(2, SourceSpec.parse("clip.mp4"), SourceOptions(gpu=0), 0)
    source.on_frame(frame(0, 10.0), 1.0)
    assert [f.index for f in consumer.frames] == [0]


def test_one_between_two_workers_opens_on_the_other_gpu() -> None:
    source, worker = (
        RemoteSource(SourceSpec.parse("clip.mp4"), ON_GPU, lambda _: pytest.fail("not attached")),
        FakeWorker(),
    )
    source.move_to_gpu(0)
    assert source.attach(worker.attachment)
    assert worker.sent == [Open(1, SourceSpec.parse("clip.mp4"), SourceOptions(gpu=0))]


def test_one_that_was_closed_stays_so() -> None:
    worker = FakeWorker()
    source = RemoteSource(SourceSpec.parse("clip.mp4"), ON_GPU, lambda _: pytest.fail("closed"))
    assert source.attach(worker.attachment)
    source.close()
    source.move_to_gpu(0)
    assert worker.left == 0


def test_a_frame_on_a_failed_gpu_is_dropped_and_makes_room() -> None:
    worker = FakeWorker()
    source, consumer = attached(worker)
    source.on_lost()
    assert worker.acknowledged[1] == 1
    assert (source.dropped, len(consumer.frames)) == (1, 0)
