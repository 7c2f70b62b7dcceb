"""What the pipeline asks of its threads."""

from __future__ import annotations

import contextlib
import os
import threading
import time


def work_in_bulk() -> None:
    """Tells Linux that this thread wants throughput, not quick wake-ups: fewer preemptions, some more frames."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def join_all(threads: list[threading.Thread], timeout_s: float) -> list[str]:
    """Waits for all threads, `timeout_s` together at most; returns the names of those that didn't end."""
    deadline = time.perf_counter() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.perf_counter()))
    return [thread.name for thread in threads if thread.is_alive()]
