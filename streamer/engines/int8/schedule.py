"""Puts a network's nodes in order and gives their tensors places in memory.

Tensors whose channels are read together lie beside each other in each pixel, so a concatenation copies nothing. Memory
is reused once the last reader of a tensor has run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from streamer.engines.int8.network import (
    FLOAT16,
    Channel,
    Combination,
    Convolution,
    Copy,
    Format,
    Network,
    NetworkInput,
    Node,
    OutputPart,
    Pool,
    Stem,
    UnsupportedGraph,
    View,
)

ALIGNMENT = 16
"""Bytes to which each tensor's first channel, and each source of a convolution, is aligned."""
_PAGE = 256
_INPUT_PITCH = 4
CHANNEL_STEP = 16
"""Kernels store results up to a multiple of this, so tensors have that many elements a pixel."""


class Group:
    """Tensors that lie beside each other in each pixel.

    Attributes:
        size: bytes of an element.
        height: of the tensors.
        width: of the tensors.
        pitch: elements from pixel to pixel.
        first: index of the step that writes it first.
        last: index of the step that reads it last.
        offset: of its memory, in bytes for each picture of a batch; None for the network's input.
        is_input: whether it is the network's input.
        tensors: in order.
    """

    def __init__(self, node: Node, size: int) -> None:
        self.size, self.height, self.width = size, node.height, node.width
        self.pitch = 0
        self.first = self.last = -1
        self.offset: int | None = None
        self.is_input = isinstance(node, NetworkInput)
        self.tensors: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes for one picture."""
        return -(-self.height * self.width * self.pitch * self.size // _PAGE) * _PAGE

    def merge(self, other: Group) -> None:
        """Puts another group's tensors behind this one's."""
        for tensor in other.tensors:
            tensor.group = self
            tensor.start += self.pitch
        self.tensors += other.tensors
        self.pitch += other.pitch
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)


@dataclass(eq=False)
class Tensor:
    """A node's result in one format.

    Attributes:
        places: (channels,) elements from the tensor's start to each channel.
        group: where it lies.
        start: elements from the group's start.
    """

    places: npt.NDArray[np.int64]
    group: Group
    start: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """What a step reads: the channels of a view, `places` elements behind its aligned start."""

    first: Tensor
    lead: int
    places: npt.NDArray[np.int64]
    format: Format

    @property
    def group(self) -> Group:
        """Where it lies."""
        return self.first.group

    @property
    def start(self) -> int:
        """Elements from the group's start."""
        return self.first.start + self.lead

    @property
    def span(self) -> int:
        """Elements from the start to behind the last channel."""
        return int(self.places.max()) + 1


@dataclass(frozen=True, eq=False)
class Step:
    """One node, computed in one format.

    Attributes:
        node: what to compute.
        format: of the result.
        sources: what it reads, a convolution's partner last.
        result: where it goes; None for a part of the network's output.
        part: that part.
    """

    node: Node
    format: Format
    sources: tuple[Source, ...]
    result: Tensor | None
    part: OutputPart | None = None


@dataclass(frozen=True, eq=False)
class Schedule:
    """Steps in order.

    Attributes:
        steps: to run one after the other.
        nbytes: memory for the tensors of one picture.
        most_bytes: of them, and of its input, in the largest group.
        input_format: of the network's input.
    """

    steps: tuple[Step, ...]
    nbytes: int
    most_bytes: int
    input_format: Format


def schedule(network: Network) -> Schedule:
    """Orders a network's nodes and places their tensors."""
    return _Scheduler().run(network)


class _Scheduler:
    def __init__(self) -> None:
        self._tensors: dict[tuple[Node, Format], Tensor] = {}
        self._steps: list[Step] = []
        self._copies: dict[tuple[tuple[Channel, ...], Format], Copy] = {}
        self._input_format: Format | None = None
        self._name = ""

    def run(self, network: Network) -> Schedule:
        """Schedules everything that the output needs."""
        self._name = network.name
        for part in network.outputs:
            sources = self._sources_of(part.node, FLOAT16)
            self._add(Step(part.node, FLOAT16, sources, None, part))
        if self._input_format is None:
            raise UnsupportedGraph(f"{network.name}: its output doesn't depend on its input")
        nbytes = self._place()
        groups = [tensor.group for tensor in self._tensors.values()]
        return Schedule(tuple(self._steps), nbytes, max(group.nbytes for group in groups), self._input_format)

    def _add(self, step: Step) -> None:
        index = len(self._steps)
        for source in step.sources:
            source.group.last = index
        if step.result is not None:
            step.result.group.first = step.result.group.last = index
        self._steps.append(step)

    def _tensor(self, node: Node, fmt: Format) -> Tensor:
        """Returns a node's tensor in a format, after scheduling what computes it."""
        found = self._tensors.get((node, fmt))
        if found is None:
            found = self._input(node, fmt) if isinstance(node, NetworkInput) else self._compute(node, fmt)
            self._tensors[node, fmt] = found
        return found

    def _input(self, node: NetworkInput, fmt: Format) -> Tensor:
        if self._input_format not in (None, fmt):
            raise UnsupportedGraph(f"{self._name}: its input is read in two formats")
        self._input_format = fmt
        return self._made(node, fmt, np.arange(node.channels), _INPUT_PITCH)

    def _compute(self, node: Node, fmt: Format) -> Tensor:
        sources = self._sources_of(node, fmt)
        aligned = ALIGNMENT // fmt.size
        places = np.arange(node.channels)
        if isinstance(node, Convolution) and node.partner is not None:
            half = node.channels // 2
            places = places + (places >= half) * (-half % aligned)
        elif isinstance(node, (Pool, Combination)) or (isinstance(node, Convolution) and node.depthwise):
            places = sources[0].places
        tensor = self._made(node, fmt, places, -(-(int(places.max()) + 1) // CHANNEL_STEP) * CHANNEL_STEP)
        self._add(Step(node, fmt, sources, tensor))
        return tensor

    def _made(self, node: Node, fmt: Format, places: npt.NDArray[np.int64], span: int) -> Tensor:
        group = Group(node, fmt.size)
        group.pitch = span
        tensor = Tensor(places, group)
        group.tensors.append(tensor)
        return tensor

    def _sources_of(self, node: Node, fmt: Format) -> tuple[Source, ...]:
        if isinstance(node, Convolution):
            source = self._source(node.source, node.source.format or FLOAT16)
            return (source,) if node.partner is None else (source, self._packed(node.partner, fmt))
        if isinstance(node, Stem):
            return (self._source(node.convolution.source, node.convolution.source.format or FLOAT16),)
        if isinstance(node, Pool):
            return (self._source(node.source, node.source.format or fmt),)
        if isinstance(node, Copy):
            return tuple(self._picked(each, node.source, fmt) for each in node.source.nodes)
        assert isinstance(node, Combination)
        views = [operand.source for operand in node.operands]
        sources = [self._source(view, view.format or FLOAT16) for view in views]
        if any(not np.array_equal(sources[0].places, other.places) for other in sources[1:]):
            sources = [self._packed(view, view.format or FLOAT16) for view in views]
        return tuple(sources)

    def _picked(self, node: Node, view: View, fmt: Format) -> Source:
        """Returns a view's channels of one node where the node stored them."""
        tensor = self._tensor(node, fmt)
        return Source(tensor, 0, tensor.places[[channel for owner, channel in view.channels if owner is node]], fmt)

    def _source(self, view: View, fmt: Format) -> Source:
        """Returns a view as a step reads it, after placing its tensors beside each other."""
        tensors = {node: self._tensor(node, fmt) for node in view.nodes}
        groups = list(dict.fromkeys(tensor.group for tensor in tensors.values()))
        apart = len(groups) > 1 and any(group.is_input for group in groups)
        if not apart and len({*view.channels}) == len(view.channels):
            for other in groups[1:]:
                groups[0].merge(other)
            at = np.array([tensors[node].start + int(tensors[node].places[channel]) for node, channel in view.channels])
            lead = int(at.min()) // (ALIGNMENT // fmt.size) * (ALIGNMENT // fmt.size)
            if int(at.max()) - lead < 2 * len(at) + ALIGNMENT:
                first = tensors[view.nodes[0]]
                return Source(first, lead - first.start, at - lead, fmt)
        return self._copied(view, fmt)

    def _packed(self, view: View, fmt: Format) -> Source:
        """Returns a view whose channels are ascending without gaps from an aligned start."""
        source = self._source(view, fmt)
        if np.array_equal(source.places, np.arange(len(source.places))):
            return source
        return self._copied(view, fmt)

    def _copied(self, view: View, fmt: Format) -> Source:
        key = (view.channels, fmt)
        if key not in self._copies:
            made = replace(view, format=fmt if fmt.is_int8 else None)
            self._copies[key] = Copy("", len(view.channels), view.height, view.width, made)
        tensor = self._tensor(self._copies[key], fmt)
        return Source(tensor, 0, tensor.places, fmt)

    def _place(self) -> int:
        """Gives each group memory that no other group needs at the same time; returns the bytes for one picture.

        A float16 tensor has gaps that must stay finite, so its memory isn't shared.
        """
        groups = dict.fromkeys(step.result.group for step in self._steps if step.result is not None)
        placed: list[Group] = []
        total = 0
        for group in sorted(groups, key=lambda one: -one.nbytes):
            busy = sorted((other for other in placed if _overlap(group, other)), key=lambda other: other.offset or 0)
            offset = 0
            for other in busy:
                assert other.offset is not None
                if other.offset - offset >= group.nbytes:
                    break
                offset = max(offset, other.offset + other.nbytes)
            group.offset = offset
            placed.append(group)
            total = max(total, offset + group.nbytes)
        return total


def _overlap(one: Group, other: Group) -> bool:
    if one.size > 1 or other.size > 1:
        return True
    return one.first <= other.last and other.first <= one.last
