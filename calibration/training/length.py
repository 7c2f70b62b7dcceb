"""How long a run is: in steps, or in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from calibration.training.job import State
from calibration.training.recipe import Recipe

_MARGIN = 1.3


@dataclass(frozen=True)
class Length:
    """The length of a run, in steps or in seconds.

    Attributes:
        steps: of the run; with a budget an estimate that isn't used.
        budget_s: time for the run, or None.
    """

    steps: int
    budget_s: float | None

    @classmethod
    def of(cls, recipe: Recipe, pictures: int, budget_s: float | None) -> Length:
        """Returns a recipe's length for a set of this many pictures."""
        steps = recipe.steps or max(1, math.ceil((recipe.epochs or 1) * pictures / recipe.batch))
        return cls(steps, budget_s)

    def share(self, state: State) -> float:
        """Returns which share of the run is done; 1 and more is all. A budget leaves time for the last validation."""
        if self.budget_s is None:
            return state.step / self.steps
        return state.elapsed_s / max(self.budget_s - _MARGIN * state.validated_s, 1e-9)

    def is_over(self, state: State) -> bool:
        """Whether the run has its length."""
        return self.share(state) >= 1

    def expected_s(self, state: State) -> float | None:
        """Returns the time that the run still takes, judging by what it took; None before the first step."""
        share = self.share(state)
        return state.elapsed_s * (1 - share) / share if share > 0 else None
