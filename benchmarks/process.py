"""What a process holds: memory, threads, file descriptors, as Linux reports it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holdings:
    """Resident size in bytes, Python's threads, and open file descriptors."""

    resident_bytes: int
    threads: int
    descriptors: int


def holdings() -> Holdings:
    """Returns what this process holds now.

    Raises:
        OSError: where there is no ``/proc/self``.
    """
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return Holdings(resident_bytes(), threading.active_count(), descriptors)


def resident_bytes() -> int:
    """Returns this process's resident size in bytes.

    Raises:
        OSError: where there is no ``/proc/self/status``.
    """
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Returns the most that this process has had resident, in bytes; unlike `getrusage`, without its parent's.

    Raises:
        OSError: where there is no ``/proc/self/status``.
    """
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return int(size) * 1024
