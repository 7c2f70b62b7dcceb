"""The messages between a run and its decoding workers, in order over one `MessageChannel` each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from streamer.common.errors import StreamerError
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sources.base import SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec

if TYPE_CHECKING:
    from streamer.cuda.ipc import IpcHandle


class Status(NamedTuple):
    """The counters of a `Source`; `lost_at_s` is the `time.perf_counter()` of its last frame while it reconnects."""

    lost_at_s: float | None = None
    reconnects: int = 0
    dropped: int = 0
    damaged: int = 0
    skipped: tuple[str, ...] = ()


# To the worker.


class Open(NamedTuple):
    """Open a source under this number; frames of a file before `first_index` were sent by another worker."""

    number: int
    spec: SourceSpec
    options: SourceOptions
    first_index: int = 0


class Hold(NamedTuple):
    """Hold the source until it is started, see `Source.hold`."""

    number: int


class Start(NamedTuple):
    """Send the source's frames; `paced`: each at its own time."""

    number: int
    paced: bool


class Stop(NamedTuple):
    """Stop and close the source."""

    number: int


# From the worker.


class Heartbeat(NamedTuple):
    """Sent every second."""


class Opened(NamedTuple):
    """The source has its first frame."""

    number: int
    info: SourceInfo
    status: Status


class OpenFailed(NamedTuple):
    """The source can't be opened, or gave no frame in time; a live one retries once it is started."""

    number: int
    info: SourceInfo
    error: StreamerError


class SurfaceExported(NamedTuple):
    """Frames will be in this GPU surface."""

    slot: int
    handle: IpcHandle


class SurfaceRetired(NamedTuple):
    """No more frames will be in it. The worker frees it once this generation is returned, that is, unmapped."""

    slot: int
    generation: int


class FormatChanged(NamedTuple):
    """Size and colours of the source's frames on the GPU from now on."""

    number: int
    size_wh: tuple[int, int]
    tags: Yuv420


class FrameReady(NamedTuple):
    """A frame whose pixels are in a GPU surface; the rest is as in `Frame`."""

    number: int
    slot: int
    generation: int
    frame_index: int
    pts_s: float
    captured_at_s: float
    capture_ms: float


class FrameCopied(NamedTuple):
    """A frame with its pixels."""

    number: int
    frame: Frame
    capture_ms: float


class StatusChanged(NamedTuple):
    """The source's info or counters have changed."""

    number: int
    info: SourceInfo
    status: Status


class Ended(NamedTuple):
    """The source gives no more frames: it ended, was stopped, or failed."""

    number: int
    error: StreamerError | None
    status: Status


class Closed(NamedTuple):
    """The source is closed and its surfaces are returned: its number can be reused."""

    number: int
