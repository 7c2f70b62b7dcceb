"""Packets of a source that has none of its own, as a webcam: one encoder for all who read, while anybody does."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import av

from streamer.common.errors import SinkError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sinks.files import reason
from streamer.sinks.options import DEFAULT_ENCODING, Encoding
from streamer.sinks.video.packet_encoder import PacketEncoder
from streamer.sources.base import Source, SourceInfo, SourceWrapper
from streamer.sources.packet_tap import DEFAULT_KEPT_S, DEFAULT_MAX_BYTES, PacketReader, PacketTap

log = logging.getLogger(__name__)

_FINISH_S = 5.0
_MAX_WAITING = 4  # pictures that the encoder hasn't got to


class EncodedTap(PacketTap):
    """A `PacketTap` that is filled from pictures: whoever is offered frames gives them to `offer`.

    The first reader starts an encoder on a thread of its own, and the last one's `close` ends it and drops what is
    kept. In between each picture becomes one packet at once, with a key frame every second and none out of order, so a
    reader that comes later begins with a key frame at most a second old. A picture that the encoder has no time for is
    dropped and counted. A new size begins a new `PacketFormat` with a key frame.

    Example:
        >>> tap = EncodedTap("door")
        >>> reader = tap.read_from()
        >>> for frame in source:
        ...     tap.offer(frame)
    """

    def __init__(
        self,
        name: str,
        kept_s: float = DEFAULT_KEPT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        fps: float | None = None,
        encoding: Encoding = DEFAULT_ENCODING,
    ) -> None:
        """Encodes nothing yet.

        Args:
            name: the source's, in messages.
            kept_s: length of what is kept, in seconds.
            max_bytes: most content of the packets that are kept.
            fps: nominal rate of the pictures, None if unknown.
            encoding: quality and encoder.
        """
        super().__init__(kept_s, max_bytes)
        self._name, self._encoding = name, encoding
        self._fps = fps
        self._encoder: _EncoderThread | None = None
        self._earlier_dropped = 0

    @property
    def dropped(self) -> int:
        """Pictures that the encoder had no time for."""
        encoder = self._encoder
        return self._earlier_dropped + (encoder.dropped if encoder is not None else 0)

    @property
    def is_encoding(self) -> bool:
        """Whether anybody reads, so that pictures are encoded."""
        return self._encoder is not None

    def offer(self, frame: Frame) -> None:
        """Takes the next picture, on one thread at a time; returns at once, and keeps nothing where nobody reads."""
        encoder = self._encoder
        if encoder is not None:
            encoder.offer(frame)

    def read_from(
        self, time_s: float | None = None, *, wake: Callable[[], None] = lambda: None, is_patient: bool = False
    ) -> PacketReader:
        with self._changed:
            if self._encoder is None and not self._closed:
                self._encoder = _EncoderThread(self._name, self._fps, self._encoding, self._push_of)
            return super().read_from(time_s, wake=wake)

    def close(self) -> None:
        """Ends it: what was offered is encoded, readers read what is left, then `Closed` is raised."""
        encoder = self._encoder
        if encoder is not None:
            encoder.finish()
        self._stop()
        super().close()

    def _push_of(self, encoder: _EncoderThread, packet: MediaPacket) -> None:
        if encoder is self._encoder:
            self.push(packet)

    def _accepts(self, packet: MediaPacket) -> bool:
        """Leaves out the last packet of an encoder that was ended meanwhile."""
        return self._encoder is not None and packet.format is self._encoder.format

    def _forget(self, reader: PacketReader) -> None:
        super()._forget(reader)
        with self._changed:
            if self._readers or self._closed:
                return
            self._stop()
            self._clear()

    def _stop(self) -> None:
        with self._changed:
            encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.stop()
            self._earlier_dropped += encoder.dropped


class EncodedSource(SourceWrapper):
    """A source whose pictures are offered to an `EncodedTap`, which `info.packets` is."""

    def __init__(self, source: Source, tap: EncodedTap) -> None:
        self._tap = tap
        super().__init__(source)

    @property
    def info(self) -> SourceInfo:  # type: ignore[override]
        return replace(self._source.info, packets=self._tap)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._tap.offer(frame)
            yield frame
        self._tap.close()

    def close(self) -> None:
        self._tap.close()
        super().close()


class _EncoderThread:
    """Encodes the pictures that it is offered, until it is stopped.

    Attributes:
        format: of the packets that come now; None before the first.
    """

    def __init__(
        self,
        name: str,
        fps: float | None,
        encoding: Encoding,
        push: Callable[[_EncoderThread, MediaPacket], None],
    ) -> None:
        self._name, self._fps, self._encoding, self._push = name, fps, encoding, push
        self.format: PacketFormat | None = None
        self._queue: BoundedQueue[Frame] = BoundedQueue(_MAX_WAITING, OverflowPolicy.DROP_OLDEST)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name=f"encode {name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._queue.dropped

    def offer(self, frame: Frame) -> None:
        with contextlib.suppress(Closed):
            self._queue.put(frame)

    def stop(self) -> None:
        """Encodes nothing more; returns at once."""
        self._is_stopped = True
        self._queue.close()

    def finish(self) -> None:
        """Encodes what was offered, and ends."""
        self._queue.close()
        self._thread.join(_FINISH_S)

    def _run(self) -> None:
        encoder: PacketEncoder | None = None
        try:
            for frame in self._queue.items():
                if self._is_stopped:
                    return
                if encoder is None or not encoder.suits(frame):
                    encoder = PacketEncoder(frame, self._fps, self._encoding)
                for packet in encoder.encode(frame):
                    self.format = packet.format
                    self._push(self, packet)
        except (SinkError, av.FFmpegError, ValueError) as error:
            self._queue.close()
            log.warning("source %r has no packets and can't be encoded: %s", self._name, reason(error))
