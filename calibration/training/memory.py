"""How much memory this process may still use."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int:
    """Returns the bytes that can be allocated without swapping, container limits included; 2 GiB where unknown."""
    rooms = [room for room in (_of_system(), _of_group()) if room is not None]
    return min(rooms, default=2 << 30)


def _of_system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _of_group() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        return max(0, limit - int((_CGROUP / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None
