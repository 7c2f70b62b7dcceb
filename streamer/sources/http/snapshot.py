"""A URL that gives a camera's current picture, polled."""

from __future__ import annotations

import threading
import time

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources.base import SourceInfo
from streamer.sources.diagnosis import why_broken_off
from streamer.sources.http.client import HttpClient, HttpResponse, NotHttpError
from streamer.sources.http.image_source import HttpImageSource
from streamer.sources.http.jpeg_scanner import MAX_IMAGE_BYTES
from streamer.sources.image_decoding import decode_image
from streamer.sources.options import SourceOptions

DEFAULT_FPS = 2.0
_MAX_UNCHANGED_S = 2.0


class SnapshotSource(HttpImageSource):
    """Frames of a URL that is requested `SourceOptions.fps` times a second, by default `DEFAULT_FPS`.

    A picture of the same bytes as the last is repeated only every 2 s: often enough to show that the source is alive,
    and rarely enough not to detect the same again.
    """

    def __init__(
        self, client: HttpClient, response: HttpResponse, shown: str, *, name: str, options: SourceOptions
    ) -> None:
        self._fps = options.fps or DEFAULT_FPS
        self._unchanged_s = min(_MAX_UNCHANGED_S, options.stall_timeout_s / 2)
        self._closing = threading.Event()
        super().__init__(client, response, shown, name=name, options=options)

    def interrupt(self) -> None:
        self._closing.set()
        super().interrupt()

    def _read_first(self) -> Frame:
        self._requested_s = self._given_s = time.perf_counter()
        self._content = self._body(self._response, self._options.open_timeout_s)
        try:
            frame = self._decode()
        except SourceError as error:
            raise SourceError(f"source {self._shown!r} gives no picture: {error}") from None
        self.info = SourceInfo(self._name, self._shown, frame.size_wh, self._fps, live=True)
        return frame

    def _read(self) -> Frame | None:
        while not self._closing.wait(max(0.0, self._requested_s + 1.0 / self._fps - time.perf_counter())):
            self._requested_s = time.perf_counter()
            try:
                response = self._client.get()
            except NotHttpError:
                raise SourceError(f"source {self._shown!r} no longer returns a picture; check its URL") from None
            content = self._body(response, self._options.stall_timeout_s)
            now_s = time.perf_counter()
            if content == self._content and now_s - self._given_s < self._unchanged_s:
                continue
            self._content = content
            try:
                return self._decode()
            except SourceError as error:
                self.damaged += 1
                if now_s - self._given_s > self._options.stall_timeout_s:
                    raise SourceError(f"source {self._shown!r} gives no picture: {error}") from None
        return None

    def _release(self) -> None:
        self._closing.set()

    def _body(self, response: HttpResponse, timeout_s: float) -> bytes:
        """Returns a response's whole body, read within `timeout_s`, and closes it."""
        content = bytearray()
        try:
            data = response.read(timeout_s)
            while data and len(content) <= MAX_IMAGE_BYTES:
                content += data
                data = response.read()
            if len(content) <= MAX_IMAGE_BYTES:
                return bytes(content)
            problem = f"sent a picture of more than {MAX_IMAGE_BYTES} bytes; check that it serves pictures"
        except OSError as error:
            problem = why_broken_off(error, timeout_s, "no whole picture within")
        finally:
            response.close()
        raise SourceError(f"source {self._shown!r} {problem}")

    def _decode(self) -> Frame:
        frame = self._frame(decode_image(self._content, self._options.max_pixels))
        self._given_s = frame.captured_at_s
        return frame
