"""Truths and predictions for tests of training, and hypothesis's strategy of all kinds of objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from calibration.training.losses import Predictions
from calibration.training.points import anchor_points, level_counts
from calibration.training.truth import Truth
from streamer.models.spec import ModelSpec

KINDS = ("plain", "tiny", "outside", "large", "same place", "ignored", "padding")


@dataclass(frozen=True)
class Drawn:
    """The kinds of objects of each picture, and a seed: positions are drawn by it, so that no two distances agree."""

    pictures: tuple[tuple[str, ...], ...]
    seed: int

    def truth(self, spec: ModelSpec, dtype: torch.dtype = torch.float64) -> Truth:
        random = np.random.RandomState(self.seed)
        rows = max([len(kinds) for kinds in self.pictures] + [1])
        side = min(spec.input_size_wh)
        boxes = np.zeros((len(self.pictures), rows, 4))
        valid, ignored = (np.zeros(boxes.shape[:2], bool) for _ in range(2))
        for picture, kinds in enumerate(self.pictures):
            for row, kind in enumerate(kinds):
                size = random.uniform(0.1, 0.5, 2) * side
                centre = random.uniform(0.1, 0.9, 2) * side
                if kind == "tiny":
                    size = random.uniform(0.5, 3, 2)
                elif kind == "outside":
                    centre = random.uniform(0.95, 1.4, 2) * side
                elif kind == "large":
                    size = random.uniform(0.8, 1.5, 2) * side
                elif kind == "same place":
                    centre = side / 2 + random.uniform(-2, 2, 2)
                boxes[picture, row] = np.concatenate((centre - size / 2, centre + size / 2))
                valid[picture, row] = kind != "padding"
                ignored[picture, row] = kind == "ignored"
        labels = random.randint(0, spec.num_classes, boxes.shape[:2])
        return Truth(
            torch.from_numpy(boxes).to(dtype),
            torch.from_numpy(labels),
            torch.from_numpy(valid),
            torch.from_numpy(ignored),
        )

    def output(self, spec: ModelSpec, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Raw predictions (B, N, channels) by another random row of the same seed."""
        random = np.random.RandomState(self.seed ^ 1)
        shape = (len(self.pictures), spec.num_points, spec.output_channels)
        output = random.randn(*shape)
        output[..., : spec.num_classes] -= 3
        return torch.from_numpy(output).to(dtype)


def drawn(most: int = 6) -> st.SearchStrategy[Drawn]:
    """Draws one to three pictures of no object up to `most`."""
    kinds = st.lists(st.sampled_from(KINDS), max_size=most).map(tuple)
    return st.builds(Drawn, st.lists(kinds, min_size=1, max_size=3).map(tuple), st.integers(0, 2**31))


def points_of(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width, height = spec.input_size_wh
    return anchor_points(spec, (height, width)).to(dtype)


def counts_of(spec: ModelSpec) -> tuple[int, ...]:
    width, height = spec.input_size_wh
    return level_counts(spec, (height, width))


def predictions(spec: ModelSpec, main: torch.Tensor, auxiliary: torch.Tensor | None = None) -> Predictions:
    return Predictions(main, auxiliary, points_of(spec), counts_of(spec))
