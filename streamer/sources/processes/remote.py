"""A source that another process reads and decodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from streamer.errors import SourceError, StreamerError
from streamer.frame import Frame
from streamer.policy import Closed, Handover, Policy
from streamer.sources.base import Source, SourceInfo
from streamer.sources.processes.messages import Begin, Given, LetGo, Looks, Status

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.cuda.lending import Borrowed
    from streamer.cuda.staging import Loan

_MOST_WAITING = 64  # far more than the other process decodes ahead: `arrive` never waits


class RemoteSource(Source):
    """Frames of a source in another process; what it says of itself is up to a tenth of a second old.

    The run's side: `wait_ready`, iterating and the rest of `Source`. The other process's: methods that take what it
    says, called on one thread.
    """

    def __init__(
        self, number: int, info: SourceInfo, send: Callable[[object], None], taken: npt.NDArray[np.uint64]
    ) -> None:
        """Takes a source that is being opened.

        Args:
            number: of the source in the process.
            info: what is known of it so far.
            send: says something to the process, which may be gone.
            taken: where to say how many frames were taken.
        """
        self.info = info
        self._number, self._send, self._taken = number, send, taken
        self._frames: Handover[Frame] = Handover(_MOST_WAITING, Policy.EVERY_FRAME)
        self._answered = threading.Event()
        self._refusal: StreamerError | None = None
        self._error: StreamerError | None = None
        self._status = Status()
        self._looks: Looks | None = None

    def wait_ready(self) -> None:
        """Waits for the first frame.

        Raises:
            ConfigError: if there can be no such source.
            SourceError: if it can't be opened, or gives none; one that is live may still be iterated.
        """
        self._answered.wait()
        error = self._error or self._refusal
        if error is not None:
            raise error

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames, in order.

        Raises:
            SourceError: when the source, or the process, breaks off.
        """
        self._send(Begin(self._number))
        while True:
            try:
                frame = self._frames.get()
            except Closed:
                break
            if frame is not None:
                self._taken[self._number] += 1
                yield frame
        if self._error is not None:
            raise self._error

    def interrupt(self) -> None:
        self._send(LetGo(self._number))
        self._frames.abort()

    def close(self) -> None:
        self.interrupt()

    @property
    def lost_s(self) -> float | None:
        at_s = self._status.lost_at_s
        return None if at_s is None else time.perf_counter() - at_s

    @property
    def reconnects(self) -> int:
        return self._status.reconnects

    @property
    def passed_over(self) -> int:
        return self._status.passed_over

    @property
    def damaged(self) -> int:
        return self._status.damaged

    @property
    def skipped(self) -> tuple[str, ...]:
        return self._status.skipped

    def opened(self, info: SourceInfo, status: Status) -> None:
        """The source has its first frame."""
        self.told(info, status)
        self._answered.set()

    def refused(self, info: SourceInfo, error: StreamerError) -> None:
        """The source couldn't be opened, and will be tried again."""
        self.info, self._refusal = info, error
        self._answered.set()

    def told(self, info: SourceInfo, status: Status) -> None:
        """The process says how the source is."""
        self.info, self._status = info, status

    def looks(self, looks: Looks) -> None:
        """The pictures that come now are of this kind."""
        self._looks = looks

    def lent(self, given: Given, loan: Loan[Borrowed]) -> None:
        """A frame came whose pixels lie in another process's memory."""
        from streamer.cuda.nv12 import Nv12

        assert self._looks is not None, "the process tells how pictures look before it gives the first"
        pixels = Nv12(loan, self._looks.size_wh, self._looks.tags)
        self.arrive(Frame(pixels, self.info.name, given.frame_index, given.pts_s, given.captured_at_s))

    def arrive(self, frame: Frame) -> None:
        """A frame came."""
        try:
            self._frames.put(frame)
        except Closed:
            pass  # it was let go

    def ended(self, error: StreamerError | None, status: Status | None = None) -> None:
        """No more will come."""
        self._error = self._error or error
        if status is not None:
            self._status = status
        self._frames.close()
        self._answered.set()


def gone(info: SourceInfo, how: str) -> SourceError:
    """Returns why a source ends whose process is no more."""
    return SourceError(f"source {info.uri!r} broke off: the process that decoded it {how}; start the run again")
