"""The interface of CPU inference engines: pictures in, raw network output out, several in flight."""

from __future__ import annotations

import abc

import numpy as np
import numpy.typing as npt

REQUESTS_PER_STREAM = 2
"""Requests in flight for each one that is computed, for throughput: the second waits, so that a core is never idle.

Two cores, YUV frames of 720p to JSON lines: 248 frames a second, 219 with one.
"""


class Engine(abc.ABC):
    """Runs one model on `slots` independent requests.

    For each slot: `input` (write the picture), `start`, `wait`, in that order. One thread drives an engine; it computes
    on its own threads.

    Attributes:
        name: such as ``openvino``.
        device: such as ``CPU``.
        precision: what most of the network's convolutions are computed in: ``f32``, ``bf16``, ``int8``...
        slots: how many requests there are.
    """

    name: str
    device: str
    precision: str
    slots: int

    @abc.abstractmethod
    def input(self, slot: int) -> npt.NDArray[np.uint8]:
        """Returns the slot's input buffer, (H, W, 3) uint8 BGR, to write to; its content stays until overwritten."""

    @abc.abstractmethod
    def start(self, slot: int) -> None:
        """Starts computing what is in the slot's input; returns at once.

        Raises:
            EngineError: if the engine refuses.
        """

    @abc.abstractmethod
    def wait(self, slot: int) -> tuple[npt.NDArray[np.float32], float]:
        """Waits for the slot.

        Returns:
            The raw output (N, channels) float32, valid until the slot's next `start`, and the network's time in
            milliseconds.

        Raises:
            EngineError: if computing failed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the model. Safe to call twice."""
