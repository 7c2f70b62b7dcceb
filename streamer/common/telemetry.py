"""Imports of packages that would report their use over the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Hides the package `openvino_telemetry` from imports in the block: OpenVINO and NNCF then report nothing.

    With it, each ``import openvino`` writes a client id to the home folder and sends an event to Google Analytics, from
    a process that it forks. That process holds the program's files and sockets open, keeps its signal handlers, and
    delays the program's end for seconds where the network doesn't answer.

    Where the package has been imported already, by whoever uses this one as a library, it is left alone.

    Example:
        ``with without_telemetry(): import openvino as ov``
    """
    if _PACKAGE in sys.modules:
        yield
        return
    sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # what `import` takes for a package that isn't there
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]
