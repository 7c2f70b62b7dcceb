"""The processor, its cores and the installed packages' versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def processor_name() -> str:
    """Returns the processor's name as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def processor_flags() -> frozenset[str]:
    """Returns the instruction sets that the system reports, such as ``avx512_bf16``; none where it reports none."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def available_cores() -> int:
    """Returns how many processor cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def version_of(package: str) -> str:
    """Returns an installed package's version, or an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
