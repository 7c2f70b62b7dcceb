"""SIGINT and SIGTERM without exceptions: a clean shutdown with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_START_TIMEOUT_S = 5.0
_PROGRESS_TIMEOUT_S = 20.0

_cleanups: dict[object, Callable[[], None]] = {}


@contextlib.contextmanager
def cleanup_on_exit(cleanup: Callable[[], None]) -> Iterator[None]:
    """Calls `cleanup`, which removes a temporary file, if a signal ends the process within the block."""
    key = object()
    _cleanups[key] = cleanup
    try:
        yield
    finally:
        del _cleanups[key]


class Interrupt:
    """Handles SIGINT and SIGTERM on a thread, so also while the main thread is busy in a library.

    Before `defer` a signal ends the process at once. After it the first signal sets `happened`, and the run closes its
    outputs and returns. A second signal ends the process at once, and so does a shutdown that doesn't start within 5 s
    or makes no progress for 20 s.
    """

    def __init__(self) -> None:
        """Installs nothing yet; see `install`."""
        self._number = 0
        self._is_deferred = False
        self._progress: object = None
        self._progressed_s = 0.0
        self._timeout_s = _START_TIMEOUT_S

    @property
    def happened(self) -> bool:
        """Whether a signal has arrived."""
        return self._number != 0

    @property
    def status(self) -> int:
        """The exit status for the signal that has arrived, else 0."""
        return 128 + self._number if self._number else 0

    def install(self) -> None:
        """Installs the handlers for the rest of the process. Call it on the main thread.

        Raises:
            RuntimeError: if no thread can be started.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._wait_for_signals, args=(reader,), name="signals", daemon=True).start()
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _ignore)

    def stop(self) -> None:
        """Ends the run in good order, from any thread, as a first SIGTERM does without the time limits."""
        self._number = signal.SIGTERM

    def defer(self) -> None:
        """Makes the first signal set `happened` only: there are outputs to close."""
        self._is_deferred = True

    def stop_deferring(self) -> None:
        """Makes a signal end the process at once again: what follows can be cut anywhere."""
        self._is_deferred = False

    def report_progress(self, progress: object) -> None:
        """Resets the shutdown time-out whenever `progress`, any comparable value, changes."""
        self._timeout_s = _PROGRESS_TIMEOUT_S
        if progress != self._progress:
            self._progress, self._progressed_s = progress, time.monotonic()

    def _wait_for_signals(self, reader: int) -> None:
        for number in os.read(reader, 1):
            self._number, self._progressed_s = number, max(self._progressed_s, time.monotonic())
        name = signal.Signals(self._number).name
        if not self._is_deferred:
            self._end(self._number, f"stopped by {name}")
        threading.Thread(target=self._watch, args=(name,), name="shutdown watchdog", daemon=True).start()
        second = os.read(reader, 1)[0]
        self._end(second, f"stopped by a second {signal.Signals(second).name}: outputs may be incomplete")

    def _watch(self, name: str) -> None:
        while (left_s := self._progressed_s + self._timeout_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
        self._end(
            self._number, f"stopped by {name}, without progress for {self._timeout_s:g} s: outputs may be incomplete"
        )

    def _end(self, number: int, said: str) -> None:
        for cleanup in list(_cleanups.values()):
            with contextlib.suppress(Exception):
                cleanup()
        with contextlib.suppress(OSError):
            os.write(2, f"{said}\n".encode())
        os._exit(128 + number)


def _ignore(number: int, _: FrameType | None) -> None:
    """Does nothing: `set_wakeup_fd` only works for signals that have a Python handler."""
