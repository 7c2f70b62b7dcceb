"""What every CPU inference engine is: pictures in, raw network output out, several in flight."""

from __future__ import annotations

import abc
import os

import numpy as np
import numpy.typing as npt


def available_cores() -> int:
    """Returns how many processor cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Engine(abc.ABC):
    """Runs one model on `slots` independent requests.

    Each slot goes through `input` (write the picture), `start`, `wait`, in that order; slots are independent of each
    other. One thread drives an engine; the computing happens on the engine's own threads.

    Attributes:
        name: such as ``openvino``.
        device: such as ``CPU``.
        precision: what most of the network's convolutions are really computed in: ``f32``, ``bf16``, ``int8``...
        slots: how many requests there are.
    """

    name: str
    device: str
    precision: str
    slots: int

    @abc.abstractmethod
    def input(self, slot: int) -> npt.NDArray[np.uint8]:
        """Returns the slot's own input, (H, W, 3) uint8 BGR, to be written to; kept from frame to frame."""

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
            The raw output (N, channels) float32, which stays valid until the slot's next `start`, and the time the
            network took in milliseconds.

        Raises:
            EngineError: if computing failed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the model. Safe to call twice."""
