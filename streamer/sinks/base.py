"""What every output is."""

from __future__ import annotations

import abc
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from streamer.common.errors import SinkError

if TYPE_CHECKING:
    from streamer.frames.detections import Detections
    from streamer.frames.frame import Frame

log = logging.getLogger(__name__)


class Sink(abc.ABC):
    """Takes frames with their detections, in order. Open on construction; a context manager that closes its output.

    Attributes:
        needs_pixels: True when `write` wants the frame with boxes and overlay drawn; False spares that work.
        live_view: True when a person looks on now: only the newest frame counts, and an outage is shown on the last.
        main_thread: True when `write`, and everything else, must be called on the process's main thread.
    """

    needs_pixels: bool = True
    live_view: bool = False
    main_thread: bool = False

    @abc.abstractmethod
    def write(self, frame: Frame, detections: Detections) -> None:
        """Takes one frame; boxes are already drawn on it when `needs_pixels`.

        Raises:
            SinkError: when the output can't take it (full disk, server gone).
        """

    def poll(self) -> None:  # noqa: B027 - most outputs have nothing to do between frames
        """Called about fifty times a second on the main thread for sinks with `main_thread`.

        Raises:
            StopRequested: when the person at the output asked the run to end.
        """

    def interrupt(self) -> None:  # noqa: B027 - most outputs wait for nothing
        """Has a `write` that waits for somebody to read give up soon with `SinkError`; from any thread."""

    @property
    def lingers(self) -> bool:
        """True when the person at the output still looks: the run then ends only by `poll` or a stop."""
        return False

    @abc.abstractmethod
    def close(self) -> None:
        """Finishes the output so that what was written is playable or readable. Safe to call twice.

        Raises:
            SinkError: when finishing fails.
        """

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that this output has made, or a pattern for very many, for the closing line of a run."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close_after_error()

    def close_after_error(self) -> None:
        """Closes it; what that says is only logged: the error before is the one to tell."""
        try:
            self.close()
        except SinkError as failed:
            log.warning("%s", failed)


@contextlib.contextmanager
def closing_on_error(sink: Sink) -> Iterator[None]:
    """Closes a sink when the block fails."""
    try:
        yield
    except BaseException:
        sink.close_after_error()
        raise


class StopRequested(Exception):
    """The person at an output asked the run to end; not an error."""
