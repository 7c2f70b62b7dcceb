"""From LeakyReLU to ReLU by degrees: a network that its LeakyReLU form teaches begins as that and ends with ReLU."""

from __future__ import annotations

from torch import nn

from streamer.models.spec import ModelSpec

_LEVELS = 12
"""Steps that the slope falls in; a compiled network is compiled for each."""
_SHARE = 0.6
"""Share of the run after which it is 0."""


def exchanges_leaky_relu(teacher: ModelSpec, student: ModelSpec) -> bool:
    """Whether a network with LeakyReLU teaches one with ReLU."""
    return (teacher.activation, student.activation) == ("LeakyReLU", "ReLU")


class FallingSlopes:
    """Replaces a network's ReLUs by leaky ones whose slope falls to 0, which is ReLU, in the first part of a run."""

    def __init__(self, network: nn.Module, first: float) -> None:
        """Replaces them in place; parameters and their names stay.

        Args:
            network: to be trained.
            first: slope at the start.
        """
        self._first = first
        self._layers: list[nn.LeakyReLU] = []
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.ReLU):
                    layer = nn.LeakyReLU(first, inplace=child.inplace)
                    setattr(module, name, layer)
                    self._layers.append(layer)

    def set(self, share: float) -> None:
        """Sets the slopes of a point of the run, given as the share that is done, 0 to 1."""
        level = min(_LEVELS, int(share / _SHARE * _LEVELS))
        for layer in self._layers:
            layer.negative_slope = self._first * (1 - level / _LEVELS)
