"""The interface of every output."""

from __future__ import annotations

import abc
import enum
import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from streamer.common.closeable import Closeable
from streamer.common.errors import SinkError

if TYPE_CHECKING:
    from streamer.frames.detections import Detections
    from streamer.frames.frame import Frame
    from streamer.frames.viewport import Viewport

log = logging.getLogger(__name__)


class WriteError(SinkError):
    """A file couldn't be written to its end; what it holds is complete, or it is gone."""


class LiveFigures(enum.Enum):
    """Whether frame rate, latency and drops are drawn on the frames that a sink gets."""

    BY_DEFAULT = enum.auto()
    """Unless they aren't wanted: windows."""

    ON_REQUEST = enum.auto()
    """Recordings."""

    NEVER = enum.auto()
    """Single pictures."""


@dataclass(frozen=True)
class DiskUse:
    """What the recording of a live source needs.

    Attributes:
        written_bytes: what was written so far, deleted segments included.
        bytes_a_day: what a day needs at that rate.
    """

    written_bytes: int
    bytes_a_day: float


class Sink(Closeable):
    """Takes frames with their detections, in order. Open once constructed; a context manager that closes it.

    Attributes:
        needs_pixels: True if `write` wants the frame with what is detected drawn on it.
        live_figures: whether live figures are drawn on it too.
        live_view: True for interactive viewers: only the newest frame counts, and an outage is shown on the last one.
        main_thread: True if all methods must be called on the main thread.
    """

    needs_pixels: bool = True
    live_figures: LiveFigures = LiveFigures.ON_REQUEST
    live_view: bool = False
    main_thread: bool = False

    @abc.abstractmethod
    def write(self, frame: Frame, detections: Detections) -> None:
        """Writes one frame; boxes are already drawn on it when `needs_pixels`.

        Raises:
            SinkError: when the output can't take it (disk full, server gone).
        """

    def poll(self) -> None:
        """Handles events; called about fifty times a second on the main thread for sinks with `main_thread`.

        Raises:
            StopRequested: when the user asked the run to end.
        """

    def interrupt(self) -> None:
        """Makes a blocked `write` fail soon with `SinkError`; called from any thread."""

    @property
    def viewport(self) -> Viewport | None:
        """Where frames are scaled to, so that text and lines are drawn to be seen there; None if they aren't scaled.

        Read on other threads.
        """
        return None

    @property
    def lingers(self) -> bool:
        """True while the user still looks at the output: the run then ends only by `poll` or a stop."""
        return False

    @abc.abstractmethod
    def close(self) -> None:
        """Finishes the output so that what was written is playable or readable. Safe to call twice.

        Raises:
            SinkError: when finishing fails; what was written before is playable or readable all the same.
        """

    @property
    def written(self) -> tuple[Path, ...]:
        """The files made so far, or one pattern for many; named in the closing line of a run."""
        return ()

    @property
    def clips(self) -> int:
        """How many clips it has made; 0 for what makes none."""
        return 0

    @property
    def disk_use(self) -> DiskUse | None:
        """How much disk a live source's video needs; None for all else."""
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close_after_error()

    def close_after_error(self) -> None:
        """Closes it and only logs a failure to: the earlier error is the one to raise."""
        try:
            self.close()
        except SinkError as failed:
            log.warning("%s", failed)


class StopRequested(Exception):
    """The user asked the run to end at an output; not an error."""
