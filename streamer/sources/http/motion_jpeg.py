"""A camera that sends JPEG pictures in one endless response."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext

from streamer.common.errors import SourceError
from streamer.frames.frame import Frame
from streamer.frames.pixels import UPRIGHT, orientation_of, pixels_of
from streamer.sources.base import SourceInfo
from streamer.sources.diagnosis import why_broken_off
from streamer.sources.http.client import HttpClient, HttpResponse
from streamer.sources.http.image_source import HttpImageSource
from streamer.sources.http.jpeg_scanner import JpegScanner
from streamer.sources.image_size import image_size
from streamer.sources.jpeg_packets import JpegPackets
from streamer.sources.options import SourceOptions, too_large
from streamer.sources.packet_tap import PacketFeed


class MotionJpegSource(HttpImageSource):
    """Frames of one connection, as 4:2:0 planes.

    Where several pictures have arrived (`SourceOptions.overflow_policy`), only the newest is decoded.
    """

    def __init__(
        self, client: HttpClient, response: HttpResponse, shown: str, *, name: str, options: SourceOptions
    ) -> None:
        if options.gpu_only:
            raise SourceError(f"source {shown!r} is MJPEG over HTTP, which the GPU doesn't decode; use --decode auto")
        self._orientation = UPRIGHT
        self._scanner = JpegScanner()
        self._jpegs: deque[bytes] = deque()  # whole, not yet decoded
        self._packets = JpegPackets() if options.kept_packets_s else None
        self._context = VideoCodecContext.create("mjpeg", "r")
        self._context.thread_count, self._context.thread_type = 1, ThreadType.NONE
        super().__init__(client, response, shown, name=name, options=options)

    @property
    def packet_feed(self) -> PacketFeed | None:
        return None if self._packets is None else self._packets.feed

    def _read_first(self) -> Frame:
        frame = self._read_within(self._options.key_frame_timeout_s)
        if self._packets is not None:
            self._packets.begin()
        self.info = SourceInfo(self._name, self._shown, frame.size_wh, live=True)
        return frame

    def _read(self) -> Frame | None:
        return self._read_within(self._options.stall_timeout_s)

    def _release(self) -> None:
        self._response.close()

    def _read_within(self, timeout_s: float) -> Frame:
        """Returns the next picture that can be decoded; raises if none comes in time."""
        deadline_s = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline_s:
            if not self._jpegs:
                self._receive(timeout_s)
                continue
            if self._options.drops_stale(live=True):
                self.dropped += len(self._jpegs) - 1
                self._jpegs = deque([self._jpegs[-1]])
            frame = self._decode(self._jpegs.popleft())
            if frame is not None:
                return frame
        raise SourceError(
            f"source {self._shown!r} sent data for {timeout_s:g} s but no complete picture; check its network"
        )

    def _receive(self, timeout_s: float) -> None:
        problem = "ended: the other side closed the stream; start it again there"
        try:
            data = self._response.read(timeout_s)
            if data:
                self._keep(self._scanner.feed(data))
                return
        except OSError as error:
            problem = why_broken_off(error, timeout_s)
        except SourceError as error:
            problem = str(error)
        raise SourceError(f"source {self._shown!r} {problem}")

    def _keep(self, jpegs: Sequence[bytes]) -> None:
        self._jpegs.extend(jpegs)
        if self._packets is None:
            return
        for jpeg in jpegs:
            size_wh = image_size(jpeg)
            if size_wh is not None and too_large(size_wh, self._options.max_pixels) is None:
                self._packets.add(jpeg, size_wh, time.perf_counter())

    def _decode(self, jpeg: bytes) -> Frame | None:
        """Returns a frame, None where the picture is damaged."""
        size_wh = image_size(jpeg)
        problem = too_large(size_wh, self._options.max_pixels) if size_wh is not None else None
        if problem is not None:
            raise SourceError(f"source {self._shown!r} is too large: {problem}")
        try:
            decoded = next(iter(self._context.decode(av.Packet(jpeg))), None)
        except av.FFmpegError:
            decoded = None
        if decoded is None:
            self.damaged += 1
            return None
        if not self._count:
            self._orientation = orientation_of(decoded)
        self.damaged += bool(decoded.is_corrupt)
        return self._frame(pixels_of(decoded, self._orientation))
