"""What a run and its decoding processes say to each other, over a `Wire` each, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from streamer.common.errors import StreamerError
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sources.base import SourceInfo
from streamer.sources.options import SourceOptions

if TYPE_CHECKING:
    from streamer.cuda.ipc import Handle


class Status(NamedTuple):
    """What a source says of itself beside its frames; see `Source`.

    Attributes:
        lost_at_s: `time.perf_counter()` of its last frame, while it is being reached again.
    """

    lost_at_s: float | None = None
    reconnects: int = 0
    dropped: int = 0
    damaged: int = 0
    skipped: tuple[str, ...] = ()


class Open(NamedTuple):
    """To the process: open a source, under this number."""

    number: int
    uri: str
    name: str
    options: SourceOptions


class Begin(NamedTuple):
    """To the process: give the source's frames, each at its own time where they are paced."""

    number: int
    paced: bool


class LetGo(NamedTuple):
    """To the process: end the source soon, and close it."""

    number: int


class Alive(NamedTuple):
    """The process lives: said every second."""


class Opened(NamedTuple):
    """The source has its first frame."""

    number: int
    info: SourceInfo
    status: Status


class Refused(NamedTuple):
    """The source couldn't be opened, or had no frame in time; one that is live goes on trying once it is begun."""

    number: int
    info: SourceInfo
    error: StreamerError


class Lent(NamedTuple):
    """Pictures will lie in this surface."""

    slot: int
    handle: Handle


class Freed(NamedTuple):
    """None will any more: it is freed once the turn was given back, which says that it is unmapped."""

    slot: int
    turn: int


class Looks(NamedTuple):
    """How the source's pictures in surfaces look from now on."""

    number: int
    size_wh: tuple[int, int]
    tags: Yuv420


class Given(NamedTuple):
    """A frame whose pixels lie in a surface; the rest is as in `Frame`."""

    number: int
    slot: int
    turn: int
    frame_index: int
    pts_s: float
    captured_at_s: float
    capture_ms: float


class Copied(NamedTuple):
    """A frame with its pixels."""

    number: int
    frame: Frame
    capture_ms: float


class Told(NamedTuple):
    """The source's status has changed, or what is known of it."""

    number: int
    info: SourceInfo
    status: Status


class Ended(NamedTuple):
    """The source gives no more frames: it has ended, was let go, or failed."""

    number: int
    error: StreamerError | None
    status: Status


class Gone(NamedTuple):
    """Nothing is left of the source: its number may be used again."""

    number: int
