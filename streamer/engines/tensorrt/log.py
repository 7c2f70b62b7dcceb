"""TensorRT's log.

TensorRT keeps the first logger that it gets and ignores later ones, so builders and runtimes share `shared_logger`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

_log = logging.getLogger(__name__)
_LAYER = ", LayerType: "


@dataclass
class BuildLog:
    """A builder's messages that matter afterwards: errors, warnings, and its list of layers."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def first_error(self) -> str:
        """Returns the first error in one line, if possible none about a missing GPU."""
        lines = [" ".join(error.split()) for error in self.errors]
        real = [line for line in lines if "cudaError" not in line]
        return next(iter(real or lines), "it gave no reason")


@cache
def shared_logger(trt: Any) -> Any:
    """Returns the only logger for all objects of the module `trt`; it forwards to `logging`.

    Its method ``capture`` collects a `BuildLog` within a ``with`` block.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._captures: list[BuildLog] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            for capture in self._captures:
                if level == logging.ERROR:
                    capture.errors.append(message)
                elif level == logging.WARNING:
                    capture.warnings.append(message)
                elif _LAYER in message:
                    capture.layers.append(message)
            # a captured build's failure is raised as one line; --log-level debug shows the rest
            if level != logging.DEBUG:
                _log.log(logging.DEBUG if self._captures else level, "%s", message)

        @contextlib.contextmanager
        def capture(self) -> Iterator[BuildLog]:
            captured = BuildLog()
            self._captures.append(captured)
            try:
                yield captured
            finally:
                self._captures.remove(captured)

    return Logger()
