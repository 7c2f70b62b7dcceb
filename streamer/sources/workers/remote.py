"""A source that a decoding worker reads, and another worker after that one has exited."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from streamer.common.errors import SourceError, StreamerError
from streamer.common.queues import BoundedQueue, Closed, OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.base import FrameConsumer, PushSource, SourceInfo, damage_phrase
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.timeline import ContinuousTimeline
from streamer.sources.workers.messages import FormatChanged, FrameReady, Hold, Open, Start, Status, Stop
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.cuda.ipc import ImportedSurface
    from streamer.cuda.staging import BufferLease

log = logging.getLogger(__name__)


class Attachment(NamedTuple):
    """A source's place in a worker.

    Attributes:
        number: of the source in the worker.
        send: sends a message to the worker; does nothing where it has exited.
        acknowledged: (SOURCES,) uint64: shared with the worker, see `SharedCounters`.
        leave: detaches the source: once it returns, the worker calls none of its methods.
    """

    number: int
    send: Callable[[object], None]
    acknowledged: npt.NDArray[np.uint64]
    leave: Callable[[], None]


class RemoteSource(PushSource):
    """Frames of a source in a worker. Its info and counters are up to 0.1 s old.

    A live source outlives its worker: another one takes it over, up to `SourceOptions.reconnect` times without a frame
    in between; `index` and `pts_s` continue. So does any source outlive the GPU that decodes it: a file is decoded
    again up to where it was. The methods from `attach` on are for the worker's thread.
    """

    max_unacknowledged = MAX_UNACKNOWLEDGED

    def __init__(
        self, spec: SourceSpec, options: SourceOptions, reattach: Callable[[RemoteSource], None] | None = None
    ) -> None:
        """Isn't attached to a worker yet; `options` are for the worker that opens it.

        `reattach` attaches it to a worker again, after it has left one; None where it can't move.
        """
        self.info = SourceInfo(spec.name, str(spec), live=spec.kind.is_live)
        self._spec, self._options, self._reattach = spec, options, reattach
        self._attachment: Attachment | None = None
        self._consumer: FrameConsumer | None = None
        self._paced = False
        self._inbox: _Inbox | None = None
        self._answered = threading.Event()
        self._is_stopped = self._has_ended = False
        self._open_error: StreamerError | None = None
        self._error: StreamerError | None = None
        self._lock = threading.Lock()  # guards the attachment, the end, and the acknowledgements
        self._earlier, self._now = Status(), Status()  # of the workers before, of this one
        self._format: FormatChanged | None = None
        self._timeline, self._is_first = ContinuousTimeline(), True
        self._last_frame_s = time.perf_counter()
        self._lost_at_s: float | None = None
        self._moves = 0
        self._unacknowledged = self._unacknowledged_before = 0  # of this worker's frames, and of those before

    def wait_ready(self) -> None:
        self._answered.wait()
        error = self._error or self._open_error
        if error is not None:
            raise error

    def hold(self) -> None:
        with self._lock:
            if self._attachment is not None and self._consumer is None:
                self._attachment.send(Hold(self._attachment.number))

    def start(self, consumer: FrameConsumer, *, paced: bool) -> None:
        with self._lock:
            self._consumer, self._paced = consumer, paced
            has_ended = self._has_ended
            if self._attachment is not None:
                self._attachment.send(Start(self._attachment.number, paced))
        if has_ended:
            consumer.on_end(self._error)

    def acknowledge(self) -> None:
        with self._lock:
            if self._unacknowledged_before:
                self._unacknowledged_before -= 1
                return
            self._unacknowledged -= 1
            if self._attachment is not None:
                self._attachment.acknowledged[self._attachment.number] += 1

    def __iter__(self) -> Iterator[Frame]:
        if self._inbox is None:
            self._inbox = _Inbox(self.max_unacknowledged)
            self.start(self._inbox, paced=False)
        for frame in self._inbox.frames():
            self.acknowledge()
            yield frame

    @property
    def gpu(self) -> int | None:
        """Number of the GPU that decodes it, where it can."""
        return self._options.gpu

    def move_to_gpu(self, gpu: int) -> None:
        with self._lock:
            self._options = replace(self._options, gpu=gpu)
            attachment = self._attachment if self.is_wanted else None
        if attachment is None or self._reattach is None:  # between two workers: the next one uses the options
            return
        attachment.leave()
        attachment.send(Stop(attachment.number))
        with self._lock:
            self._set_adrift()
        self._reattach(self)

    @property
    def is_wanted(self) -> bool:
        """Whether it has neither ended nor been closed."""
        return not (self._has_ended or self._is_stopped)

    def interrupt(self) -> None:
        if not self._stop():
            self.on_ended(None)
        if self._inbox is not None:
            self._inbox.abort()

    def _stop(self) -> bool:
        """Has its worker stop it; returns False where it isn't attached."""
        with self._lock:
            was_stopped, self._is_stopped = self._is_stopped, True
            if self._attachment is None:
                return False
            if not was_stopped:
                self._attachment.send(Stop(self._attachment.number))
            return True

    def close(self) -> None:
        self.interrupt()

    @property
    def lost_s(self) -> float | None:
        at_s = self._now.lost_at_s if self._lost_at_s is None else self._lost_at_s
        return None if at_s is None else time.perf_counter() - at_s

    @property
    def reconnects(self) -> int:
        return self._earlier.reconnects + self._now.reconnects

    @property
    def dropped(self) -> int:
        return self._earlier.dropped + self._now.dropped

    @property
    def damaged(self) -> int:
        return self._earlier.damaged + self._now.damaged

    @property
    def skipped(self) -> tuple[str, ...]:
        return (damage_phrase(self.damaged),) if self._earlier.damaged else self._now.skipped

    def attach(self, attachment: Attachment) -> bool:
        """Has a worker open it; returns False if it was closed meanwhile."""
        with self._lock:
            if not self.is_wanted:
                return False
            attachment.acknowledged[attachment.number] = 0
            is_file = not self.info.live
            self._attachment = attachment
            self._is_first = not (is_file and self._timeline.is_started)
            first_index = self._timeline.next_index if is_file else 0
            attachment.send(Open(attachment.number, self._spec, self._options, first_index))
            if self._consumer is not None:
                attachment.send(Start(attachment.number, self._paced))
            return True

    def detach(self, error: StreamerError) -> bool:
        """Its worker has exited: returns whether another is to take it over; else it has ended with the error."""
        limit = self._options.reconnect
        with self._lock:
            self._attachment = None
            if self.is_wanted and self.info.live and (limit is None or self._moves < limit):
                self._moves += 1
                self._set_adrift()
                if not self._answered.is_set():
                    self._open_error = error
                    self._answered.set()
                return True
        self.on_ended(None if self._is_stopped else error)
        return False

    def _set_adrift(self) -> None:
        """Keeps what its worker has told, until another opens it; with the lock held."""
        self._attachment = None
        self._unacknowledged_before += self._unacknowledged
        self._unacknowledged = 0
        damaged = self.damaged
        if not self.info.live:
            damaged = 0  # a file is read again
        elif self._lost_at_s is None:
            self._lost_at_s = self._last_frame_s if self._now.lost_at_s is None else self._now.lost_at_s
        self._earlier, self._now = Status(None, self.reconnects, self.dropped, damaged), Status()

    def fail(self, error: StreamerError) -> None:
        """Ends it because its frames can't be used."""
        self._stop()
        self.on_ended(error)

    def on_opened(self, info: SourceInfo, status: Status) -> None:
        """It has its first frame."""
        self.on_status(info, status)
        self._answered.set()

    def on_open_failed(self, info: SourceInfo, error: StreamerError) -> None:
        """It can't be opened; a live one is tried again."""
        self._open_error = error
        self.on_status(info, self._now)
        self._answered.set()

    def on_status(self, info: SourceInfo, status: Status) -> None:
        """Its info or counters have changed."""
        self._now = status
        if self._lost_at_s is None or info.size_wh is not None:  # a new worker knows less until its first frame
            self.info = info

    def on_format(self, changed: FormatChanged) -> None:
        """Its frames on the GPU have another size or other colours from now on."""
        self._format = changed

    def on_surface(self, ready: FrameReady, lease: BufferLease[ImportedSurface]) -> None:
        """A frame came whose pixels are in the worker's GPU memory."""
        from streamer.cuda.nv12 import Nv12

        assert self._format is not None, "FormatChanged precedes the first FrameReady"
        pixels = Nv12(lease, self._format.size_wh, self._format.tags)
        name, aspect = self.info.name, self.info.pixel_aspect
        frame = Frame(pixels, name, ready.frame_index, ready.pts_s, ready.captured_at_s, pixel_aspect=aspect)
        self.on_frame(frame, ready.capture_ms)

    def on_lost(self) -> None:
        """A frame came that can't be read, as its GPU has failed in this process."""
        with self._lock:
            self._earlier = self._earlier._replace(dropped=self._earlier.dropped + 1)
            if self._attachment is not None:
                self._attachment.acknowledged[self._attachment.number] += 1

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        """A frame came."""
        consumer = self._consumer
        if consumer is None or not self.is_wanted:
            return
        self._open_error = None
        self._last_frame_s = frame.captured_at_s
        if self._is_first:
            self._is_first, self._moves = False, 0
            self._on_first(frame)
        with self._lock:
            self._unacknowledged += 1
        consumer.on_frame(self._timeline.apply(frame), capture_ms)

    def _on_first(self, frame: Frame) -> None:
        was_seen, lost_at_s = self._timeline.is_started, self._lost_at_s
        self._timeline.rebase(frame)
        self._lost_at_s = None
        if lost_at_s is not None:
            how, away_s = "back" if was_seen else "reached", self._last_frame_s - lost_at_s
            log.info("source %r is %s after %.1f s", self.info.name, how, away_s)
            self._earlier = self._earlier._replace(reconnects=self._earlier.reconnects + was_seen)

    def on_ended(self, error: StreamerError | None, status: Status | None = None) -> None:
        """No more frames come."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended, self._error = True, error
            consumer = self._consumer
        if status is not None:
            self._now = status
        self._answered.set()
        if consumer is not None:
            consumer.on_end(error)

    def on_closed(self) -> None:
        """The worker has closed it: another source may get its number."""
        with self._lock:
            self._attachment = None


class _Inbox(FrameConsumer):
    """Frames for `RemoteSource.__iter__`."""

    def __init__(self, capacity: int) -> None:
        self._frames: BoundedQueue[Frame] = BoundedQueue(capacity, OverflowPolicy.BLOCK)
        self._error: StreamerError | None = None
        self.abort = self._frames.abort

    def on_frame(self, frame: Frame, capture_ms: float) -> None:
        with contextlib.suppress(Closed):  # aborted meanwhile
            self._frames.put(frame)

    def on_end(self, error: StreamerError | None) -> None:
        self._error = error
        self._frames.close()

    def frames(self) -> Iterator[Frame]:
        with contextlib.suppress(Closed):
            while True:
                frame = self._frames.get()
                if frame is not None:
                    yield frame
        if self._error is not None:
            raise self._error from None


def broken_off(info: SourceInfo, how: str) -> SourceError:
    """Returns the error of a source whose worker has exited."""
    return SourceError(f"source {info.uri!r} broke off: the process that decoded it {how}; start the run again")
