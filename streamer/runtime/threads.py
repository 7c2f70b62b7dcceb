"""The threads of a run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from streamer.common.queues import Closed

STUCK = "threads did not stop within"
"""Begins the warning that names threads which hang in a library."""

T = TypeVar("T")


class ThreadGroup(Generic[T]):
    """Starts daemon threads, each for an owner or for all, and knows which are alive."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        """`fail` is called, on the thread, with whatever but `Closed` a body raises."""
        self._fail = fail
        self._owners: dict[threading.Thread, T | None] = {}
        self._lock = threading.Lock()

    def start(self, name: str, body: Callable[[], None], owner: T | None = None, *, throughput: bool) -> None:
        """Starts a thread; `throughput` has Linux wake it less quickly and preempt others for it less often."""
        thread = threading.Thread(target=self._run, args=(body, throughput), name=name, daemon=True)
        with self._lock:  # the thread waits for it at its end
            thread.start()
            self._owners[thread] = owner

    @property
    def alive(self) -> dict[threading.Thread, T | None]:
        """The threads that run, and whose they are."""
        with self._lock:
            return dict(self._owners)

    def join(self, timeout_s: float) -> list[str]:
        """Waits for all threads, `timeout_s` together at most; returns the names of those that didn't end."""
        deadline_s = time.perf_counter() + timeout_s
        threads = list(self.alive)
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.perf_counter()))
        return [thread.name for thread in threads if thread.is_alive()]

    def _run(self, body: Callable[[], None], throughput: bool) -> None:
        if throughput and hasattr(os, "SCHED_BATCH"):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        try:
            body()
        except Closed:
            pass  # another thread ended the run
        except BaseException as error:
            self._fail(error)
        finally:
            with self._lock:
                del self._owners[threading.current_thread()]
