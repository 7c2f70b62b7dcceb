"""What ends when a source or a sink fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from streamer.common.errors import SinkError, StreamerError
from streamer.common.queues import Closed
from streamer.sources.base import as_source_error

log = logging.getLogger(__name__)

T = TypeVar("T")


class FailurePolicy:
    """Limits a failure to the part of a stream that failed: the source, or one sink. The last sink ends the source.

    Attributes:
        source_error: why the source failed; None while it works.
    """

    def __init__(self, name: str, sinks: int, stop_source: Callable[[], None]) -> None:
        """`name` is the source's; `stop_source` is called once all of its `sinks` have failed."""
        self._name, self._working_sinks, self._stop_source = name, sinks, stop_source
        self.source_error: StreamerError | None = None
        self._sink_errors: list[tuple[str, StreamerError]] = []
        self._lock = threading.Lock()

    @property
    def errors(self) -> list[tuple[str, StreamerError]]:
        """What failed, by the name of the source or sink, and why; the source first."""
        source = [] if self.source_error is None else [(self._name, self.source_error)]
        return source + list(self._sink_errors)

    def call_source(self, step: Callable[[], T]) -> T | None:
        """Calls into the source; returns None, and keeps the error, where that raises anything but `Closed`."""
        try:
            return step()
        except Closed:
            raise
        except Exception as error:
            log.debug("source %r failed", self._name, exc_info=error)
            self.source_failed(as_source_error(error, self._name))
        return None

    def source_failed(self, error: StreamerError) -> None:
        """Keeps the source's first error."""
        self.source_error = self.source_error or error

    def sink_failed(self, name: str, error: SinkError) -> None:
        """Keeps a sink's error, to be called once for each; stops the source where no sink is left."""
        with self._lock:
            self._sink_errors.append((name, error))
            self._working_sinks -= 1
            is_last = not self._working_sinks
        if is_last:
            self._stop_source()
        else:
            log.warning("%s; the other outputs continue", error)
