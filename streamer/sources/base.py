"""What every source of frames is."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from streamer.common.closeable import Closeable
from streamer.common.errors import SourceError, StreamerError
from streamer.frames.frame import Frame


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source once it is open.

    Attributes:
        name: short name, used in reports and file names.
        uri: where it reads from, with any password replaced by ``***``.
        size_wh: width and height of its frames in pixels, after rotation; None when frames differ or it isn't known.
        fps: nominal frame rate, or None when the source has none (images, some streams).
        frame_count: how many frames it should give, or None when unknown.
        duration_s: its length in seconds, or None when unknown.
        live: True when frames can't be asked for again or waited with (camera, network stream).
        path: the local file it reads, or None.
        pixel_aspect: width of a pixel over its height, as it is to be shown.
        first_stamp_s: the file's own time stamp of the first frame in seconds, or None when unknown.
    """

    name: str
    uri: str
    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    live: bool = False
    path: Path | None = None
    pixel_aspect: Fraction = Fraction(1)
    first_stamp_s: float | None = None


class Source(Closeable):
    """Frames in order, once. Open on construction; a context manager that lets its device or file go.

    Iterating raises `SourceError` when the source breaks off, and ends normally at its end.
    """

    info: SourceInfo

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yields frames with increasing `index` and non-decreasing `pts_s`.

        Raises:
            SourceError: when the source breaks off.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Lets the device or file go. Safe to call twice."""

    def wait_ready(self) -> None:
        """Waits for the first frame.

        Raises:
            SourceError: if the source can't be opened, or gives none. A live source may still be iterated: it then
                goes on trying.
        """

    def interrupt(self) -> None:
        """Has iteration end soon, also while it waits for a frame; from any thread, and without waiting itself."""

    @property
    def lost_s(self) -> float | None:
        """Seconds since the last frame of a live source that is being reached again, None while all is well."""
        return None

    @property
    def reconnects(self) -> int:
        """How often a live source was lost and reached again."""
        return 0

    @property
    def dropped(self) -> int:
        """How many pictures of a live source were passed over, so that the next is fresh."""
        return 0

    @property
    def damaged(self) -> int:
        """How many packets or pictures couldn't be decoded."""
        return 0

    @property
    def skipped(self) -> tuple[str, ...]:
        """What the source had to pass over so far, one short phrase each (a damaged picture's name, for instance)."""
        return ()


class FrameConsumer(Protocol):
    """Who is brought a source's frames, all on one thread; must not wait."""

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        """Takes the next frame, which took the source so long."""

    def on_end(self, error: StreamerError | None) -> None:
        """No more come: the source has ended, or failed."""


class PushSource(Source):
    """A source that can bring its frames on a thread that serves many sources, so that none has to wait for them.

    Attributes:
        max_unacknowledged: most frames brought that `acknowledge` wasn't called for.
    """

    max_unacknowledged: int

    @abc.abstractmethod
    def start(self, consumer: FrameConsumer, *, paced: bool) -> None:
        """Begins to bring frames, in place of iterating; returns at once.

        Args:
            consumer: who has them.
            paced: whether each is to come at its own time, counted from the first, and counts as captured then.
        """

    @abc.abstractmethod
    def acknowledge(self) -> None:
        """Says that there is room for one more frame; on one thread at a time."""


def as_source_error(error: Exception, name: str) -> StreamerError:
    """Returns what a source failed with as an error of this package, so that it ends that source alone.

    Args:
        error: what its code, or a library, raised.
        name: the source's name.
    """
    if isinstance(error, StreamerError):
        return error
    reason = getattr(error, "strerror", None) or error  # what a library adds to it may hold a password
    failure = SourceError(f"source {name!r} failed: {type(error).__name__}: {reason}")
    failure.__cause__ = error
    return failure


def damage_phrase(damaged: int) -> str:
    """Returns how many packets were damaged, in words."""
    return "1 damaged packet" if damaged == 1 else f"{damaged} damaged packets"
