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
import signal
import sys
import threading
import time
from typing import Any

# The code: cells of black (0) and white (1), row by row, over the bottom CODE_ROWS / CODE_HEIGHTS of the picture.
CODE_COLUMNS, CODE_ROWS, CODE_HEIGHTS = 20, 4, 24
_NUMBER_BITS, _MS_BITS, _CHECK_BITS = 24, 40, 16
_BLACK, _WHITE, _GREY = 16, 235, 128

PATH = "/live"
_ENCODERS = {
    "h264": (
        "x264enc speed-preset=ultrafast tune=zerolatency threads=1 key-int-max={key_interval} pass=qual quantizer=25"
        " ! rtph264pay config-interval=-1 aggregate-mode=zero-latency"
    ),
    "h265": (
        "x265enc speed-preset=ultrafast tune=zerolatency key-int-max={key_interval}"
        " option-string=crf=28:pools=none:frame-threads=1:scenecut=0:repeat-headers=1:log-level=none"
        " ! rtph265pay config-interval=-1 aggregate-mode=zero-latency"
    ),
    "mjpeg": "jpegenc quality=75 ! rtpjpegpay",
}
_PACKAGES_OF_ELEMENTS = {
    "appsrc": "gstreamer1.0-plugins-base",
    "rtph264pay": "gstreamer1.0-plugins-good",
    "x264enc": "gstreamer1.0-plugins-ugly",
    "x265enc": "gstreamer1.0-plugins-bad",
}
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


class _Server:
    """Serves one stream, with one encoder for all its clients, which runs while there are any."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import gi

        gi.require_version("GstRtspServer", "1.0")
        gi.require_version("GstRtsp", "1.0")
        gi.require_version("Gst", "1.0")
        from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

        Gst.init(None)
        self._new_buffer = Gst.Buffer.new_wrapped
        self._settings = settings
        self._sources: set[Any] = set()
        factory = GstRtspServer.RTSPMediaFactory(shared=True, launch=self._pipeline())
        over = GstRtsp.RTSPLowerTrans
        factory.set_protocols({"tcp": over.TCP, "udp": over.UDP, "both": over.TCP | over.UDP}[settings["transport"]])
        factory.connect("media-configure", self._film_for)
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
        self._server.get_mount_points().add_factory(PATH, factory)
        if not self._server.attach(None):
            raise SystemExit(f"can't listen on port {settings['port']}")
        self._loop = GLib.MainLoop()

    def run(self) -> None:
        """Serves until the process is killed."""
        threading.Thread(target=self._film, daemon=True).start()
        self._loop.run()

    def _pipeline(self) -> str:
        (width, height), fps = self._settings["size_wh"], self._settings["fps"]
        encoder = _ENCODERS[self._settings["codec"]].format(key_interval=self._settings["key_interval"])
        return (
            "( appsrc name=film is-live=true format=time"
            " max-buffers=8 max-bytes=0 leaky-type=downstream"  # never far behind, if the encoder is
            f" caps=video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"
            f" ! {encoder} name=pay0 pt={26 if self._settings['codec'] == 'mjpeg' else 96} )"
        )

    def _film_for(self, _factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name("film")
        self._sources.add(source)
        media.connect("unprepared", lambda _: self._sources.discard(source))

    def _film(self) -> None:
        """Makes a picture every 1 / fps s, numbered on whether or not there are clients; after a freeze from now on."""
        pictures = Pictures(self._settings["size_wh"])
        period_s = 1 / self._settings["fps"]
        number, due_s = 0, time.monotonic()
        while True:
            now_s = time.monotonic()
            if now_s < due_s:
                time.sleep(due_s - now_s)
            elif now_s - due_s > period_s:
                due_s = now_s
            for source in self._sources.copy():
                if base_ns := source.get_base_time():  # else it isn't playing; appsrc's own stamps would be hours ahead
                    buffer = self._new_buffer(pictures.i420(number, round(time.monotonic() * 1000)))
                    buffer.pts = source.get_clock().get_time() - base_ns
                    source.emit("push-buffer", buffer)
            number += 1
            due_s += period_s


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
