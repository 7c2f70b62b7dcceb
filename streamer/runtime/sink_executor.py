"""The few threads that write for all streams whose only sink needs nothing drawn."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from streamer.common.queues import BoundedQueue, QueueSelector
from streamer.runtime.fan_out import DirectOutput

_BLOCKED_S = 0.005


class SinkExecutor:
    """Writes the streams whose queues are ready on one thread, and adds threads only while all are blocked in a sink.

    The thread that is woken for the first frame of a batch writes the others too: see docs/architecture.md.

    Attributes:
        selector: of the streams' queues.
        blocked_s: how long writing a stream takes before its thread counts as blocked.
    """

    def __init__(self, start: Callable[[str, Callable[[], None]], None], fail: Callable[[BaseException], None]) -> None:
        """Starts no thread yet.

        `start` starts a thread, given a name and a body; `fail` is called with what a task raised, which ends it.
        """
        self.selector = QueueSelector()
        self.blocked_s = _BLOCKED_S
        self._start, self._fail = start, fail
        self._tasks: dict[BoundedQueue[Any], DirectOutput] = {}
        self._running_since_s: dict[BoundedQueue[Any], float] = {}
        self._threads = 0
        self._is_closed = False

    @property
    def unfinished(self) -> tuple[DirectOutput, ...]:
        """The tasks that aren't done."""
        with self.selector.lock:
            return tuple(self._tasks.values())

    def add(self, task: DirectOutput) -> None:
        """Runs a task from now on, whenever its queue is ready."""
        with self.selector.lock:
            self._tasks[task.queue] = task
            if self._threads:
                self.selector.wake()
                return
            self._threads = 1
        self._start("serve 1", self._run)

    def ensure_worker(self) -> None:
        """Adds a thread where a task is ready and all threads are blocked; to be called some dozen times a second."""
        with self.selector.lock:
            since_s = self.selector.clock() - self.blocked_s
            blocked = sum(began_s < since_s for began_s in self._running_since_s.values())
            if blocked < self._threads or next(self._ready(), None) is None:
                return
            self._threads += 1
            name = f"serve {self._threads}"
        self._start(name, self._run)

    def close(self) -> None:
        """Ends the threads once nothing is ready."""
        with self.selector.lock:
            self._is_closed = True
            self.selector.wake()

    def _ready(self) -> Iterator[DirectOutput]:
        """Yields the tasks to run that don't run yet, the longest ready first; with the lock held."""
        for queue in itertools.chain(self.selector.ready_since, self.selector.closed):
            if queue not in self._running_since_s and (task := self._tasks.get(queue)) is not None:
                yield task

    def _next(self) -> DirectOutput | None:
        """Waits for a task that is ready; returns None at the end."""
        with self.selector.lock:
            while (task := next(self._ready(), None)) is None and not self._is_closed:
                self.selector.wait()
            if task is not None:
                self._running_since_s[task.queue] = self.selector.clock()
            return task

    def _run(self) -> None:
        thread = threading.current_thread()
        while (task := self._next()) is not None:
            thread.name = f"serve {task.name}"
            try:
                is_done = task.run_pending()
            except BaseException as error:
                is_done = True
                self._fail(error)
            with self.selector.lock:
                del self._running_since_s[task.queue]
                if is_done:
                    del self._tasks[task.queue]
                    self.selector.closed.pop(task.queue, None)
