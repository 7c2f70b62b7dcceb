"""Recipes: optimiser, learning rate, schedule, averaging and augmentation of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from calibration.training.augmentation import Augmentation
from streamer.common.errors import ConfigError, counted
from streamer.models.spec import ModelSpec

RECIPES = ("default", "upstream")
_FINE_TUNE_BATCH = 32
_LEAST_STEPS, _MOST_STEPS = 1500, 20_000
_EPOCHS_WANTED = 100
_VALIDATIONS = 20
_EXCHANGE_LR = 3e-4


@dataclass(frozen=True)
class Schedule:
    """The learning rate's factor over a run.

    Attributes:
        shape: ``steps`` (x `gamma` at each milestone), ``cosine``, or ``flat-cosine`` (1 until `flat`, then a cosine).
        milestones: of ``steps``, as shares of the run.
        gamma: of ``steps``.
        flat: of ``flat-cosine``, as a share of the run.
        last: factor that a cosine ends at.
        warmup_steps: length of the linear warm-up, of the run's steps at most `warmup_share`.
        warmup_share: its longest share of the run.
        warmup_from: factor that it begins at.
    """

    shape: Literal["steps", "cosine", "flat-cosine"]
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    flat: float = 0.5
    last: float = 0.05
    warmup_steps: int = 300
    warmup_share: float = 1.0
    warmup_from: float = 0.1

    def factor(self, step: int, share: float) -> float:
        """Returns the factor of a step.

        Args:
            step: from 0.
            share: of the run that is done, 0 to 1.
        """
        if self.shape == "steps":
            value = self.gamma ** sum(share >= milestone for milestone in self.milestones)
        else:
            flat = self.flat if self.shape == "flat-cosine" else 0.0
            angle = math.pi * max(0.0, min(1.0, share) - flat) / max(1 - flat, 1e-9)
            value = self.last + (1 - self.last) * (1 + math.cos(angle)) / 2
        return value * self._warmup(step, share)

    def _warmup(self, step: int, share: float) -> float:
        done = step / self.warmup_steps if self.warmup_steps else 1.0
        if self.warmup_share < 1:  # of a short run, the warm-up ends earlier
            done = max(done, share / self.warmup_share)
        return self.warmup_from + (1 - self.warmup_from) * min(1.0, done)


@dataclass(frozen=True)
class Averaging:
    """The exponential moving average of parameters and buffers.

    Attributes:
        decay: what the average keeps of itself a step, in the end.
        warmup: steps over which it gets there: the weight of new values is ``decay * exp(-(1 + step) / warmup) + (1 -
            decay)``.
    """

    decay: float = 0.9998
    warmup: float = 2000.0


@dataclass(frozen=True)
class Recipe:
    """All that decides how a network is trained, but the data and the seed.

    Attributes:
        name: of `RECIPES`.
        optimiser: SGD with momentum 0.9, or AdamW.
        lr: learning rate at `reference_batch`.
        lr_exponent: of the batch's ratio to `reference_batch`, which scales it: 1 or 0.5.
        reference_batch: pictures a step that `lr` is for.
        batch: pictures a step.
        weight_decay: of the weights.
        decays_all: whether it hits normalisations and biases too.
        schedule: of the learning rate.
        averaging: or None.
        clip_norm: greatest norm of the gradient, or None.
        steps: of the whole run; None where `epochs` say it.
        epochs: of the whole run.
        augmentation: of the pictures.
        final_augmentation: of the last part of the run; None leaves it as it is.
        final_share: length of that part, as a share of the run.
        detach_epoch: from this epoch on the auxiliary head's losses leave the rest alone.
        validations: how many over the run; None is `validate_epochs`.
        validate_epochs: epochs from one validation to the next.
    """

    name: str
    optimiser: Literal["sgd", "adamw"]
    lr: float
    lr_exponent: float
    reference_batch: int
    batch: int
    weight_decay: float
    decays_all: bool
    schedule: Schedule
    averaging: Averaging | None
    clip_norm: float | None
    steps: int | None
    epochs: int | None
    augmentation: Augmentation
    final_augmentation: Augmentation | None = None
    final_share: float = 0.1
    detach_epoch: int | None = None
    validations: int | None = None
    validate_epochs: int = 10

    @property
    def scaled_lr(self) -> float:
        """The learning rate at `batch`."""
        return float(self.lr * (self.batch / self.reference_batch) ** self.lr_exponent)

    def line(self, budget_s: float | None = None) -> str:
        """Returns the recipe in words; `budget_s` replaces its length."""
        length = counted(self.steps, "step") if self.steps else counted(self.epochs or 0, "epoch")
        if budget_s is not None:
            length = f"what fits in {budget_s:.0f} s"
        average = f"average {self.averaging.decay}" if self.averaging else "no average"
        return (
            f"recipe {self.name}: {self.optimiser.upper() if self.optimiser == 'sgd' else 'AdamW'}, learning rate"
            f" {self.scaled_lr:.2g} ({self.schedule.shape}), batch {self.batch}, {length}, {average}"
        )


def upstream_recipe(spec: ModelSpec) -> Recipe:
    """Returns the published configuration of a network; only its pictures and epochs are COCO's.

    Its average, where there is one (Plus), runs over parameters and buffers. Weight decay hits normalisations and
    biases too. The learning rate scales linearly with the batch, also with AdamW, as its documentation asks.

    Raises:
        ConfigError: the network is none of NanoDet's m, g and Plus.
    """
    augmentation = Augmentation.upstream(spec)
    if spec.family == "nanodet-plus":
        schedule = Schedule("cosine", last=0.05, warmup_steps=500, warmup_from=1e-4)
        return Recipe(
            "upstream", "adamw", 1e-3, 1.0, 96, 96, 0.05, True, schedule, Averaging(), 35.0, None, 300, augmentation,
            detach_epoch=10, validate_epochs=10,
        )  # fmt: skip
    if spec.name.startswith("nanodet-g"):
        milestones = tuple(epoch / 190 for epoch in (130, 160, 175, 185))
        schedule = Schedule("steps", milestones, warmup_steps=500, warmup_from=0.01)
        return Recipe(
            "upstream", "sgd", 0.1, 1.0, 128, 128, 1e-4, True, schedule, None, None, None, 190, augmentation,
            validate_epochs=5,
        )  # fmt: skip
    if spec.name.startswith("nanodet-m-0.5x"):
        schedule = Schedule(
            "steps", tuple(epoch / 180 for epoch in (130, 160, 175)), warmup_steps=1000, warmup_from=1e-5
        )
        return Recipe("upstream", "sgd", 0.07, 1.0, 96, 96, 1e-4, True, schedule, None, None, None, 180, augmentation)
    batch = 176 if spec.name.startswith("nanodet-m-1.5x") and spec.input_size_wh == (416, 416) else 192
    if not spec.name.startswith("nanodet-m"):
        raise ConfigError(f"there is no published recipe of {spec.name}: take --recipe default")
    schedule = Schedule("steps", tuple(epoch / 280 for epoch in (240, 260, 275)), warmup_steps=300, warmup_from=0.1)
    return Recipe("upstream", "sgd", 0.14, 1.0, batch, batch, 1e-4, True, schedule, None, None, None, 280, augmentation)


def default_recipe(spec: ModelSpec, pictures: int, *, from_scratch: bool, batch: int | None = None) -> Recipe:
    """Returns what suits a set of this size: AdamW, flat then cosine, an average, no decay of norms and biases.

    A fine-tune is counted in steps, so that two hundred pictures get as many as they need: about `_EPOCHS_WANTED`
    epochs, between 1,500 and 20,000 steps. From random weights it takes ten times as many, and strong augmentation
    until the last tenth.

    Args:
        spec: of the network.
        pictures: in the training split.
        from_scratch: whether the weights are random.
        batch: pictures a step; None is 32, or all pictures where there are fewer.
    """
    batch = batch or max(1, min(_FINE_TUNE_BATCH, pictures))
    steps = max(_LEAST_STEPS, min(_MOST_STEPS, _EPOCHS_WANTED * pictures // batch))
    if from_scratch:
        steps *= 10
    schedule = Schedule("flat-cosine", flat=0.5, last=0.02, warmup_steps=200, warmup_share=0.05, warmup_from=0.01)
    return Recipe(
        "default", "adamw", 2e-3 if from_scratch else 1e-3, 0.5, 32, batch, 0.05, False, schedule,
        Averaging(0.9995 if not from_scratch else 0.9998, 500.0 if not from_scratch else 2000.0), 10.0, steps, None,
        Augmentation.strong() if from_scratch else Augmentation.light(),
        Augmentation.light() if from_scratch else None, detach_epoch=10 if spec.family == "nanodet-plus" else None,
        validations=_VALIDATIONS,
    )  # fmt: skip


def gentler(recipe: Recipe) -> Recipe:
    """Returns the default recipe with the learning rate for a network that begins as its teacher; another unchanged."""
    return replace(recipe, lr=_EXCHANGE_LR) if recipe.name == "default" else recipe


def shortened(recipe: Recipe, *, epochs: int | None = None, steps: int | None = None) -> Recipe:
    """Returns a recipe of another length; what is a share of the run keeps its share."""
    if epochs is not None:
        return replace(recipe, epochs=epochs, steps=None)
    return replace(recipe, steps=steps, epochs=None) if steps is not None else recipe
