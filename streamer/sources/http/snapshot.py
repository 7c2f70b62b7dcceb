"""A URL that gives a camera's present picture: asked again and again."""

from __future__ import annotations

import threading
import time

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.sources.base import SourceInfo, damage_phrase
from streamer.sources.http.client import Answer, HttpClient, NotHttpError
from streamer.sources.http.jpeg_scanner import MOST_PICTURE_BYTES
from streamer.sources.image_decoding import decode_image
from streamer.sources.options import SourceOptions
from streamer.sources.prefetched import PrefetchedSource

DEFAULT_FPS = 2.0
_LONGEST_UNCHANGED_S = 2.0


class SnapshotSource(PrefetchedSource):
    """Frames of a URL that is asked for its picture `SourceOptions.fps` times a second, `DEFAULT_FPS` without a wish.

    A picture of the same bytes as the last is given again only every 2 s, so that the source is seen to live and
    nothing is detected twice for nothing. `pts_s` is the time since the first frame.
    """

    def __init__(self, client: HttpClient, answer: Answer, shown: str, *, name: str, options: SourceOptions) -> None:
        """Reads the first picture.

        Args:
            client: asks for the next ones.
            answer: the first.
            shown: what to call it in messages.
            name: the source's name.
            options: rate, patience, and the largest picture.

        Raises:
            SourceError: if it can't be read, or is too large.
        """
        self._client, self._shown, self._name, self._options = client, shown, name, options
        self._interval_s = 1.0 / (options.fps or DEFAULT_FPS)
        self._unchanged_s = min(_LONGEST_UNCHANGED_S, options.stall_timeout_s / 2)
        self._damaged = self._count = 0
        self._ended = threading.Event()
        self._content = b""
        self._answer = answer
        self._begin()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged pictures as one phrase."""
        return (damage_phrase(self._damaged),) if self._damaged else ()

    @property
    def damaged(self) -> int:
        """Pictures that couldn't be decoded."""
        return self._damaged

    def interrupt(self) -> None:
        self._ended.set()
        self._client.interrupt()

    def _read_first(self) -> Frame:
        self._asked_s = self._given_s = self._first_s = time.perf_counter()
        self._content = self._body(self._answer, self._options.open_timeout_s)
        try:
            frame = self._frame()
        except SourceError as error:
            raise SourceError(f"source {self._shown!r} gives no picture: {error}") from None
        self.info = SourceInfo(self._name, self._shown, frame.size_wh, self._options.fps or DEFAULT_FPS, live=True)
        return frame

    def _read(self) -> Frame | None:
        while not self._ended.wait(max(0.0, self._asked_s + self._interval_s - time.perf_counter())):
            self._asked_s = time.perf_counter()
            content = self._ask()
            now_s = time.perf_counter()
            if content == self._content and now_s - self._given_s < self._unchanged_s:
                continue
            self._content = content
            try:
                return self._frame()
            except SourceError as error:
                self._damaged += 1
                if now_s - self._given_s > self._options.stall_timeout_s:
                    raise SourceError(f"source {self._shown!r} gives no picture: {error}") from None
        return None

    def _release(self) -> None:
        self._ended.set()

    def _ask(self) -> bytes:
        try:
            answer = self._client.get()
        except NotHttpError:
            raise SourceError(f"source {self._shown!r} gives no picture any more; check its URL") from None
        return self._body(answer, self._options.stall_timeout_s)

    def _body(self, answer: Answer, timeout_s: float) -> bytes:
        """Returns all of an answer, which has so long for it."""
        content, problem = bytearray(), None
        try:
            data = answer.read(timeout_s)
            while data and len(content) <= MOST_PICTURE_BYTES:
                content += data
                data = answer.read()
            if len(content) > MOST_PICTURE_BYTES:
                problem = f"sent a picture of more than {MOST_PICTURE_BYTES} bytes; check that it serves pictures"
        except TimeoutError:
            problem = f"sent no whole picture within {timeout_s:g} s; check its network and power"
        except OSError as error:
            problem = f"broke off ({error.strerror or error}); check its network and power"
        finally:
            answer.close()
        if problem is not None:
            raise SourceError(f"source {self._shown!r} {problem}")
        return bytes(content)

    def _frame(self) -> Frame:
        pixels = decode_image(self._content, self._options.max_pixels)
        now_s = self._given_s = time.perf_counter()
        if not self._count:
            self._first_s = now_s
        self._count += 1
        return Frame(pixels, self._name, self._count - 1, now_s - self._first_s, now_s)
