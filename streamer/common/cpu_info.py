"""What this machine computes with."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path


def processor_name() -> str:
    """Returns the processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def version_of(package: str) -> str:
    """Returns an installed package's version, or nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
