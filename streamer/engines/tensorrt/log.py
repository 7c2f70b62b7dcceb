"""TensorRT's log: one logger for the process, as TensorRT wants it, and what a build writes into it.

TensorRT keeps the first logger it is given and ignores later ones, so builders and runtimes all share `shared_logger`.
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
    """What a builder said that matters afterwards: errors, warnings, and its list of layers."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def first_error(self) -> str:
        """Returns the first error in one line, without TensorRT's remarks about a missing GPU."""
        lines = [" ".join(error.split()) for error in self.errors]
        real = [line for line in lines if "cudaError" not in line]
        return next(iter(real or lines), "it gave no reason")


@cache
def shared_logger(trt: Any) -> Any:
    """Returns the one logger for everything made of the module `trt`; it passes on to `logging`.

    Its method ``capture`` gathers a `BuildLog` for the length of a ``with`` block.
    """
    return _logger_class(trt)()


def _logger_class(trt: Any) -> Any:
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
            # while a build is captured its failure is raised as one line; the rest is for --log-level debug
            if level != logging.DEBUG:
                _log.log(logging.DEBUG if self._captures else level, "%s", message)

        @contextlib.contextmanager
        def capture(self) -> Iterator[BuildLog]:
            gathered = BuildLog()
            self._captures.append(gathered)
            try:
                yield gathered
            finally:
                self._captures.remove(gathered)

    return Logger
