"""What simulated cameras send: coded pictures, from a loop made beforehand or live from an encoder, as RTP packets."""

from __future__ import annotations

import base64
import contextlib
import itertools
import math
import queue
import re
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer

from tests.media import SIZE_WH, picture
from tests.rtsp.code import coded_picture

CLOCK_HZ = 90_000
_FIRST_TIMESTAMP = 12_345  # cameras begin anywhere
_NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970
_MAX_PACKET = 1200
_LOOP = 30  # pictures before the numbers start again
KEY_INTERVAL = 10
_MAX_KEPT_S = 2.0  # pictures for a client that takes none
_POLL_S = 0.1


@dataclass(frozen=True)
class Codec:
    """A codec in which cameras send.

    Attributes:
        name: FFmpeg's.
        rtp_name: RTP's.
        payload_type: RTP's.
        encoder: FFmpeg's.
        pixel_format: FFmpeg's.
        options: of the encoder.
    """

    name: str
    rtp_name: str
    payload_type: int
    encoder: str
    pixel_format: str
    options: dict[str, str]

    def open_encoder(self, size_wh: tuple[int, int], fps: int, key_interval: int) -> av.VideoCodecContext:
        """Returns an encoder of pictures stamped in `CLOCK_HZ`, which gives each packet at once."""
        encoder = av.CodecContext.create(self.encoder, "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.width, encoder.height = size_wh
        encoder.pix_fmt, encoder.framerate, encoder.time_base = self.pixel_format, Fraction(fps), Fraction(1, CLOCK_HZ)
        encoder.gop_size, encoder.options = key_interval, dict(self.options)
        return encoder

    def sdp(self, first_picture: bytes) -> str:
        """Returns the session description, with the parameter sets of the stream's first picture."""
        units = [unit for unit in re.split(rb"\x00{2,3}\x01", first_picture) if unit]
        sets = ""
        if self.name == "h264":
            coded = ",".join(_base64(unit) for unit in units if unit[0] & 0x1F in (7, 8))
            sets = f"a=fmtp:{self.payload_type} packetization-mode=1; sprop-parameter-sets={coded}\r\n"
        elif self.name == "hevc":
            of_type = {unit[0] >> 1 & 0x3F: _base64(unit) for unit in units}
            names = {32: "vps", 33: "sps", 34: "pps"}
            coded = "; ".join(f"sprop-{name}={of_type[kind]}" for kind, name in names.items())
            sets = f"a=fmtp:{self.payload_type} {coded}\r\n"
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=numbers\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
            f"m=video 0 RTP/AVP {self.payload_type}\r\na=rtpmap:{self.payload_type} {self.rtp_name}/{CLOCK_HZ}\r\n"
            f"{sets}a=control:video\r\n"
        )


_X264 = {"preset": "ultrafast", "tune": "zerolatency", "crf": "25", "threads": "1", "x264-params": "slices=1"}
_X265 = "pools=none:frame-threads=1:scenecut=0:repeat-headers=1:log-level=none"
CODECS = {
    "h264": Codec("h264", "H264", 96, "libx264", "yuv420p", _X264),
    "h265": Codec(
        "hevc", "H265", 96, "libx265", "yuv420p",
        {"preset": "ultrafast", "tune": "zerolatency", "crf": "28", "x265-params": _X265},
    ),
    "mjpeg": Codec(
        "mjpeg", "JPEG", 26, "mjpeg", "yuvj420p",
        {"huffman": "default", "flags": "+qscale", "global_quality": "590", "threads": "1"},
    ),
}  # fmt: skip


class Film(ABC):
    """The pictures of one camera, for any number of clients.

    Attributes:
        codec: of the pictures.
        size_wh: of the pictures.
        sdp: the session description.
    """

    def __init__(self, codec: Codec, size_wh: tuple[int, int], first_picture: bytes) -> None:
        """The description gets the parameter sets of `first_picture`."""
        self.codec, self.size_wh, self.sdp = codec, size_wh, codec.sdp(first_picture)

    def utc_s(self, at_s: float) -> float:
        """Returns the time of a picture of the client that came last, seconds since 1970 by the camera's clock."""
        raise NotImplementedError

    @abstractmethod
    def play(self, gone: threading.Event) -> Iterator[tuple[float, bytes]]:
        """Yields each picture's time in seconds and the coded picture, in real time, until the client is `gone`."""


class Loop(Film):
    """H.264 pictures that are coded beforehand; every client gets the same one first.

    Attributes:
        pictures: the coded pictures, with start codes.
    """

    def __init__(
        self,
        pictures: Sequence[bytes] | None = None,
        *,
        size_wh: tuple[int, int] = SIZE_WH,
        fps: int = 30,
        first: int = 0,
        origin_s: float | None = None,
    ) -> None:
        """Codes numbered pictures if none are given.

        Args:
            pictures: see `coded_footage`; None makes numbered ones, of which every tenth is a key frame.
            size_wh: of the pictures.
            fps: how many a second are due.
            first: number of the picture to begin with.
            origin_s: a moment at which one is due (`time.monotonic`), and so at every frame interval from there; None
                begins for each client at the moment it asks.
        """
        self.pictures = pictures or numbered_pictures(size_wh, fps)
        super().__init__(CODECS["h264"], size_wh, self.pictures[0])
        self._fps, self._first, self._origin_s = fps, first, origin_s

    def play(self, gone: threading.Event) -> Iterator[tuple[float, bytes]]:
        """See `Film.play`."""
        started_s = self._begin_s()
        for number in itertools.count():
            if gone.wait(started_s + number / self._fps - time.monotonic()):
                return
            yield number / self._fps, self.pictures[(self._first + number) % len(self.pictures)]

    def _begin_s(self) -> float:
        """Returns when the first picture is due for a client that asks now (`time.monotonic`)."""
        now_s = time.monotonic()
        if self._origin_s is None:
            return now_s
        return self._origin_s + math.ceil((now_s - self._origin_s) * self._fps) / self._fps


class SteadyLoop(Loop):
    """A loop whose pictures are due at moments of the camera's own: every client gets them from the next key frame on.

    Two of one `origin_s` show the same number at the same moment, as two streams of one camera do.
    """

    def __init__(
        self, *, size_wh: tuple[int, int] = SIZE_WH, fps: int = 30, origin_s: float, delay_s: float = 0.0
    ) -> None:
        """Codes numbered pictures.

        Args:
            size_wh: of the pictures.
            fps: how many a second there are.
            origin_s: when picture 0 was taken (`time.monotonic`).
            delay_s: from when a picture is taken to when it is sent.
        """
        super().__init__(size_wh=size_wh, fps=fps)
        self._origin_s, self._delay_s = origin_s, delay_s
        self._begun = 0

    def utc_s(self, at_s: float) -> float:
        """See `Film.utc_s`."""
        return 1.8e9 + self._begun / self._fps + at_s

    def play(self, gone: threading.Event) -> Iterator[tuple[float, bytes]]:
        """See `Film.play`."""
        assert self._origin_s is not None
        now = (time.monotonic() - self._origin_s - self._delay_s) * self._fps
        self._begun = math.ceil(now / KEY_INTERVAL) * KEY_INTERVAL
        for number in itertools.count(self._begun):
            if gone.wait(self._origin_s + self._delay_s + number / self._fps - time.monotonic()):
                return
            yield (number - self._begun) / self._fps, self.pictures[number % len(self.pictures)]


class LiveFilm(Film):
    """Pictures that a thread draws and encodes from construction to the process's end, once for all clients.

    A client gets pictures from the next key frame on, as with most cameras. One that takes nothing for some seconds
    misses pictures, up to a key frame.
    """

    def __init__(self, codec: str, size_wh: tuple[int, int], fps: int, key_interval: int) -> None:
        """Starts with picture 0.

        Raises:
            KeyError: if there is no such codec.
        """
        self._fps, self._encoder = fps, CODECS[codec].open_encoder(size_wh, fps, key_interval)
        (first,) = CODECS[codec].open_encoder(size_wh, fps, key_interval).encode(_frame(0, size_wh, 0.0, 0.0))
        super().__init__(CODECS[codec], size_wh, bytes(first))
        self._lock = threading.Lock()
        self._waiting: set[queue.Queue[tuple[float, bytes]]] = set()
        self._playing: set[queue.Queue[tuple[float, bytes]]] = set()
        threading.Thread(target=self._shoot, daemon=True).start()

    def play(self, gone: threading.Event) -> Iterator[tuple[float, bytes]]:
        """See `Film.play`."""
        client: queue.Queue[tuple[float, bytes]] = queue.Queue(int(_MAX_KEPT_S * self._fps))
        with self._lock:
            self._waiting.add(client)
        try:
            while not gone.is_set():
                with contextlib.suppress(queue.Empty):
                    yield client.get(timeout=_POLL_S)
        finally:
            with self._lock:
                self._waiting.discard(client)
                self._playing.discard(client)

    def _shoot(self) -> None:
        """Makes a picture every 1 / fps s, stamped with the clock's time; fewer when the encoder is behind."""
        began_s = due_s = time.monotonic()
        for number in itertools.count():
            now_s = time.monotonic()
            if now_s < due_s:
                time.sleep(due_s - now_s)
            elif now_s - due_s > 1 / self._fps:  # behind, or it was suspended
                due_s = now_s
            due_s += 1 / self._fps
            made_s = time.monotonic()
            for packet in self._encoder.encode(_frame(number, self.size_wh, made_s, made_s - began_s)):
                self._give(made_s - began_s, bytes(packet), packet.is_keyframe)

    def _give(self, at_s: float, coded: bytes, is_key: bool) -> None:
        with self._lock:
            if is_key:
                self._playing |= self._waiting
                self._waiting.clear()
            for client in self._playing.copy():
                try:
                    client.put_nowait((at_s, coded))
                except queue.Full:
                    self._playing.discard(client)
                    self._waiting.add(client)


class RtpPackets:
    """Splits coded pictures into the RTP packets of one client, by FFmpeg's muxer."""

    def __init__(self, film: Film) -> None:
        """Prepares for the pictures of a film."""
        self._written = _Written()
        options = {"packetsize": str(_MAX_PACKET), "rtpflags": "skip_rtcp", "seq": "0"}
        if film.codec.payload_type >= 96:
            options["payload_type"] = str(film.codec.payload_type)
        container = av.open(self._written, "w", format="rtp", options=options)
        assert isinstance(container, OutputContainer)
        self._container = container
        width, height = film.size_wh
        self._stream = container.add_mux_stream(film.codec.name, rate=CLOCK_HZ, width=width, height=height)
        self._stream.time_base = Fraction(1, CLOCK_HZ)

    def split(self, at_s: float, coded: bytes, off_s: float) -> list[bytes]:
        """Returns the packets of the next picture, `at_s` after the first one, with a stamp that is off by `off_s`."""
        packet = av.Packet(coded)
        packet.stream, packet.time_base = self._stream, Fraction(1, CLOCK_HZ)
        packet.pts = packet.dts = round(at_s * CLOCK_HZ)
        self._container.mux(packet)
        stamp = struct.pack(">I", (_FIRST_TIMESTAMP + round((at_s + off_s) * CLOCK_HZ)) & 0xFFFFFFFF)
        packets = [written[:4] + stamp + written[8:] for written in self._written]
        self._written.clear()
        return packets


class _Written(list[bytes]):
    """The file of a muxer that writes one packet at a time."""

    def write(self, packet: bytes) -> int:
        self.append(bytes(packet))
        return len(packet)


def _frame(number: int, size_wh: tuple[int, int], made_s: float, at_s: float) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(coded_picture(number, int(made_s * 1000), size_wh), format="yuv420p")
    frame.pts, frame.time_base = round(at_s * CLOCK_HZ), Fraction(1, CLOCK_HZ)
    return frame


def numbered_pictures(size_wh: tuple[int, int], fps: int) -> list[bytes]:
    """Returns a loop of numbered H.264 pictures; every `KEY_INTERVAL`th is a key frame."""
    encoder = CODECS["h264"].open_encoder(size_wh, fps, KEY_INTERVAL)
    packets = []
    for number in range(_LOOP):
        frame = av.VideoFrame.from_ndarray(picture(number, size_wh), format="bgr24")
        frame = frame.reformat(format="yuv420p", threads=1)
        frame.pts = number * CLOCK_HZ // fps
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in [*packets, *encoder.encode(None)]]


def coded_footage(video: Path) -> list[bytes]:
    """Returns the pictures of an H.264 file with start codes, parameter sets before every key frame."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        annex_b = av.BitStreamFilterContext("h264_mp4toannexb", stream)
        packets = [out for packet in container.demux(stream) for out in annex_b.filter(packet)]
    return [bytes(packet) for packet in packets if packet.size]


def sender_report(utc_s: float, at_s: float) -> bytes:
    """Returns RTCP's report (RFC 3550, 6.4.1) of when a picture, `at_s` after the first one, was taken."""
    seconds = utc_s + _NTP_EPOCH_S
    ntp = int(seconds) << 32 | int(seconds % 1 * 2**32)
    stamp = (_FIRST_TIMESTAMP + round(at_s * CLOCK_HZ)) & 0xFFFFFFFF
    return struct.pack(">BBHIQIII", 0x80, 200, 6, 0, ntp, stamp, 0, 0)


def _base64(unit: bytes) -> str:
    return base64.b64encode(unit).decode()
