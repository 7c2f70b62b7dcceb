"""Packets of sources without any: one encoder for all readers, while there is one."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.common.queues import Closed
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket
from streamer.sinks.options import Encoding
from streamer.sinks.video.encoded_tap import EncodedSource, EncodedTap
from streamer.sinks.video.record import RecordSink
from streamer.sources.base import Source, SourceInfo
from streamer.sources.packet_tap import PacketReader
from tests.fakes import wait_for
from tests.media import number_of, picture
from tests.recordings import NOTHING, read

FPS = 30


def frame(number: int, size_wh: tuple[int, int] = (96, 64)) -> Frame:
    return Frame(picture(number, size_wh), "door", number, number / FPS, 100.0 + number / FPS)


def offered(
    tap: EncodedTap, reader: PacketReader, numbers: range, size_wh: tuple[int, int] = (96, 64)
) -> list[MediaPacket]:
    """Offers pictures, one when the one before has become a packet."""
    found = []
    for number in numbers:
        tap.offer(frame(number, size_wh))
        packet = reader.read(60.0)
        assert packet is not None
        found.append(packet)
    return found


def decoded(packets: list[MediaPacket]) -> list[int]:
    context = av.CodecContext.create(packets[0].format.codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = packets[0].format.extradata
    pictures = [each for packet in packets for each in context.decode(av.Packet(bytes(packet.data)))]
    pictures += context.decode(None)
    return [number_of(np.asarray(each.to_ndarray(format="bgr24"), np.uint8)) for each in pictures]


def test_each_picture_becomes_a_packet_at_once() -> None:
    tap = EncodedTap("door", fps=FPS)
    packets = offered(tap, tap.read_from(), range(75))
    assert decoded(packets) == list(range(75))
    assert [packet.time_s for packet in packets] == [number / FPS for number in range(75)]
    assert [packet.captured_at_s for packet in packets] == [100.0 + number / FPS for number in range(75)]
    keys = [packet.time_s for packet in packets if packet.is_key]
    assert keys == pytest.approx([0.0, 1.0, 2.0], abs=1.5 / FPS)
    assert {packet.format.codec for packet in packets} == {"h264"}
    with av.open(io.BytesIO(packets[0].format.template)) as template:
        assert template.streams[0].codec_context.name == "h264"
    tap.close()


def test_nothing_is_encoded_while_nobody_reads() -> None:
    tap = EncodedTap("door")
    for number in range(50):
        tap.offer(frame(number))
    assert not tap.is_encoding and tap.dropped == 0 and tap.held_bytes == 0
    first, second = tap.read_from(), tap.read_from()
    offered(tap, first, range(50, 55))
    assert tap.is_encoding and second.read(60.0) is not None
    first.close()
    assert tap.is_encoding
    second.close()
    assert not tap.is_encoding and tap.held_bytes == 0
    begun = offered(tap, tap.read_from(), range(200, 205))
    assert begun[0].is_key and decoded(begun) == list(range(200, 205))
    tap.close()


def test_all_readers_share_one_encoder() -> None:
    tap = EncodedTap("door", fps=FPS)
    first = tap.read_from()
    before = offered(tap, first, range(40))
    late = tap.read_from(time_s=39 / FPS)
    key = late.read(60.0)
    assert key is not None and any(key is packet for packet in before) and key.is_key and key.time_s >= 1.0
    tap.close()


def test_a_new_size_is_a_new_format() -> None:
    tap = EncodedTap("door")
    reader = tap.read_from()
    small, large = offered(tap, reader, range(3)), offered(tap, reader, range(3, 6), (128, 96))
    assert large[0].is_key and {packet.format.size_wh for packet in large} == {(128, 96)}
    assert decoded(small) == [0, 1, 2] and decoded(large) == [3, 4, 5]
    tap.close()


def test_what_was_offered_is_encoded_at_the_end() -> None:
    tap = EncodedTap("door")
    reader = tap.read_from()
    for number in range(4):
        tap.offer(frame(number))
    tap.close()
    assert decoded(list(left(reader))) == [0, 1, 2, 3]
    tap.offer(frame(9))
    assert not tap.is_encoding


def left(reader: PacketReader) -> Iterator[MediaPacket]:
    while True:
        try:
            packet = reader.read(0)
        except Closed:
            return
        assert packet is not None
        yield packet


def test_an_encoder_that_fails_is_said_and_costs_no_picture(caplog: pytest.LogCaptureFixture) -> None:
    tap = EncodedTap("door", encoding=Encoding(encoder="h264_none"))
    reader = tap.read_from()
    tap.offer(frame(0))
    wait_for(lambda: caplog.records)
    tap.offer(frame(1))
    assert reader.read(0) is None
    assert caplog.messages[0].startswith("source 'door' has no packets and can't be encoded: can't encode with h264_no")
    tap.close()


class Webcam(Source):
    """Gives numbered pictures, each when it is told to."""

    def __init__(self, count: int) -> None:
        self.info = SourceInfo("door", "0", (96, 64), FPS, live=True)
        self.told = threading.Semaphore(0)
        self._count = count

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self._count):
            self.told.acquire()
            yield replace(frame(number), captured_at_s=time.perf_counter())

    def close(self) -> None:
        self.told.release(self._count)


def test_a_webcam_is_recorded_by_its_encoders_packets(tmp_path: Path) -> None:
    camera, path = Webcam(60), tmp_path / "door.mp4"
    tap = EncodedTap("door", fps=FPS)
    with EncodedSource(camera, tap) as source:
        assert source.info.packets is tap and source.info.size_wh == (96, 64)
        with RecordSink(path, source.info, tap, labels=("cat",)) as sink:
            reader = tap.read_from()
            camera.told.release()
            for number, each in enumerate(source):
                assert reader.read(60.0) is not None  # the encoder has got to it
                if number % 3 == 0:  # the detector leaves out some
                    sink.write(each, NOTHING)
                camera.told.release()
            reader.close()
    numbers, times_s, _ = read(path)
    assert numbers == list(range(60))
    assert times_s == pytest.approx([number / FPS for number in range(60)], abs=2e-3)
    assert not tap.is_encoding
