"""Sources in decoding workers give the same frames as in this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.common.errors import ConfigError, SourceError, StreamerError
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sources import SourceOptions, open_source
from streamer.sources.base import FrameConsumer, PushSource
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool, default_process_count
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED
from tests.fakes import WAIT_S, wait_for
from tests.media import number_of, write_clip

A_MOMENT_S = 0.3
CPU = SourceOptions()
LONG = 4 * MAX_UNACKNOWLEDGED


class Kept(FrameConsumer):
    """Keeps a source's frames; acknowledges them if it has the source.

    Attributes:
        frames: received so far.
        ends: the error of each `on_end`.
        more: set when there are more than `most` frames.
    """

    def __init__(self, source: PushSource | None = None, *, most: int = 1 << 30, before: threading.Event | None = None):
        self.frames: list[Frame] = []
        self.ends: list[StreamerError | None] = []
        self.more = threading.Event()
        self.most = most
        self._source, self._before = source, before

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        assert capture_ms >= 0
        self.frames.append(frame)
        if self._before is not None:
            self._before.wait(WAIT_S)
        if self._source is not None:
            self._source.acknowledge()
        if len(self.frames) > self.most:
            self.more.set()

    def on_end(self, error: StreamerError | None) -> None:
        self.ends.append(error)

    def has_just(self, count: int) -> bool:
        """Waits until there are `count`; returns whether no more come for a moment."""
        self.more.clear()
        self.most = count
        wait_for(lambda: len(self.frames) >= count)
        return not self.more.wait(A_MOMENT_S) and len(self.frames) == count


@pytest.fixture(scope="module")
def _both() -> Iterator[DecoderPool]:
    with DecoderPool(2) as processes:
        yield processes


@pytest.fixture
def both(_both: DecoderPool) -> Iterator[DecoderPool]:
    """Two workers, shared by tests that don't kill them; waits until their sources are closed."""
    yield _both
    wait_for(lambda: loads(_both) == [0, 0])


def opened(processes: DecoderPool, uri: Path | str, name: str = "a", options: SourceOptions = CPU) -> PushSource:
    """Opens a source and waits for its first frame."""
    source = processes.open(SourceSpec.parse(str(uri), name=name), options)
    assert isinstance(source, PushSource)
    source.wait_ready()
    return source


def loads(processes: DecoderPool) -> list[int]:
    return [worker.load for worker in processes.status()]


# --- the same as here ---


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "kind"),
    [
        ("clip.mp4", "libx264", "yuv420p", Yuv420),
        ("clip.mp4", "mjpeg", "yuvj420p", Yuv420),
        ("clip.mkv", "ffv1", "gray", np.ndarray),
        ("clip.mov", "png", "rgb24", np.ndarray),
    ],
)
def test_frames_are_those_of_this_process(
    both: DecoderPool, tmp_path: Path, name: str, codec: str, pix_fmt: str, kind: type
) -> None:
    path = write_clip(tmp_path / name, LONG, codec=codec, pix_fmt=pix_fmt)
    with open_source(str(path), name="a") as here, opened(both, path) as there:
        assert there.info == here.info
        wanted, got = list(here), list(there)
        assert (there.skipped, there.damaged, there.reconnects, there.lost_s) == ((), 0, 0, None)
    assert [(f.source, f.index, f.pts_s, f.name) for f in got] == [(f.source, f.index, f.pts_s, f.name) for f in wanted]
    assert len(got) == LONG
    for ours, theirs in zip(got, wanted, strict=True):
        assert isinstance(ours.pixels, kind)
        np.testing.assert_array_equal(ours.image, theirs.image)
    captured_s = [frame.captured_at_s for frame in got]
    assert captured_s == sorted(captured_s) and captured_s[-1] <= time.perf_counter()


def test_what_is_damaged_is_told(both: DecoderPool, tmp_path: Path) -> None:
    options = {"codec_options": {"g": "10"}, "container_options": {"movflags": "faststart"}}
    path = write_clip(tmp_path / "clip.mp4", LONG, **options)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-300])
    with opened(both, path) as source:
        frames = list(source)
        assert source.skipped[-1] == "its end: 300 bytes of the file are missing"
        assert source.damaged == len(source.skipped) - 1
    assert MAX_UNACKNOWLEDGED < len(frames) < LONG


def test_several_sources_are_spread_and_beside_each_other(both: DecoderPool, tmp_path: Path) -> None:
    counts = [LONG + number for number in range(5)]
    paths = [write_clip(tmp_path / f"{number}.mp4", count) for number, count in enumerate(counts)]
    sources = [both.open(SourceSpec.parse(str(path)), CPU) for path in paths]
    assert sorted(loads(both)) == [2, 3]
    assert [source.info.name for source in sources] == [str(number) for number in range(5)]
    frames = [iter(source) for source in sources]
    got: list[list[int]] = [[] for _ in sources]
    for _ in range(max(counts)):
        for numbers, each in zip(got, frames, strict=True):
            numbers += [number_of(frame.image) for frame in [next(each, None)] if frame is not None]
    assert [next(each, None) for each in frames] == [None] * 5
    assert got == [list(range(count)) for count in counts]


@pytest.mark.parametrize(("name", "said"), [("missing.mp4", "missing.mp4' does not exist"), ("text.mp4", "text.mp4")])
def test_what_cannot_be_opened(both: DecoderPool, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.mp4").write_text("no film\n" * 100)
    with both.open(SourceSpec.parse(str(tmp_path / name), name="a"), CPU) as source:
        with pytest.raises(SourceError, match=said) as caught:
            source.wait_ready()
        with pytest.raises(SourceError, match=said):
            list(source)
        consumer = Kept()
        assert isinstance(source, PushSource)
        source.start(consumer, paced=False)
        assert list(map(str, consumer.ends)) == [str(caught.value)]


# --- room, time and ends ---


def test_no_more_is_decoded_ahead_than_there_is_room_for(both: DecoderPool, long_clip: Path) -> None:
    with opened(both, long_clip) as source:
        consumer = Kept()
        source.start(consumer, paced=False)
        assert source.max_unacknowledged == MAX_UNACKNOWLEDGED
        assert consumer.has_just(MAX_UNACKNOWLEDGED)
        for taken in (1, 5):
            for _ in range(taken):
                source.acknowledge()
            assert consumer.has_just(len(consumer.frames) + taken)
        for _ in range(LONG):
            source.acknowledge()
        wait_for(lambda: consumer.ends == [None])
    assert [frame.index for frame in consumer.frames] == list(range(LONG))


def test_frames_come_at_their_own_time(both: DecoderPool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 8, fps=10)
    with opened(both, path) as source:
        consumer, began_s = Kept(source), time.perf_counter()
        source.start(consumer, paced=True)
        wait_for(lambda: consumer.ends == [None])
    assert len(consumer.frames) == 8
    assert all(frame.captured_at_s >= began_s + frame.pts_s - 0.001 for frame in consumer.frames)


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_one_that_is_let_go_in_the_middle_ends(both: DecoderPool, long_clip: Path, how: str) -> None:
    source = opened(both, long_clip)
    frames = iter(source)
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    assert sum(loads(both)) == 1
    for _ in range(2):
        getattr(source, how)()
    assert len(list(frames)) <= MAX_UNACKNOWLEDGED
    wait_for(lambda: loads(both) == [0, 0])
    assert list(source) == []


def test_one_that_is_let_go_before_it_began_ends(both: DecoderPool, long_clip: Path) -> None:
    source = both.open(SourceSpec.parse(str(long_clip), name="a"), CPU)
    source.close()
    assert list(source) == []


def test_closing_late_harms_no_source_that_came_later(
    one_process: DecoderPool, long_clip: Path, tmp_path: Path
) -> None:
    first = opened(one_process, write_clip(tmp_path / "short.mp4", 5))
    assert len(list(first)) == 5
    wait_for(lambda: loads(one_process) == [0])
    with opened(one_process, long_clip) as second:
        first.close()
        assert len(list(second)) == LONG


def test_counting_late_makes_no_room_for_a_source_that_came_later(
    one_process: DecoderPool, long_clip: Path, tmp_path: Path
) -> None:
    first, consumer = opened(one_process, write_clip(tmp_path / "short.mp4", 10)), Kept()
    first.start(consumer, paced=False)
    wait_for(lambda: consumer.ends)
    wait_for(lambda: loads(one_process) == [0])
    with opened(one_process, long_clip) as second:
        for _ in consumer.frames:
            first.acknowledge()
        other = Kept()
        second.start(other, paced=False)
        assert other.has_just(MAX_UNACKNOWLEDGED)


# --- how many ---


@pytest.mark.parametrize(
    ("videos", "cores", "wanted"),
    [(0, 8, 0), (1, 64, 0), (3, 64, 0), (4, 1, 1), (4, 2, 1), (4, 4, 2), (4, 64, 2), (32, 64, 2), (33, 64, 3),
     (60, 64, 4), (60, 6, 3), (1000, 16, 8)],
)  # fmt: skip
def test_how_many_there_are(videos: int, cores: int, wanted: int) -> None:
    assert default_process_count(videos, cores) == wanted


def test_where_there_can_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert default_process_count(100, 64) == 0
    with pytest.raises(ConfigError, match="need Linux.*--decode-processes 0"):
        DecoderPool(1)
