"""Finds JPEG pictures in a stream of bytes, whatever is between them."""

from __future__ import annotations

import re

from streamer.common.errors import SourceError

MAX_IMAGE_BYTES = 64 << 20
_MAX_BETWEEN_BYTES = 1 << 20

_START = b"\xff\xd8\xff"
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
# Markers that end or interrupt compressed data: DHT, SOI, EOI, SOS, DQT, DNL, DRI, COM. Others are damage there.
_IN_SCAN = re.compile(rb"\xff[\xc4\xd8-\xdd\xfe]")


class JpegScanner:
    """Splits bytes into JPEG pictures by their own markers (ITU-T T.81, annex B).

    Boundaries, types and lengths of multipart responses are ignored: cameras get them wrong in many ways. Pictures
    within a picture (EXIF thumbnails) are skipped with their segment. A picture without an end marker ends where the
    next one starts.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # offset of the next marker; 0 while searching for a picture's start
        self._in_scan = self._has_scan = False
        self._between = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes; returns the pictures that they complete.

        Raises:
            SourceError: if a picture, or the data between two, is too long; the text continues "source 'x' ...".
        """
        self._buffer += data
        found: list[bytes] = []
        while (end := self._find_end()) is not None:
            found.append(bytes(self._buffer[:end]))
            self._drop(end)
            self._between = 0
        if len(self._buffer) > MAX_IMAGE_BYTES:
            raise SourceError(f"sent a picture of more than {MAX_IMAGE_BYTES} bytes; check its URL")
        if self._between > _MAX_BETWEEN_BYTES:
            raise SourceError(f"sent {self._between} bytes without a JPEG picture; check the path in the URL")
        return found

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._at = 0
        self._in_scan = self._has_scan = False

    def _find_start(self) -> bool:
        at = self._buffer.find(_START)
        dropped = at if at >= 0 else max(0, len(self._buffer) - len(_START) + 1)
        self._between += dropped
        del self._buffer[:dropped]
        if at < 0:
            return False
        self._at = 2
        return True

    def _find_end(self) -> int | None:
        """Returns the end of the picture in the buffer, None while it is incomplete."""
        buffer = self._buffer
        while self._at or self._find_start():
            if self._in_scan:
                marker = _IN_SCAN.search(buffer, self._at)
                if marker is None:
                    self._at = max(self._at, len(buffer) - 1)
                    return None
                self._at, self._in_scan = marker.start(), False
            while self._at + 1 < len(buffer) and buffer[self._at] == buffer[self._at + 1] == 0xFF:  # fill bytes
                self._at += 1
            if self._at + 2 > len(buffer):
                return None
            kind = buffer[self._at + 1]
            if buffer[self._at] != 0xFF or kind == 0x00 or (kind == _SOI and not self._has_scan):
                self._between += 2
                self._drop(2)  # no picture
            elif kind == _EOI:
                return self._at + 2
            elif kind == _SOI:
                return self._at
            elif kind == _TEM or 0xD0 <= kind <= 0xD7:
                self._at += 2
            else:
                if self._at + 4 > len(buffer):
                    return None
                self._at += 2 + max(2, int.from_bytes(buffer[self._at + 2 : self._at + 4], "big"))
                if kind == _SOS:
                    self._in_scan = self._has_scan = True
        return None
