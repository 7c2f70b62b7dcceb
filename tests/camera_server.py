"""The simulated camera's server: live numbered pictures over RTSP, by GStreamer's own RTSP server.

`tests.camera` runs it with the system's Python, which has GStreamer's bindings but not this project's packages: it
needs nothing else, and starts in a few hundredths of a second. The code that its pictures carry is laid out here too,
for the reader in `tests.camera`.
"""

from __future__ import annotations

import binascii
import ctypes
import itertools
import json
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# The code: cells of black (0) and white (1), row by row, over the bottom CODE_ROWS / CODE_HEIGHTS of the picture.
CODE_COLUMNS, CODE_ROWS, CODE_HEIGHTS = 20, 4, 24
_NUMBER_BITS, _MS_BITS, _CHECK_BITS = 24, 40, 16
_BLACK, _WHITE, _GREY = 16, 235, 128

PATH = "/live"
_PACKAGES_OF_ELEMENTS = {
    "appsrc": "gstreamer1.0-plugins-base",
    "rtph264pay": "gstreamer1.0-plugins-good",
    "x264enc": "gstreamer1.0-plugins-ugly",
    "x265enc": "gstreamer1.0-plugins-bad",
}
_MOST_QUEUED = 2  # pictures before the encoder
_MOST_KEPT_S = 2.0  # pictures for a client that takes none
_SEND_BUFFER = 256 * 1024
_SET_PARENT_DEATH_SIGNAL = 1


def code_bits(number: int, sent_ms: int) -> list[int]:
    """Returns a code's CODE_ROWS * CODE_COLUMNS bits: the number, the time in milliseconds, a checksum of both."""
    word = number % (1 << _NUMBER_BITS) << _MS_BITS | sent_ms % (1 << _MS_BITS)
    word = word << _CHECK_BITS | _checksum(word)
    return [word >> bit & 1 for bit in range(CODE_ROWS * CODE_COLUMNS - 1, -1, -1)]


def number_and_ms(bits: list[int]) -> tuple[int, int] | None:
    """Returns what `code_bits` was given, or None when the checksum denies it."""
    coded = int("".join(map(str, bits)), 2)
    word, check = coded >> _CHECK_BITS, coded % (1 << _CHECK_BITS)
    return (word >> _MS_BITS, word % (1 << _MS_BITS)) if check == _checksum(word) else None


def _checksum(word: int) -> int:
    return binascii.crc_hqx(word.to_bytes((_NUMBER_BITS + _MS_BITS) // 8, "big"), 0xFFFF)


class Pictures:
    """Makes the camera's pictures: a background that moves down, and the code below it."""

    def __init__(self, size_wh: tuple[int, int]) -> None:
        """Paints the background of pictures of an even width and height."""
        width, height = size_wh
        self._size_wh = size_wh
        columns = [round(width * column / CODE_COLUMNS) for column in range(CODE_COLUMNS + 1)]
        self._widths = [right - left for left, right in itertools.pairwise(columns)]
        self._tops = [round(height * (1 - row / CODE_HEIGHTS)) for row in range(CODE_ROWS, -1, -1)]
        self._luma = _winding_stripes(size_wh, 3, 70)
        self._chroma = [_winding_stripes((width // 2, height // 2), waves, 50) for waves in (1, 2)]

    def i420(self, number: int, sent_ms: int) -> bytes:
        """Returns a picture's planes: (H, W) luma, then two of (H / 2, W / 2) chroma."""
        width, height = self._size_wh
        bits, first = code_bits(number, sent_ms), height - 2 * number % height
        parts = [self._luma[first * width : (first + self._tops[0]) * width]]
        for row in range(CODE_ROWS):
            cells = zip(bits[row * CODE_COLUMNS : (row + 1) * CODE_COLUMNS], self._widths, strict=True)
            line = b"".join((_BLACK, _WHITE)[bit].to_bytes(1, "big") * cell_width for bit, cell_width in cells)
            parts.append(line * (self._tops[row + 1] - self._tops[row]))
        first, coloured, whole = first // 2 * width // 2, self._tops[0] // 2 * width // 2, width * height // 4
        for plane in self._chroma:
            parts += [plane[first : first + coloured], bytes([_GREY]) * (whole - coloured)]
        return b"".join(parts)


def _winding_stripes(size_wh: tuple[int, int], waves: int, swing: int) -> bytes:
    """Returns a plane of stripes around grey, twice one below the other, so that it can be cut at any row."""
    width, height = size_wh
    turn = 2 * math.pi * waves / width
    line = bytes(round(_GREY + swing * math.sin(turn * x) * math.cos(3 * turn * x)) for x in range(width)) * 2
    shifts = (round(width * (0.25 + 0.2 * math.sin(2 * math.pi * y / height))) for y in range(height))
    return b"".join(line[shift : shift + width] for shift in shifts) * 2


class _Codec(NamedTuple):
    """An encoder, what it gives, the element that puts that into RTP packets, and which NAL units are of a picture."""

    encoder: str
    coded: str
    payloader: str
    is_picture: Callable[[int], bool]

    def head(self, unit: bytes) -> bytes:
        """Returns what precedes the picture in the bytes of a key frame: the parameter sets; of a JPEG the whole."""
        for start in re.finditer(rb"\x00?\x00\x00\x01", unit):
            if self.is_picture(unit[start.end()]):
                return unit[: start.start()]
        return unit


_CODECS = {
    "h264": _Codec(
        "x264enc speed-preset=ultrafast tune=zerolatency threads=1 key-int-max={key_interval} pass=qual quantizer=25",
        "video/x-h264,stream-format=byte-stream,alignment=au",
        "rtph264pay aggregate-mode=zero-latency pt=96",
        lambda first: 1 <= first & 31 <= 5,
    ),
    "h265": _Codec(
        "x265enc speed-preset=ultrafast tune=zerolatency key-int-max={key_interval}"
        " option-string=crf=28:pools=none:frame-threads=1:scenecut=0:repeat-headers=1:log-level=none",
        "video/x-h265,stream-format=byte-stream,alignment=au",
        "rtph265pay aggregate-mode=zero-latency pt=96",
        lambda first: first >> 1 & 63 < 32,
    ),
    "mjpeg": _Codec("jpegenc quality=75", "image/jpeg", "rtpjpegpay pt=26", lambda _: False),
}


class _Film:
    """Films and encodes from `begin` on, whether or not anybody watches, and gives its viewers what was just filmed.

    A viewer gets the parameter sets at once, which say what will come (with JPEG a picture), and pictures while it
    plays: so it joins, as with most cameras, between two key frames.
    """

    def __init__(self, gst: Any, settings: dict[str, Any]) -> None:
        self._gst, self._settings = gst, settings
        self._codec = _CODECS[settings["codec"]]
        (width, height), fps = settings["size_wh"], settings["fps"]
        shape = f"width={width},height={height},framerate={fps}/1"
        #: What a viewer's pipeline is made of; its source is to be given to `add`.
        self.viewer = (
            f"( appsrc name=film is-live=true format=time max-bytes=0 caps={self._codec.coded},{shape}"
            f" ! {self._codec.payloader} name=pay0 )"
        )
        self._pipeline = gst.parse_launch(
            f"appsrc name=raw is-live=true format=time max-bytes=0 caps=video/x-raw,format=I420,{shape}"
            f" ! {self._codec.encoder.format(key_interval=settings['key_interval'])} ! {self._codec.coded}"
            " ! appsink name=coded emit-signals=true sync=false"
        )
        self._raw = self._pipeline.get_by_name("raw")
        self._pipeline.get_by_name("coded").connect("new-sample", self._give)
        self._waiting: set[Any] = set()
        self._playing: set[Any] = set()
        self._behind: set[Any] = set()
        self._head = b""

    def begin(self) -> None:
        """Starts filming, on threads of its own."""
        self._pipeline.set_state(self._gst.State.PLAYING)
        threading.Thread(target=self._shoot, daemon=True).start()

    def add(self, _factory: Any, media: Any) -> None:
        """Begins to serve a viewer."""
        source = media.get_element().get_by_name("film")
        self._waiting.add(source)
        media.connect("new-state", self._on_state, source)
        media.connect("unprepared", self._on_end, source)

    def _on_state(self, _media: Any, state: int, source: Any) -> None:
        if state == self._gst.State.PLAYING:
            self._playing.add(source)

    def _on_end(self, _media: Any, source: Any) -> None:
        for viewers in (self._waiting, self._playing, self._behind):
            viewers.discard(source)

    def _shoot(self) -> None:
        """Makes a picture every 1 / fps s, stamped with the clock's time; fewer when the encoder is behind."""
        pictures = Pictures(self._settings["size_wh"])
        period_s = 1 / self._settings["fps"]
        number, due_s = 0, time.monotonic()
        while True:
            now_s = time.monotonic()
            if now_s < due_s:
                time.sleep(due_s - now_s)
            elif now_s - due_s > period_s:  # it was frozen
                due_s = now_s
            due_s += period_s
            if self._raw.props.current_level_buffers < _MOST_QUEUED:
                made_ns = time.monotonic_ns()
                self._push(self._raw, pictures.i420(number, made_ns // 1_000_000), made_ns)
                number += 1

    def _give(self, coded: Any) -> Any:
        """Gives an encoded picture to all who play, and the parameter sets to those who wait for them.

        A player that doesn't take its pictures misses some, up to a key frame.
        """
        sample = coded.emit("pull-sample")
        buffer = sample.get_buffer()
        made_ns = sample.get_segment().to_running_time(self._gst.Format.TIME, buffer.pts)
        unit = buffer.extract_dup(0, buffer.get_size())
        is_key = not buffer.has_flags(self._gst.BufferFlags.DELTA_UNIT)
        if is_key:
            self._head = self._codec.head(unit)
        for source in self._waiting.copy():
            if base_ns := source.get_base_time():  # else its pipeline isn't running yet
                self._waiting.discard(source)
                self._push(source, self._head, max(0, made_ns - base_ns))
        for source in self._playing.copy():
            if source.props.current_level_buffers > _MOST_KEPT_S * self._settings["fps"]:
                self._behind.add(source)
            elif is_key:
                self._behind.discard(source)
            if source not in self._behind:
                self._push(source, unit, max(0, made_ns - source.get_base_time()))
        return self._gst.FlowReturn.OK

    def _push(self, source: Any, content: bytes, at_ns: int) -> None:
        buffer = self._gst.Buffer.new_wrapped(content)
        buffer.pts = at_ns
        source.emit("push-buffer", buffer)


class _Server:
    """Serves a film to any number of clients."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import gi

        gi.require_version("GstRtspServer", "1.0")
        gi.require_version("GstRtsp", "1.0")
        gi.require_version("Gst", "1.0")
        from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

        Gst.init(None)
        film = _Film(Gst, settings)
        factory = GstRtspServer.RTSPMediaFactory(launch=film.viewer)
        over = GstRtsp.RTSPLowerTrans
        factory.set_protocols({"tcp": over.TCP, "udp": over.UDP, "both": over.TCP | over.UDP}[settings["transport"]])
        factory.connect("media-configure", film.add)
        self._server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(settings["port"]))
        if settings["credentials"] is not None:
            token = GstRtspServer.RTSPToken()
            token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
            auth = GstRtspServer.RTSPAuth()
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(*settings["credentials"].split(":", 1), token)
            self._server.set_auth(auth)
            role = "viewer, media.factory.access=true, media.factory.construct=true"
            factory.add_role_from_structure(Gst.Structure.new_from_string(role))
        self._server.connect("client-connected", _limit_buffer)
        self._server.get_mount_points().add_factory(PATH, factory)
        if not self._server.attach(None):
            raise SystemExit(f"can't listen on port {settings['port']}")
        film.begin()
        self._loop = GLib.MainLoop()

    def run(self) -> None:
        """Serves until the process is killed."""
        self._loop.run()


def _limit_buffer(_server: Any, client: Any) -> None:
    """Keeps the kernel from holding many seconds of pictures for a client that takes none, as no camera would."""
    client.get_connection().get_read_socket().set_option(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def _missing_packages() -> list[str]:
    """Returns the Debian packages that the server needs and doesn't find."""
    try:
        import gi
    except ImportError:
        return ["python3-gi", "gir1.2-gst-rtsp-server-1.0", *_PACKAGES_OF_ELEMENTS.values()]
    try:
        gi.require_version("GstRtspServer", "1.0")
        gi.require_version("Gst", "1.0")
        from gi.repository import Gst, GstRtspServer  # noqa: F401
    except (ImportError, ValueError):
        return ["gir1.2-gst-rtsp-server-1.0", *_PACKAGES_OF_ELEMENTS.values()]
    Gst.init(None)
    return [package for name, package in _PACKAGES_OF_ELEMENTS.items() if Gst.ElementFactory.find(name) is None]


def _die_with(parent: int) -> None:
    """Has the kernel kill this process, even a frozen one, when the thread of `parent` that started it ends."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one is gone")


if __name__ == "__main__":
    if sys.argv[1:] == ["--missing"]:
        print(*_missing_packages())
    else:
        _settings = json.loads(sys.argv[1])
        _die_with(_settings["parent"])
        _Server(_settings).run()
