"""Losses and rates between two looks at the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from calibration.labels import Sample
from calibration.training.job import NotFinite
from streamer.common.errors import listed

_NAMED_AT_MOST = 4
_TOTALS = ("sums", "counted", "pictures", "trained_s", "waited_s")


@dataclass
class Meter:
    """Gathers what the steps of an epoch gave; reading a loss waits for the device, so that is done now and then.

    Attributes:
        samples: the pictures, to name those of a bad batch.
        sums: of the losses since the last `restart`, by name.
        counted: batches in `sums`.
        pictures: trained on since then.
        trained_s: time since then in steps.
        waited_s: of it, time without a batch.
    """

    samples: Sequence[Sample]
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    pictures: int = 0
    trained_s: float = 0.0
    waited_s: float = 0.0
    _pending: list[tuple[int, Tensor, Mapping[str, Tensor]]] = field(default_factory=list)
    _indices: list[Tensor] = field(default_factory=list)

    def add(self, step: int, loss: Tensor, terms: Mapping[str, Tensor], indices: Tensor) -> None:
        """Takes the losses of one batch, still on the device."""
        self._pending.append((step, loss.detach(), {name: term.detach() for name, term in terms.items()}))
        self._indices.append(indices)

    def look(self) -> dict[str, float]:
        """Reads the losses gathered since the last look and returns their means.

        Raises:
            NotFinite: one isn't finite; names its step and pictures.
        """
        if not self._pending:
            return {}
        names = ("loss", *self._pending[0][2])
        rows = torch.stack(
            [torch.stack([loss.float(), *(t.float() for t in terms.values())]) for _, loss, terms in self._pending]
        )
        values = rows.cpu().double()
        bad = (~values.isfinite().all(1)).nonzero()
        if len(bad):
            self._refuse(int(bad[0]))
        for name, column in zip(names, values.unbind(1), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + float(column.sum())
        self.counted += len(values)
        means = {name: float(column.mean()) for name, column in zip(names, values.unbind(1), strict=True)}
        self._pending.clear()
        self._indices.clear()
        return means

    def means(self) -> dict[str, float]:
        """Returns the means since the last `restart`."""
        return {name: value / self.counted for name, value in self.sums.items()}

    def restart(self) -> None:
        """Sets everything gathered to zero."""
        self.sums, self.counted, self.pictures, self.trained_s, self.waited_s = {}, 0, 0, 0.0, 0.0

    def totals(self) -> dict[str, Any]:
        """Returns what was gathered since the last `restart`, for a checkpoint."""
        return {name: getattr(self, name) for name in _TOTALS}

    def restore(self, totals: Mapping[str, Any]) -> None:
        """Goes on from what `totals` returned."""
        for name in _TOTALS:
            setattr(self, name, totals.get(name, getattr(self, name)))

    def _refuse(self, place: int) -> None:
        step = self._pending[place][0]
        files = [self.samples[index].image.name for index in self._indices[place].tolist()]
        named = listed(files, _NAMED_AT_MOST)
        raise NotFinite(
            f"the loss of step {step} isn't finite (pictures {named}): check their labels, or lower"
            " --lr; the last checkpoint, if there is one, is from before"
        )
