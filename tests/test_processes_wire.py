"""What goes between a run and its decoding processes: objects over a socket, counters in shared memory, pictures."""

from __future__ import annotations

import os
import pickle
import select
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
from streamer.sources.workers import messages
from streamer.sources.workers.message_channel import Garbled, MessageChannel
from streamer.sources.workers.shared_counters import SLOTS, SOURCES, SharedCounters
from tests.fakes import WAIT_S

UNSPECIFIED, BT709, SMPTE170M, BT2020 = 2, 1, 6, 9
LIMITED, FULL = 1, 2

LEAVES = st.none() | st.integers() | st.text(max_size=20) | st.binary(max_size=3000)
OBJECTS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner), max_leaves=8)


@pytest.fixture
def wires() -> Iterator[tuple[MessageChannel, MessageChannel]]:
    """Both ends."""
    ends = tuple(MessageChannel(end) for end in socket.socketpair())
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def bytes_of(*messages: object) -> bytes:
    """Returns what `MessageChannel.send` puts on the line."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        with closing(MessageChannel(ours)) as wire:
            wire.send(*messages)
        return b"".join(iter(lambda: theirs.recv(1 << 20), b""))


def received(wire: MessageChannel, count: int) -> list[Any]:
    """Receives until there are so many objects."""
    found: list[Any] = []
    while len(found) < count:
        came = wire.receive()
        assert came, "wanted at least one object"
        found += came
    return found


def rest_of(wire: MessageChannel) -> list[Any]:
    """Receives to the end."""
    found: list[Any] = []
    while True:
        try:
            found += wire.receive()
        except EOFError:
            return found


# --- the wire ---


@settings(max_examples=100)
@given(st.lists(st.lists(OBJECTS, max_size=4), max_size=6), st.data())
def test_objects_come_whole_and_in_order_however_their_bytes_are_split(
    sends: list[list[object]], data: st.DataObject
) -> None:
    """The bytes go over a socket that keeps the borders between writes, so that the receiver sees each part alone."""
    stream = b"".join(bytes_of(*objects) for objects in sends)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=12), "cuts"))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def send() -> None:
        with closing(ours):
            for part in filter(None, parts):
                ours.sendall(part)

    sender = threading.Thread(target=send)
    with closing(MessageChannel(theirs)) as wire:
        sender.start()
        wanted = [each for objects in sends for each in objects]
        assert received(wire, len(wanted)) == wanted
        with pytest.raises(EOFError):
            wire.receive()
    sender.join(WAIT_S)


def test_big_objects_go_both_ways_at_once(wires: tuple[MessageChannel, MessageChannel]) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (1080, 1920, 3), np.uint8) for _ in range(2)]
    senders = [
        threading.Thread(target=wire.send, args=(picture, number, picture[::2]))
        for number, (wire, picture) in enumerate(zip(wires, pictures, strict=True))
    ]
    other: list[Any] = []
    receiver = threading.Thread(target=lambda: other.extend(received(wires[1], 3)))
    for thread in (*senders, receiver):
        thread.start()
    got = received(wires[0], 3)
    for thread in (*senders, receiver):
        thread.join(WAIT_S)
    for (whole, number, half), picture, sender in ((got, pictures[1], 1), (other, pictures[0], 0)):
        assert number == sender
        np.testing.assert_array_equal(whole, picture)
        np.testing.assert_array_equal(half, picture[::2])


def test_what_several_threads_send_is_not_mixed_up(wires: tuple[MessageChannel, MessageChannel]) -> None:
    def send(who: int) -> None:
        for number in range(10):
            wires[0].send((who, number), bytes([who]) * 500_000)

    threads = [threading.Thread(target=send, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    got = received(wires[1], 4 * 10 * 2)
    for thread in threads:
        thread.join(WAIT_S)
    heads, bodies = got[::2], got[1::2]
    assert [body == bytes([who]) * 500_000 for (who, _), body in zip(heads, bodies, strict=True)] == [True] * 40
    for who in range(4):
        assert [number for each, number in heads if each == who] == list(range(10))


def test_nothing_may_be_sent(wires: tuple[MessageChannel, MessageChannel]) -> None:
    wires[0].send()
    wires[0].send("one")
    assert wires[1].receive() == ["one"]


def test_it_is_readable_when_there_is_something(wires: tuple[MessageChannel, MessageChannel]) -> None:
    assert select.select([wires[1]], [], [], 0) == ([], [], [])
    wires[0].send(1)
    assert select.select([wires[1]], [], [], WAIT_S)[0] == [wires[1]]


@pytest.fixture
def open_wires() -> Iterator[tuple[MessageChannel, socket.socket]]:
    """An end that doesn't block, and the other's socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with closing(MessageChannel(ours)) as wire, closing(theirs):
        yield wire, theirs


@given(sends=st.lists(st.lists(OBJECTS, max_size=3), max_size=4), data=st.data())
def test_parts_are_kept_until_they_are_whole(sends: list[list[object]], data: st.DataObject) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    whole = b"".join(bytes_of(*each) for each in sends)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    with closing(MessageChannel(ours)) as wire, closing(theirs):
        got: list[object] = wire.receive()
        assert got == []
        for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            theirs.sendall(whole[begin:end])
            got += wire.receive()
            assert wire.is_receiving == (b"".join(map(bytes_of, got)) != whole[:end])
    assert got == [each for objects in sends for each in objects]


@given(junk=st.binary(min_size=8, max_size=300))
def test_junk_is_refused_or_awaited(junk: bytes) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with closing(MessageChannel(ours)) as wire, closing(theirs):
        theirs.sendall(bytes_of("first") + b"\x00" * 7 + junk[:1] + junk)
        try:
            assert wire.receive()[:1] == ["first"]
        except Garbled:
            pass


@pytest.mark.parametrize("size", [(1 << 30) + 1, 1 << 63])
def test_an_enormous_message_is_refused_by_its_first_bytes(
    open_wires: tuple[MessageChannel, socket.socket], size: int
) -> None:
    wire, theirs = open_wires
    theirs.sendall(size.to_bytes(8, "big"))
    with pytest.raises(Garbled, match=f"{size} bytes"):
        wire.receive()


def test_what_is_not_read_is_kept_and_sent_later_in_order(open_wires: tuple[MessageChannel, socket.socket]) -> None:
    wire, theirs = open_wires
    numbers = range(300)
    for number in numbers:
        wire.send((number, bytes(10_000)))
    assert wire.is_sending
    with closing(MessageChannel(theirs.dup())) as other:
        got: list[Any] = []
        while len(got) < len(numbers):
            got += other.receive()
            wire.flush()
    assert [number for number, _ in got] == list(numbers) and not wire.is_sending


def test_what_is_not_read_is_forgotten_with_the_other_end(open_wires: tuple[MessageChannel, socket.socket]) -> None:
    wire, theirs = open_wires
    while not wire.is_sending:
        wire.send(bytes(100_000))
    theirs.close()
    with pytest.raises(OSError):
        wire.flush()
    assert not wire.is_sending


def ended_within(whole: list[object], part: int) -> MessageChannel:
    """Returns an end that gets whole objects, and of one more only its first bytes, before the other is closed."""
    ours, theirs = socket.socketpair()
    with closing(ours):
        ours.sendall(b"".join(bytes_of(each) for each in whole) + bytes_of(b"x" * 10_000)[:part])
    return MessageChannel(theirs)


@pytest.mark.parametrize(("whole", "part"), [([], 0), ([1, ("b", 2)], 0), ([], 1), ([], 7), ([], 8), ([], 9_000)])
def test_the_other_end_goes(whole: list[object], part: int) -> None:
    with closing(ended_within(whole, part)) as wire:
        assert received(wire, len(whole)) == whole
        for _ in range(2):
            with pytest.raises(EOFError):
                wire.receive()


@pytest.mark.parametrize("part", [1, 8, 9_000])
def test_what_came_whole_is_not_lost_with_what_did_not(part: int) -> None:
    """It may be the word that a source has ended well."""
    with closing(ended_within([1, ("b", 2)], part)) as wire:
        assert rest_of(wire) == [1, ("b", 2)]


def test_sending_to_nobody(wires: tuple[MessageChannel, MessageChannel]) -> None:
    wires[1].close()
    with pytest.raises(OSError):
        wires[0].send("is there anybody?")


@pytest.mark.parametrize("ending", [0, 1])
def test_ending_wakes_both_ends(wires: tuple[MessageChannel, MessageChannel], ending: int) -> None:
    ended: list[int] = []

    def wait(end: int) -> None:
        assert rest_of(wires[end]) == []
        ended.append(end)

    threads = [threading.Thread(target=wait, args=(end,)) for end in (0, 1)]
    for thread in threads:
        thread.start()
    wires[ending].end()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(ended) == [0, 1]
    with pytest.raises(OSError):
        wires[1 - ending].send("too late")
    for wire in wires * 2:
        wire.end()
        wire.close()


# --- the board ---


def test_two_mappings_show_the_same_counters() -> None:
    descriptor = SharedCounters.new()
    ours, theirs = SharedCounters(descriptor), SharedCounters(descriptor)
    os.close(descriptor)  # the mappings stay
    assert ours.taken.shape == (SOURCES,) and ours.returned.shape == (SLOTS,)
    assert not theirs.taken.any() and not theirs.returned.any()
    ours.taken[[0, SOURCES - 1]] = 7, 2**64 - 1
    ours.returned[[0, SLOTS - 1]] = 3, 2**32 - 1
    ours.taken[0] += 1
    np.testing.assert_array_equal(theirs.taken[[0, 1, SOURCES - 2, SOURCES - 1]], [8, 0, 0, 2**64 - 1])
    np.testing.assert_array_equal(theirs.returned[[0, 1, SLOTS - 2, SLOTS - 1]], [3, 0, 0, 2**32 - 1])
    assert np.count_nonzero(theirs.taken) == np.count_nonzero(theirs.returned) == 2


def test_boards_have_nothing_in_common() -> None:
    boards = []
    for _ in range(2):
        descriptor = SharedCounters.new()
        boards.append(SharedCounters(descriptor))
        os.close(descriptor)
    boards[0].taken[:], boards[0].returned[:] = 1, 1
    assert not boards[1].taken.any() and not boards[1].returned.any()


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
    wires: tuple[MessageChannel, MessageChannel], size_wh: tuple[int, int], format: str
) -> None:
    sent = picture(size_wh, format)
    sender = threading.Thread(target=wires[0].send, args=(sent,))
    sender.start()
    (got,) = wires[1].receive()
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


def test_a_picture_without_a_time(wires: tuple[MessageChannel, MessageChannel]) -> None:
    sent = Yuv420(av.VideoFrame(16, 16, "yuv420p"))
    assert sent.av_frame.pts is None
    wires[0].send(sent)
    (got,) = wires[1].receive()
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
def test_frames_with_their_pixels(wires: tuple[MessageChannel, MessageChannel], pixels: Yuv420 | np.ndarray) -> None:
    wires[0].send(messages.Copied(3, Frame(pixels, "door", 7, 0.25, 12.5, "a.jpg"), 1.5))
    (got,) = wires[1].receive()
    assert isinstance(got, messages.Copied)
    frame = got.frame
    assert (got.number, got.capture_ms) == (3, 1.5)
    assert (frame.source, frame.index, frame.pts_s, frame.captured_at_s, frame.name) == ("door", 7, 0.25, 12.5, "a.jpg")
    assert frame.size_wh == (98, 66)
    np.testing.assert_array_equal(frame.image, Frame(pixels, "", 0, 0.0, 0.0).image)


@pytest.mark.parametrize("error", [None, SourceError("it 'broke' off"), ConfigError("no")])
def test_what_is_said_of_a_source(
    wires: tuple[MessageChannel, MessageChannel], error: SourceError | ConfigError | None
) -> None:
    status = messages.Status(1.5, 1, 2, 3, ("3 damaged packets",))
    said = [
        messages.Open(0, "rtsp://door", "door", SourceOptions(stall_timeout_s=1.0, gpu=0)),
        messages.Opened(1, SourceInfo("door", "rtsp://door", (32, 24), 29.97, live=True), status),
        messages.Ended(2, error, status),
    ]
    wires[0].send(*said)
    got = wires[1].receive()
    assert [type(each) for each in got] == [type(each) for each in said]
    assert got[:2] == said[:2]
    ended = got[2]
    assert isinstance(ended, messages.Ended)
    assert (type(ended.error), str(ended.error), ended.status) == (type(error), str(error), status)
