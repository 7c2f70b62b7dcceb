"""What every GPU engine is: a normalised input in device memory to raw output in device memory, on a given stream."""

from __future__ import annotations

import abc
from collections.abc import Callable

import numpy as np

from streamer.cuda.graph import capture

Launch = Callable[[], None]


class Binding(abc.ABC):
    """An engine tied to one stream, one pair of buffers and one batch size; independent of other bindings."""

    def __init__(self, stream: int) -> None:
        self.stream = stream

    @abc.abstractmethod
    def enqueue(self) -> None:
        """Puts the network's work on the stream and returns at once.

        Raises:
            EngineError: if the engine refuses.
        """

    def capture(self, body: Launch) -> Launch | None:
        """Records what `body` puts on the stream as a graph.

        Returns:
            What launches the graph on the stream, or None where graphs can't be captured.

        Raises:
            EngineError: if recording fails.
        """
        return capture(self.stream, body)

    @abc.abstractmethod
    def close(self) -> None:
        """Frees what belongs to this binding alone. Safe to call twice."""


class CudaEngine(abc.ABC):
    """A network on a GPU, which any number of bindings run side by side.

    The buffers belong to the caller. The input is (batch, 3, H, W), normalised, laid out as NCHW, or as NHWC where
    `channels_last`; the output is (batch, N, channels), contiguous, scores after sigmoid.

    Attributes:
        name: such as ``tensorrt``.
        precision: what most of the network is really computed in.
        input_type: float16 or float32.
        output_type: float16 or float32.
        channels_last: whether the input is NHWC in memory.
    """

    name: str
    precision: str
    input_type: np.dtype[np.floating]
    output_type: np.dtype[np.floating]
    channels_last: bool

    @abc.abstractmethod
    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> Binding:
        """Prepares running `batch` pictures from and to these addresses on this stream; warms up.

        Raises:
            EngineError: if the engine can't.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the network; its bindings must be closed before. Safe to call twice."""
