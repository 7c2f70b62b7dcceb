"""The system's resource limits, checked before a library fails on one."""

from __future__ import annotations

import threading

from streamer.common.errors import StreamerError, counted, one_line

_LEAST_STACK = 512 << 10
_LEAST_MEMORY = 2 << 30
_LEAST_FILES = 64
_LEAST_THREADS = 32


def check_limits() -> None:
    """Checks this process's limits.

    Raises:
        StreamerError: if one is too low; the message names it and the value needed.
    """
    try:
        import resource
    except ImportError:  # Windows has none
        return
    for what, number, least, unit, option in (
        ("a stack", resource.RLIMIT_STACK, _LEAST_STACK, 1024, "-s"),
        ("memory", resource.RLIMIT_AS, _LEAST_MEMORY, 1024, "-v"),
        ("open files", resource.RLIMIT_NOFILE, _LEAST_FILES, 1, "-n"),
    ):
        allowed, _ = resource.getrlimit(number)
        if allowed != resource.RLIM_INFINITY and allowed < least:
            raise StreamerError(
                f"the limit for {what} is {allowed // unit} (ulimit {option}), at least {least // unit} is needed: "
                f"run ulimit {option} {least // unit}"
            )
    startable = _startable(_LEAST_THREADS)
    if startable < _LEAST_THREADS:
        raise StreamerError(
            f"the system allows only {counted(startable, 'more thread')}, {_LEAST_THREADS} and some for each camera are"
            " needed: raise ulimit -u, or the container's limit of processes"
        )


def in_words(error: BaseException) -> str:
    """Returns an unexpected error as one line, with the fix where a resource limit caused it."""
    if isinstance(error, MemoryError) or "failed to map segment" in str(error):
        return "there is not enough memory: give the program more, or fewer sources, or smaller pictures"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "the system allows no more threads: raise ulimit -u, or the container's limit of processes"
    return one_line(f"{type(error).__name__}: {error}")


def _startable(most: int) -> int:
    """Returns how many threads this process can start now, up to `most`."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(most):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        pass
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return len(threads)
