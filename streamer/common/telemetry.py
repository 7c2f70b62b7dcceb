"""Imports of OpenVINO and NNCF without their telemetry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Hides the package `openvino_telemetry` from imports within the block, so that OpenVINO and NNCF send nothing.

    Otherwise ``import openvino`` writes a client id to the home folder and sends an event to Google Analytics from a
    forked process, which inherits open files, sockets and signal handlers and delays the exit by seconds without a
    network. If the package is imported already, this does nothing.

    Example:
        ``with without_telemetry(): import openvino as ov``
    """
    if _PACKAGE in sys.modules:
        yield
        return
    sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # `import` then raises ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]
