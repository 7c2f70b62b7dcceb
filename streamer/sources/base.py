"""The interface of sources, and what is known of one."""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from streamer.common.closeable import Closeable
from streamer.common.errors import SourceError, StreamerError, counted
from streamer.common.queues import OverflowPolicy

if TYPE_CHECKING:
    from streamer.frames.frame import Frame
    from streamer.sources.live_audio import AudioFeed, LiveAudio
    from streamer.sources.packet_tap import PacketFeed, PacketTap


class Pace(enum.Enum):
    """What sets the pace of a source's frames. All that depends on it asks `SourceInfo.pace`."""

    LIVE = enum.auto()
    """A camera or network stream: frames that aren't taken in time can't be read later."""

    SOURCE = enum.auto()
    """A file that is played at its own speed, like a live source."""

    MAX = enum.auto()
    """A file that is read as fast as its frames are processed."""

    @property
    def is_realtime(self) -> bool:
        """Whether frames come at their own times, so that delay matters more than throughput."""
        return self is not Pace.MAX

    def overflow_policy(self, wanted: OverflowPolicy | None = None) -> OverflowPolicy:
        """Returns the wanted policy; by default the oldest frames are dropped in real time, and none otherwise."""
        return wanted or (OverflowPolicy.DROP_OLDEST if self.is_realtime else OverflowPolicy.BLOCK)


@dataclass(frozen=True)
class SourceInfo:
    """Properties of an open source.

    Attributes:
        name: short name, used in reports and file names.
        uri: where it reads from, redacted: any password is ``***``.
        size_wh: frame size in pixels, after rotation; None when frames differ or it isn't known.
        fps: nominal frame rate, or None when the source has none (images, some streams).
        frame_count: number of frames, or None when unknown.
        duration_s: its length in seconds, or None when unknown.
        live: whether it is a camera or network stream, whose frames can't be read later.
        path: the local file or folder it reads, or None.
        pattern: the pattern of local files it reads, or None.
        files: the local files it reads, where it was given several.
        pixel_aspect: width of a pixel over its height, for display.
        first_stamp_s: the file's own time stamp of the first frame in seconds, or None when unknown.
        audio: the sound of a live source, where `SourceOptions.audio` wants it; a local file's is read from the file.
        detected_uri: where the frames come from, redacted, if `uri` is another stream of the camera, whose packets are
            kept.
        packets: its last packets, where `SourceOptions.kept_packets_s` wants them and it has any.
    """

    name: str
    uri: str
    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    live: bool = False
    path: Path | None = None
    pattern: Path | None = None
    files: tuple[Path, ...] = ()
    pixel_aspect: Fraction = Fraction(1)
    first_stamp_s: float | None = None
    audio: LiveAudio | None = field(default=None, compare=False, repr=False)
    detected_uri: str | None = None
    packets: PacketTap | None = field(default=None, compare=False, repr=False)

    def pace(self, *, paced: bool) -> Pace:
        """Returns what sets the pace of the frames; `paced` is whether files are played at their own speed."""
        return Pace.LIVE if self.live else Pace.SOURCE if paced else Pace.MAX


class Source(Closeable):
    """Frames in order, once. Open on construction; a context manager that closes its device or file.

    Example:
        >>> from streamer import open_source
        >>> with open_source("sample") as source:
        ...     print(source.info.size_wh, next(iter(source)).image.shape)
        (1280, 720) (720, 1280, 3)
    """

    info: SourceInfo

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yields frames with increasing `index` and non-decreasing `pts_s`; ends normally at the source's end.

        Raises:
            SourceError: when the source breaks off.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the device or file. Safe to call twice."""

    def wait_ready(self) -> None:
        """Waits for the first frame.

        Raises:
            SourceError: if the source can't be opened, or gives none. A live source may still be iterated: it then
                retries.
        """

    def hold(self) -> None:
        """Has a live source discard what comes until iteration begins, which then gives the next frame at time 0.

        Frames that wait for a run to begin would be old, and leave a hole behind the first. They aren't counted.
        """

    def interrupt(self) -> None:
        """Ends iteration soon, even one that waits for a frame. Returns at once; any thread may call it."""

    def move_to_gpu(self, gpu: int) -> None:
        """Has another GPU decode it, as the one before has failed; does nothing where no GPU does, or it can't move."""

    @property
    def packet_feed(self) -> PacketFeed | None:
        """The packets of one connection, for the source that it belongs to."""
        return None

    @property
    def audio_feed(self) -> AudioFeed | None:
        """The sound of one connection to a live source; None where there is none, or `SourceOptions` want none."""
        return None

    @property
    def utc_offset_s(self) -> float | None:
        """What turns `Frame.pts_s` into seconds since 1970 by a camera's own clock, of RTCP; None where unknown."""
        return None

    @property
    def main_reconnects(self) -> int | None:
        """How often the main stream reconnected, where it is another than the one that frames come from."""
        return None

    @property
    def lost_s(self) -> float | None:
        """Seconds since the last frame while a live source reconnects, else None."""
        return None

    @property
    def reconnects(self) -> int:
        """How often a live source was lost and reconnected."""
        return 0

    @property
    def dropped(self) -> int:
        """Frames that a live source dropped so that the next is fresh."""
        return 0

    @property
    def damaged(self) -> int:
        """Packets or pictures that couldn't be decoded."""
        return 0

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was skipped so far, a short phrase each: damaged packets, or a picture's name and the reason."""
        return (damage_phrase(self.damaged),) if self.damaged else ()


class SourceWrapper(Source):
    """Delegates to another source; a base class for one that changes part of its behaviour."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def info(self) -> SourceInfo:  # type: ignore[override]
        return self._source.info

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._source)

    def wait_ready(self) -> None:
        self._source.wait_ready()

    def hold(self) -> None:
        self._source.hold()

    def interrupt(self) -> None:
        self._source.interrupt()

    def move_to_gpu(self, gpu: int) -> None:
        self._source.move_to_gpu(gpu)

    def close(self) -> None:
        self._source.close()

    @property
    def lost_s(self) -> float | None:
        return self._source.lost_s

    @property
    def reconnects(self) -> int:
        return self._source.reconnects

    @property
    def utc_offset_s(self) -> float | None:
        return self._source.utc_offset_s

    @property
    def main_reconnects(self) -> int | None:
        return self._source.main_reconnects

    @property
    def skipped(self) -> tuple[str, ...]:
        return self._source.skipped

    @property
    def dropped(self) -> int:
        return self._source.dropped

    @property
    def damaged(self) -> int:
        return self._source.damaged


class FrameConsumer(Protocol):
    """Receives the frames of a `PushSource`, on one thread at a time; its methods must not block."""

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        """Receives the next frame, which took the source `capture_ms` to read and decode."""

    def on_end(self, error: StreamerError | None) -> None:
        """No more frames come: the source has ended, or failed."""


class PushSource(Source):
    """A source that pushes its frames from a thread of its own, so that no thread per source waits for them.

    Attributes:
        max_unacknowledged: most frames pushed ahead of `acknowledge`.
    """

    max_unacknowledged: int

    @abc.abstractmethod
    def start(self, consumer: FrameConsumer, *, paced: bool) -> None:
        """Pushes frames from now on, in place of iterating; returns at once.

        `paced` is whether each comes at its own time, counted from the first, and counts as captured then.
        """

    @abc.abstractmethod
    def acknowledge(self) -> None:
        """Makes room for one more frame; on one thread at a time."""


def as_source_error(error: Exception, name: str) -> StreamerError:
    """Returns an error of a source's code, or of a library in it, as one of this package: it ends that source alone."""
    if isinstance(error, StreamerError):
        return error
    reason = getattr(error, "strerror", None) or error  # the rest of a library's text may hold a password
    failure = SourceError(f"source {name!r} failed: {type(error).__name__}: {reason}")
    failure.__cause__ = error
    return failure


def damage_phrase(damaged: int) -> str:
    """Returns how many packets were damaged, in words."""
    return counted(damaged, "damaged packet")
