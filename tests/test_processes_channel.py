"""Between a run and its decoding workers: objects over a socket, counters in shared memory, pictures."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import ConfigError, SourceError
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.frames.yuv_matrix import Matrix
from streamer.sources.base import SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import messages
from streamer.sources.workers.message_channel import GarbledMessageError, MessageChannel
from streamer.sources.workers.shared_counters import SLOTS, SOURCES, SharedCounters
from tests.fakes import WAIT_S

UNSPECIFIED, BT709, SMPTE170M, BT2020 = 2, 1, 6, 9
LIMITED, FULL = 1, 2

LEAVES = st.none() | st.integers() | st.text(max_size=20) | st.binary(max_size=3000)
OBJECTS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=8)


@pytest.fixture
def channels() -> Iterator[tuple[MessageChannel, MessageChannel]]:
    """Both ends."""
    ends = tuple(MessageChannel(end) for end in socket.socketpair())
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def bytes_of(*messages: object) -> bytes:
    """Returns what `MessageChannel.send` puts on the line."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        with closing(MessageChannel(ours)) as channel:
            channel.send(*messages)
        return b"".join(iter(lambda: theirs.recv(1 << 20), b""))


def received(channel: MessageChannel, count: int) -> list[Any]:
    """Receives until there are that many objects."""
    found: list[Any] = []
    while len(found) < count:
        found += channel.receive()
    return found


# --- the channel ---


@settings(max_examples=100)
@given(st.lists(st.lists(OBJECTS, max_size=4), max_size=6), st.data())
def test_objects_come_whole_and_in_order_however_their_bytes_are_split(
    sends: list[list[object]], data: st.DataObject
) -> None:
    stream = b"".join(bytes_of(*objects) for objects in sends)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=12), "cuts"))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    ours, theirs = socket.socketpair()

    def send() -> None:
        with closing(ours):
            for part in parts:
                ours.sendall(part)

    sender = threading.Thread(target=send)
    with closing(MessageChannel(theirs)) as channel:
        sender.start()
        assert [channel.receive() for _ in sends] == [tuple(objects) for objects in sends]
        with pytest.raises(EOFError):
            channel.receive()
    sender.join(WAIT_S)


def test_big_objects_go_both_ways_at_once(channels: tuple[MessageChannel, MessageChannel]) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (1080, 1920, 3), np.uint8) for _ in range(2)]
    senders = [
        threading.Thread(target=channel.send, args=(picture, number, picture[::2]))
        for number, (channel, picture) in enumerate(zip(channels, pictures, strict=True))
    ]
    other: list[Any] = []
    receiver = threading.Thread(target=lambda: other.extend(received(channels[1], 3)))
    for thread in (*senders, receiver):
        thread.start()
    got = received(channels[0], 3)
    for thread in (*senders, receiver):
        thread.join(WAIT_S)
    for (whole, number, half), picture, sender in ((got, pictures[1], 1), (other, pictures[0], 0)):
        assert number == sender
        np.testing.assert_array_equal(whole, picture)
        np.testing.assert_array_equal(half, picture[::2])


def test_messages_of_several_threads_are_not_mixed_up(channels: tuple[MessageChannel, MessageChannel]) -> None:
    def send(sender: int) -> None:
        for number in range(10):
            channels[0].send((sender, number), bytes([sender]) * 500_000)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    got = received(channels[1], 4 * 10 * 2)
    for thread in threads:
        thread.join(WAIT_S)
    heads, bodies = got[::2], got[1::2]
    assert [body == bytes([sender]) * 500_000 for (sender, _), body in zip(heads, bodies, strict=True)] == [True] * 40
    for sender in range(4):
        assert [number for each, number in heads if each == sender] == list(range(10))


@given(junk=st.binary(max_size=300))
def test_junk_is_refused_or_lacks_its_end(junk: bytes) -> None:
    ours, theirs = socket.socketpair()
    with closing(MessageChannel(ours)) as channel:
        with closing(theirs):
            theirs.sendall(bytes_of("first") + junk)
        assert channel.receive() == ("first",)
        with pytest.raises((GarbledMessageError, EOFError, OSError)):
            while True:
                channel.receive()


@pytest.mark.parametrize("size", [(1 << 30) + 1, 1 << 63])
def test_an_enormous_message_is_refused_by_its_first_bytes(size: int) -> None:
    ours, theirs = socket.socketpair()
    with closing(MessageChannel(ours)) as channel, closing(theirs):
        theirs.sendall(b"\xff\xff\xff\xff" + size.to_bytes(8, "big"))
        with pytest.raises(GarbledMessageError, match="length"):
            channel.receive()


@pytest.mark.parametrize("part", [0, 1, 4, 9_000])
def test_waiting_for_the_rest_of_a_message_ends_in_time(part: int) -> None:
    ours, theirs = socket.socketpair()
    with closing(MessageChannel(ours, 0.05)) as channel, closing(theirs):
        theirs.sendall(bytes_of("first") + bytes_of(b"x" * 10_000)[:part])
        assert channel.receive() == ("first",)
        with pytest.raises(TimeoutError):
            channel.receive()


def test_sending_to_an_end_that_does_not_read_ends_in_time() -> None:
    ours, theirs = socket.socketpair()
    with closing(MessageChannel(ours, 0.05)) as channel, closing(theirs):
        with pytest.raises(OSError):
            channel.send(bytes(10_000_000))
        assert channel.is_unread
        with pytest.raises(BrokenPipeError):  # nothing can follow half a message
            channel.send(b"more")


@pytest.mark.parametrize("part", [0, 1, 8, 9_000])
def test_the_other_end_closes(part: int) -> None:
    ours, theirs = socket.socketpair()
    with closing(MessageChannel(theirs)) as channel:
        with closing(ours):
            ours.sendall(bytes_of(1) + bytes_of(("b", 2)) + bytes_of(b"x" * 10_000)[:part])
        assert received(channel, 2) == [1, ("b", 2)]
        with pytest.raises((EOFError, OSError)):
            channel.receive()


def test_sending_to_a_closed_end(channels: tuple[MessageChannel, MessageChannel]) -> None:
    channels[1].close()
    with pytest.raises(OSError):
        channels[0].send("anybody there?")


@pytest.mark.parametrize("ending", [0, 1])
def test_shutting_down_wakes_both_ends(channels: tuple[MessageChannel, MessageChannel], ending: int) -> None:
    ended: list[int] = []

    def wait(end: int) -> None:
        with pytest.raises((EOFError, OSError)):
            channels[end].receive()
        ended.append(end)

    threads = [threading.Thread(target=wait, args=(end,)) for end in (0, 1)]
    for thread in threads:
        thread.start()
    channels[ending].shutdown()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(ended) == [0, 1]
    with pytest.raises(OSError):
        channels[1 - ending].send("too late")
    for channel in channels * 2:
        channel.shutdown()
        channel.close()


# --- the counters ---


def test_two_mappings_show_the_same_counters() -> None:
    descriptor = SharedCounters.create()
    ours, theirs = SharedCounters(descriptor), SharedCounters(descriptor)
    os.close(descriptor)  # the mappings stay
    assert ours.acknowledged.shape == (SOURCES,) and ours.returned.shape == (SLOTS,)
    assert not theirs.acknowledged.any() and not theirs.returned.any()
    ours.acknowledged[[0, SOURCES - 1]] = 7, 2**64 - 1
    ours.returned[[0, SLOTS - 1]] = 3, 2**32 - 1
    ours.acknowledged[0] += 1
    np.testing.assert_array_equal(theirs.acknowledged[[0, 1, SOURCES - 2, SOURCES - 1]], [8, 0, 0, 2**64 - 1])
    np.testing.assert_array_equal(theirs.returned[[0, 1, SLOTS - 2, SLOTS - 1]], [3, 0, 0, 2**32 - 1])
    assert np.count_nonzero(theirs.acknowledged) == np.count_nonzero(theirs.returned) == 2


def test_counters_have_nothing_in_common() -> None:
    counters = []
    for _ in range(2):
        descriptor = SharedCounters.create()
        counters.append(SharedCounters(descriptor))
        os.close(descriptor)
    counters[0].acknowledged[:], counters[0].returned[:] = 1, 1
    assert not counters[1].acknowledged.any() and not counters[1].returned.any()


# --- what is sent ---


def picture(
    size_wh: tuple[int, int], format: str = "yuv420p", colorspace: int = BT709, color_range: int = LIMITED
) -> Yuv420:
    """Returns random planes with a time and colour tags."""
    random = np.random.default_rng(size_wh)
    frame = av.VideoFrame(*size_wh, format)
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = colorspace, color_range, BT2020, 16
    frame.pts, frame.time_base = 1234, Fraction(1, 90_000)
    made = Yuv420(frame, writable=True)
    for plane in (made.y, made.u, made.v):
        plane[...] = random.integers(0, 256, plane.shape, np.uint8)
    return Yuv420(frame)


def assert_same(got: Yuv420, wanted: Yuv420) -> None:
    for name in ("size_wh", "matrix", "full_range"):
        assert getattr(got, name) == getattr(wanted, name)
    for plane, other in zip((got.y, got.u, got.v), (wanted.y, wanted.u, wanted.v), strict=True):
        np.testing.assert_array_equal(plane, other)
        assert not plane.flags.writeable
    for name in ("pts", "time_base", "colorspace", "color_range", "color_primaries", "color_trc"):
        assert getattr(got.av_frame, name) == getattr(wanted.av_frame, name), name
    assert got.av_frame.format.name == wanted.av_frame.format.name
    np.testing.assert_array_equal(got.to_bgr(), wanted.to_bgr())


@pytest.mark.parametrize("size_wh", [(96, 64), (97, 64), (96, 65), (97, 65), (2, 2), (1, 1), (1920, 1081)])
@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p"])
def test_a_picture_is_the_same_over_there(
    channels: tuple[MessageChannel, MessageChannel], size_wh: tuple[int, int], format: str
) -> None:
    sent = picture(size_wh, format)
    sender = threading.Thread(target=channels[0].send, args=(sent,))
    sender.start()
    (got,) = channels[1].receive()
    sender.join(WAIT_S)
    assert isinstance(got, Yuv420)
    assert_same(got, sent)
    assert got.full_range is (format == "yuvj420p")


@pytest.mark.parametrize("color_range", [0, LIMITED, FULL])
@pytest.mark.parametrize(
    ("colorspace", "matrix"),
    [(UNSPECIFIED, Matrix.BT601), (BT709, Matrix.BT709), (SMPTE170M, Matrix.BT601), (BT2020, Matrix.BT2020)],
)
def test_colours_are_kept(colorspace: int, matrix: Matrix, color_range: int) -> None:
    sent = picture((32, 18), "yuv420p", colorspace, color_range)
    got = pickle.loads(pickle.dumps(sent))
    assert_same(got, sent)
    assert (got.matrix, got.full_range) == (matrix, color_range == FULL)


def test_a_picture_without_a_time(channels: tuple[MessageChannel, MessageChannel]) -> None:
    sent = Yuv420(av.VideoFrame(16, 16, "yuv420p"))
    assert sent.av_frame.pts is None
    channels[0].send(sent)
    (got,) = channels[1].receive()
    assert isinstance(got, Yuv420)
    assert_same(got, sent)


def test_a_picture_is_a_copy() -> None:
    sent = picture((32, 18)).copy()
    got = pickle.loads(pickle.dumps(sent))
    before = got.y.copy()
    sent.y[...] ^= 255
    np.testing.assert_array_equal(got.y, before)


@pytest.mark.parametrize(
    "pixels", [picture((98, 66)), np.random.default_rng(1).integers(0, 256, (66, 98, 3), np.uint8)]
)
def test_frames_with_their_pixels(channels: tuple[MessageChannel, MessageChannel], pixels: Yuv420 | np.ndarray) -> None:
    channels[0].send(messages.FrameCopied(3, Frame(pixels, "door", 7, 0.25, 12.5, "a.jpg"), 1.5))
    (got,) = channels[1].receive()
    assert isinstance(got, messages.FrameCopied)
    frame = got.frame
    assert (got.number, got.capture_ms) == (3, 1.5)
    assert (frame.source, frame.index, frame.pts_s, frame.captured_at_s, frame.name) == ("door", 7, 0.25, 12.5, "a.jpg")
    assert frame.size_wh == (98, 66)
    np.testing.assert_array_equal(frame.image, Frame(pixels, "", 0, 0.0, 0.0).image)


@pytest.mark.parametrize("error", [None, SourceError("it 'broke' off"), ConfigError("no")])
def test_what_is_said_of_a_source(
    channels: tuple[MessageChannel, MessageChannel], error: SourceError | ConfigError | None
) -> None:
    status = messages.Status(1.5, 1, 2, 3, ("3 damaged packets",))
    said = [
        messages.Open(0, SourceSpec.parse("rtsp://door"), SourceOptions(stall_timeout_s=1.0, gpu=0)),
        messages.Opened(1, SourceInfo("door", "rtsp://door", (32, 24), 29.97, live=True), status),
        messages.Ended(2, error, status),
    ]
    channels[0].send(*said)
    got = list(channels[1].receive())
    assert [type(each) for each in got] == [type(each) for each in said]
    assert got[:2] == said[:2]
    ended = got[2]
    assert isinstance(ended, messages.Ended)
    assert (type(ended.error), str(ended.error), ended.status) == (type(error), str(error), status)
