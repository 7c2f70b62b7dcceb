"""What SIGINT and SIGTERM do to a program: never an exception, always an end within a stated time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_BEGINS_WITHIN_S = 5.0
_MOVES_WITHIN_S = 20.0

_unfinished: dict[object, Callable[[], None]] = {}


@contextlib.contextmanager
def undone_when_stopped(undo: Callable[[], None]) -> Iterator[None]:
    """Within the block `undo` is called where a signal ends the process at once: it removes a temporary file, say."""
    key = object()
    _unfinished[key] = undo
    try:
        yield
    finally:
        del _unfinished[key]


class Interrupt:
    """Ends the process when it is told to.

    At first a signal ends the process at once: nothing is open yet that would have to be closed. From `defer` on the
    first one is only noted: the run polls `happened`, closes the outputs and returns. A second one ends the process
    at once, and so does a run that doesn't begin to close within 5 s, or in which nothing moves for 20 s.

    Signals are heard by a thread, so also while the main thread is busy in a library.
    """

    def __init__(self) -> None:
        """Hears nothing yet."""
        self._number = 0
        self._is_deferred = False
        self._progress: object = None
        self._moved_s = 0.0
        self._patience_s = _BEGINS_WITHIN_S

    @property
    def happened(self) -> bool:
        """Whether a signal has arrived."""
        return self._number != 0

    @property
    def status(self) -> int:
        """The exit status for the signal that has arrived, 0 as long as there is none."""
        return 128 + self._number if self._number else 0

    def install(self) -> None:
        """Hears SIGINT and SIGTERM from now on, for the rest of the process. Only on the main thread.

        Raises:
            RuntimeError: if the system has no room for a thread.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._hear, args=(reader,), name="signals", daemon=True).start()
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave_it_to_the_thread)

    def defer(self) -> None:
        """From now on there are outputs to close: the first signal is noted."""
        self._is_deferred = True

    def attend(self, progress: object) -> None:
        """Says that the run looks at `happened`, and how far it is: any value that changes when something moves."""
        self._patience_s = _MOVES_WITHIN_S
        if progress != self._progress:
            self._progress, self._moved_s = progress, time.monotonic()

    def _hear(self, reader: int) -> None:
        for number in os.read(reader, 1):
            self._number, self._moved_s = number, max(self._moved_s, time.monotonic())
        name = signal.Signals(self._number).name
        if not self._is_deferred:
            self._end(self._number, f"stopped by {name}")
        threading.Thread(target=self._watch, args=(name,), name="patience", daemon=True).start()
        second = os.read(reader, 1)[0]
        self._end(second, f"stopped by a second {signal.Signals(second).name}: outputs may lack their end")

    def _watch(self, name: str) -> None:
        while (left_s := self._moved_s + self._patience_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
        self._end(
            self._number, f"stopped by {name}, but for {self._patience_s:g} s nothing moved: outputs may lack their end"
        )

    def _end(self, number: int, said: str) -> None:
        for undo in list(_unfinished.values()):
            with contextlib.suppress(Exception):
                undo()
        with contextlib.suppress(OSError):
            os.write(2, f"{said}\n".encode())
        os._exit(128 + number)


def _leave_it_to_the_thread(number: int, _: FrameType | None) -> None:
    """Python calls this on the main thread, sooner or later; that a handler is there has `set_wakeup_fd` work."""
