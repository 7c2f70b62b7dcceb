"""A source that another process reads and decodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from streamer.errors import SourceError, StreamerError
from streamer.frame import Frame
from streamer.policy import Closed, Handover, Policy
from streamer.sources.base import FedSource, SourceInfo, Taker
from streamer.sources.processes.board import AHEAD
from streamer.sources.processes.messages import Begin, Given, LetGo, Looks, Status

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.cuda.lending import Borrowed
    from streamer.cuda.staging import Loan


class RemoteSource(FedSource):
    """Frames of a source in another process; what it says of itself is up to a tenth of a second old.

    The run's side: `wait_ready`, `feed` and the rest of `Source`. The other process's: methods that take what it says,
    called on one thread.
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
        self.ahead = AHEAD
        self._number, self._send, self._taken = number, send, taken
        self._taker: Taker | None = None
        self._inbox: _Inbox | None = None
        self._answered, self._is_let_go = threading.Event(), False
        self._refusal: StreamerError | None = None
        self._error: StreamerError | None = None
        self._has_ended = self._is_gone = False
        self._lock = threading.Lock()  # between the source's end and who counts on it
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

    def feed(self, taker: Taker, *, paced: bool) -> None:
        with self._lock:
            self._taker = taker
            has_ended = self._has_ended
        if has_ended:
            taker.source_ended(self._error)
        else:
            self._send(Begin(self._number, paced))

    def count_taken(self) -> None:
        with self._lock:
            if not self._is_gone:
                self._taken[self._number] += 1

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames, in order.

        Raises:
            SourceError: when the source, or the process, breaks off.
        """
        if self._inbox is None:
            self._inbox = _Inbox(self.ahead)
            self.feed(self._inbox, paced=False)
        for frame in self._inbox.frames():
            self.count_taken()
            yield frame

    def interrupt(self) -> None:
        with self._lock:
            if self._is_gone or self._is_let_go:
                return
            self._is_let_go = True
            self._send(LetGo(self._number))
        if self._inbox is not None:
            self._inbox.abort()

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
        frame = Frame(pixels, self.info.name, given.frame_index, given.pts_s, given.captured_at_s)
        self.arrive(frame, given.capture_ms)

    def arrive(self, frame: Frame, capture_ms: float) -> None:
        """A frame came."""
        self._refusal = None
        if self._taker is not None and not self._is_let_go:
            self._taker.take(frame, capture_ms)

    def ended(self, error: StreamerError | None, status: Status | None = None) -> None:
        """No more will come."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
            self._error = error
            taker = self._taker
        if status is not None:
            self._status = status
        self._answered.set()
        if taker is not None:
            taker.source_ended(error)

    def gone(self) -> None:
        """Nothing is left of it in the process: its number may be another's now."""
        with self._lock:
            self._is_gone = True


class _Inbox(Taker):
    """Takes frames for who iterates."""

    def __init__(self, ahead: int) -> None:
        self._frames: Handover[Frame] = Handover(ahead, Policy.EVERY_FRAME)
        self._error: StreamerError | None = None

    def take(self, frame: Frame, capture_ms: float) -> None:
        try:
            self._frames.put(frame)
        except Closed:
            pass  # aborted meanwhile

    def abort(self) -> None:
        self._frames.abort()

    def source_ended(self, error: StreamerError | None) -> None:
        self._error = error
        self._frames.close()

    def frames(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self._frames.get()
            except Closed:
                if self._error is not None:
                    raise self._error from None
                return
            if frame is not None:
                yield frame


def broken_off(info: SourceInfo, how: str) -> SourceError:
    """Returns why a source ends whose process is no more."""
    return SourceError(f"source {info.uri!r} broke off: the process that decoded it {how}; start the run again")
