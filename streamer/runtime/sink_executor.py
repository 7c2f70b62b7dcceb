"""A few threads that finish the work on many streams' frames."""

from __future__ import annotations

import abc
import enum
import threading
import time
from collections import deque
from collections.abc import Callable

_HELD_UP_S = 0.005


class SerialTask(abc.ABC):
    """Something to be done again and again, by one thread at a time.

    Attributes:
        name: of the thread while it does it.
    """

    name: str

    @abc.abstractmethod
    def serve(self) -> bool:
        """Does all there is to do now, without waiting for more; returns True when it was the last time."""


class _State(enum.Enum):
    IDLE = enum.auto()
    QUEUED = enum.auto()
    SERVED = enum.auto()
    SERVED_AND_READY = enum.auto()


class SinkExecutor:
    """Serves jobs that say when they are ready: one thread as long as none holds it up, else more.

    Waking a thread costs more than most of these jobs. So the frames of a batch are all written by the thread that was
    woken for the first of them; where a job holds it up (a disk or a reader that blocks), the others get another.
    """

    def __init__(self, start: Callable[[str, Callable[[], None]], None], fail: Callable[[BaseException], None]) -> None:
        """Has no thread yet.

        Args:
            start: starts a thread, of a name and with a body.
            fail: told what a job raised, which counts as its last time.
        """
        self._start, self._fail = start, fail
        self._work = threading.Condition(threading.Lock())
        self._jobs: dict[SerialTask, _State] = {}
        self._queue: deque[SerialTask] = deque()
        self._serving_since_s: dict[int, float] = {}
        self._threads = 0
        self._idle = 0
        self._closed = False

    @property
    def unfinished(self) -> tuple[SerialTask, ...]:
        """The jobs that haven't ended."""
        with self._work:
            return tuple(self._jobs)

    def add(self, job: SerialTask) -> None:
        """Takes a job on; it isn't ready yet."""
        with self._work:
            self._jobs[job] = _State.IDLE
            if self._threads:
                return
            self._threads = 1
        self._start("serve 1", self._run)

    def ready(self, job: SerialTask) -> None:
        """Says that there is something to do for a job; from any thread. One that has ended is left alone."""
        with self._work:
            state = self._jobs.get(job)
            if state is _State.IDLE:
                self._enqueue(job)
            elif state is _State.SERVED:
                self._jobs[job] = _State.SERVED_AND_READY
            if not self._queue or len(self._serving_since_s) < self._threads:
                return
        self.ensure_worker()

    def ensure_worker(self) -> None:
        """Adds a thread where all are held up and something waits: `ready` does it, and who calls this in between."""
        with self._work:
            late_s = time.perf_counter() - _HELD_UP_S
            held_up = sum(since_s < late_s for since_s in self._serving_since_s.values())
            if not self._queue or held_up < self._threads:
                return
            self._threads += 1
            name = f"serve {self._threads}"
        self._start(name, self._run)

    def close(self) -> None:
        """Has the threads end once nothing is ready."""
        with self._work:
            self._closed = True
            self._work.notify_all()

    def _enqueue(self, job: SerialTask) -> None:
        self._jobs[job] = _State.QUEUED
        self._queue.append(job)
        if self._idle:
            self._work.notify()

    def _run(self) -> None:
        me, thread = threading.get_ident(), threading.current_thread()
        while (job := self._next(me)) is not None:
            thread.name = f"serve {job.name}"
            try:
                has_ended = job.serve()
            except BaseException as error:
                has_ended = True
                self._fail(error)
            with self._work:
                del self._serving_since_s[me]
                if has_ended:
                    del self._jobs[job]
                elif self._jobs[job] is _State.SERVED_AND_READY:
                    self._enqueue(job)
                else:
                    self._jobs[job] = _State.IDLE

    def _next(self, me: int) -> SerialTask | None:
        """Waits for a job that is ready; returns None at the end."""
        with self._work:
            while not self._queue:
                if self._closed:
                    return None
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            job = self._queue.popleft()
            self._jobs[job] = _State.SERVED
            self._serving_since_s[me] = time.perf_counter()
            return job
