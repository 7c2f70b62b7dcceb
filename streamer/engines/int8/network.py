"""A quantised network as nodes that compute tensors, and views that rearrange their channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.common.errors import UnavailableError


class UnsupportedGraph(UnavailableError):
    """The graph holds what the int8 engine doesn't compute; another engine may."""


@dataclass(frozen=True)
class Format:
    """How a tensor is stored: int8 with one scale and zero point, or float16 where `scale` is 0."""

    scale: float = 0.0
    zero_point: int = 0

    @property
    def is_int8(self) -> bool:
        """Whether the tensor is int8."""
        return self.scale > 0

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 1 if self.is_int8 else 2


FLOAT16 = Format()


@dataclass(frozen=True)
class Activation:
    """``min(max(x if x > 0 else slope * x, low), high)``."""

    slope: float = 1.0
    low: float = -np.inf
    high: float = np.inf


LINEAR = Activation()


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """Computes one tensor of `channels` x `height` x `width` for each picture, in any format that is asked for.

    Attributes:
        tensor: the graph's tensor with the same values; empty where there is none.
    """

    tensor: str
    channels: int
    height: int
    width: int

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensor!r}, {self.channels}, {self.height}, {self.width})"


Channel = tuple[Node, int]


@dataclass(frozen=True)
class View:
    """Channels of nodes, in the order of a tensor of the graph.

    Attributes:
        channels: each channel's node and place in it.
        height: of the tensor.
        width: of the tensor.
        format: of the values, where they were quantised; None where they are as computed.
    """

    channels: tuple[Channel, ...]
    height: int
    width: int
    format: Format | None

    @staticmethod
    def of(node: Node, fmt: Format | None = None) -> View:
        """Returns all channels of a node."""
        return View(tuple((node, index) for index in range(node.channels)), node.height, node.width, fmt)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The different nodes, in order of appearance."""
        return tuple(dict.fromkeys(node for node, _ in self.channels))

    @property
    def whole(self) -> Node | None:
        """The node that this is all of, in order; else None."""
        node = self.channels[0][0]
        same = len(self.channels) == node.channels
        return node if same and all(one == (node, index) for index, one in enumerate(self.channels)) else None

    def runs(self) -> list[tuple[Node, int, int]]:
        """Returns maximal runs of ascending channels: node, first channel and number."""
        found: list[tuple[Node, int, int]] = []
        for node, channel in self.channels:
            if found and found[-1][0] is node and found[-1][1] + found[-1][2] == channel:
                found[-1] = (node, found[-1][1], found[-1][2] + 1)
            else:
                found.append((node, channel, 1))
        return found


@dataclass(frozen=True, eq=False, repr=False)
class NetworkInput(Node):
    """The normalised picture, stored by the preprocessing kernel with four channels a pixel."""


@dataclass(frozen=True, eq=False)
class Window:
    """A kernel's geometry, in pixels."""

    height: int
    width: int
    stride: int
    top: int
    left: int


@dataclass(frozen=True, eq=False, repr=False)
class Convolution(Node):
    """A convolution with its activation.

    Attributes:
        source: its input: int8 where it has a format, else float16.
        window: its geometry.
        weights: (channels, inputs, height, width), or (channels, 1, height, width) if `depthwise`; int8 for an int8
            source, else float32.
        factors: (channels,) float32: what a sum of products is multiplied with.
        bias: (channels,) float32.
        activation: applied to the result.
        depthwise: whether each channel has its own kernel.
        partner: channels to take turns with: channel i of it, then channel i of the convolution (channel shuffle).
    """

    source: View
    window: Window
    weights: npt.NDArray[Any]
    factors: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    activation: Activation = LINEAR
    depthwise: bool = False
    partner: View | None = None

    @property
    def columns(self) -> int:
        """Channels that it computes itself."""
        return len(self.bias)

    def part(self, start: int, stop: int) -> Convolution:
        """Returns the convolution of some output channels."""
        return replace(
            self, channels=stop - start, weights=self.weights[start:stop], factors=self.factors[start:stop],
            bias=self.bias[start:stop],
        )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Pool(Node):
    """Max pooling; its output has the format of its input."""

    source: View
    window: Window


@dataclass(frozen=True, eq=False, repr=False)
class Stem(Node):
    """A convolution of the network's input, quantised, and 3x3 max pooling with stride 2, in one kernel."""

    convolution: Convolution


@dataclass(frozen=True, eq=False)
class Taps:
    """Separable interpolation between two rows and two columns for each pixel.

    Attributes:
        rows: (2, height) int32 source rows.
        columns: (2, width) int32 source columns.
        weights: (height + width,) float32 of the second row, then of the second column.
    """

    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Operand:
    """One input of a sum: resized where it has taps, and quantised with `rounded` before it is used."""

    source: View
    taps: Taps | None = None
    rounded: Format | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Combination(Node):
    """The sum of one or two operands with an activation; alone: a resized or converted tensor."""

    operands: tuple[Operand, ...]
    activation: Activation = LINEAR


@dataclass(frozen=True, eq=False, repr=False)
class Copy(Node):
    """Channels of any nodes in a new tensor, in the format that they have."""

    source: View


@dataclass(frozen=True, eq=False)
class OutputPart:
    """What a convolution writes of the network's output: channels `column` on, of points `row` on.

    The first `sigmoids` channels go through a sigmoid.
    """

    node: Convolution
    row: int
    column: int
    sigmoids: int


@dataclass(frozen=True, eq=False)
class Network:
    """A whole network.

    Attributes:
        name: of the file, for messages.
        points: rows of the output.
        channels: of a row.
        outputs: what together is the output.
        int8_layers: convolutions computed in int8.
        float16_layers: those in float16.
    """

    name: str
    points: int
    channels: int
    outputs: tuple[OutputPart, ...]
    int8_layers: int
    float16_layers: int
