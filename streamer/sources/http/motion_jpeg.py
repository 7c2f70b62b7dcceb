"""A camera that sends JPEG pictures in one endless answer."""

from __future__ import annotations

import time
from collections import deque

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.frames.pixels import UPRIGHT, orientation_of, pixels_of
from streamer.sources.base import SourceInfo, damage_phrase
from streamer.sources.http.client import Answer, HttpClient
from streamer.sources.http.jpeg_scanner import JpegScanner
from streamer.sources.image_size import image_size
from streamer.sources.options import SourceOptions, too_large
from streamer.sources.prefetched import PrefetchedSource


class MotionJpegSource(PrefetchedSource):
    """Frames of one connection, as 4:2:0 planes; `pts_s` is the time since the first, by arrival.

    Where several pictures have come (`SourceOptions.freshest`), the newest is decoded and the others count as passed
    over.
    """

    def __init__(self, client: HttpClient, answer: Answer, shown: str, *, name: str, options: SourceOptions) -> None:
        """Reads the first picture.

        Args:
            client: of the answer.
            answer: its body is read to its end, and closed.
            shown: what to call it in messages.
            name: the source's name.
            options: patience, and the largest picture.

        Raises:
            SourceError: if no picture comes in time, or it is too large.
        """
        self._client, self._answer, self._shown, self._name, self._options = client, answer, shown, name, options
        self._damaged = self._dropped = self._count = 0
        self._orientation = UPRIGHT
        self._scanner = JpegScanner()
        self._whole: deque[bytes] = deque()
        self._context = VideoCodecContext.create("mjpeg", "r")
        self._context.thread_count, self._context.thread_type = 1, ThreadType.NONE
        if options.gpu_only:
            raise SourceError(f"source {shown!r} is MJPEG over HTTP, which the GPU doesn't decode; use --decode auto")
        self._begin()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Damaged pictures as one phrase."""
        return (damage_phrase(self._damaged),) if self._damaged else ()

    @property
    def damaged(self) -> int:
        """Pictures that couldn't be decoded."""
        return self._damaged

    @property
    def dropped(self) -> int:
        """Pictures left undecoded, to stay fresh; `index` counts them."""
        return self._dropped

    def interrupt(self) -> None:
        self._client.interrupt()

    def _read_first(self) -> Frame:
        frame = self._next_frame(self._options.key_frame_timeout_s)
        self.info = SourceInfo(self._name, self._shown, frame.size_wh, live=True)
        return frame

    def _read(self) -> Frame | None:
        return self._next_frame(self._options.stall_timeout_s)

    def _release(self) -> None:
        self._answer.close()

    def _next_frame(self, silence_s: float) -> Frame:
        """Returns the next picture that can be decoded; raises if none comes in time."""
        started_s = time.perf_counter()
        while True:
            left_s = silence_s - (time.perf_counter() - started_s)
            if left_s <= 0:
                raise SourceError(
                    f"source {self._shown!r} sent data for {silence_s:g} s but no complete picture; check its network"
                )
            frame = self._decode(self._next_jpeg(left_s))
            if frame is not None:
                return frame

    def _next_jpeg(self, silence_s: float) -> bytes:
        started_s = time.perf_counter()
        while not self._whole:
            try:
                data = self._answer.read(silence_s)
                if not data:
                    raise SourceError("ended: the other side closed the stream; start it again there")
                self._whole.extend(self._scanner.feed(data))
            except TimeoutError:
                raise SourceError(
                    f"source {self._shown!r} sent nothing for {silence_s:.3g} s; check its network and power"
                ) from None
            except OSError as error:
                raise SourceError(
                    f"source {self._shown!r} broke off ({error.strerror or error}); check its network and power"
                ) from None
            except SourceError as error:
                raise SourceError(f"source {self._shown!r} {error}") from None
            if not self._whole and time.perf_counter() - started_s > silence_s:
                return b""  # data, but no picture
        if self._options.freshest:
            self._dropped += len(self._whole) - 1
            self._whole = deque([self._whole[-1]])
        return self._whole.popleft()

    def _decode(self, jpeg: bytes) -> Frame | None:
        """Returns a frame, None where the picture is damaged."""
        if not jpeg:
            return None
        size_wh = image_size(jpeg)
        problem = too_large(size_wh, self._options.max_pixels) if size_wh is not None else None
        if problem is not None:
            raise SourceError(f"source {self._shown!r} is too large: {problem}")
        try:
            decoded = next(iter(self._context.decode(av.Packet(jpeg))), None)
        except av.FFmpegError:
            decoded = None
        if decoded is None:
            self._damaged += 1
            return None
        now_s = time.perf_counter()
        if not self._count:
            self._orientation, self._first_s = orientation_of(decoded), now_s
        self._damaged += bool(decoded.is_corrupt)
        index = self._count + self._dropped
        self._count += 1
        return Frame(pixels_of(decoded, self._orientation), self._name, index, now_s - self._first_s, now_s)
