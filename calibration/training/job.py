"""What a training run is given, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibration.accuracy import Accuracy
from calibration.labels import Sample
from calibration.run_folder.folder import RunFolder
from calibration.run_folder.results_table import EpochResult
from calibration.training.loader import Batch
from calibration.training.recipe import Recipe
from streamer.common.errors import ModelError
from streamer.models.nanodet import NanoDet
from streamer.models.spec import ModelSpec


@dataclass(frozen=True)
class Job:
    """A training run.

    Attributes:
        spec: the network and its classes.
        recipe: how it is trained.
        train: the pictures to train on.
        val: the pictures to validate on.
        data: the description of the data, for messages.
        folder: where everything goes.
        seed: of weights, order and augmentation.
        accumulate: parts that a step's pictures are computed in, one after the other.
        precision: ``bf16`` computes convolutions in bfloat16.
        compiles: whether PyTorch compiles the network and the loss, which takes a minute or two.
        freezes_backbone: see `TrainingNetwork.freeze_backbone`.
        teacher: a trained network whose output is imitated, or None.
        has_new_auxiliary: whether the auxiliary head is untrained and the main one isn't, so that the main one assigns
            objects to points for the first part of the run.
        uses_labels: whether the labels count; False imitates the teacher alone.
        budget_s: time for the whole run instead of the recipe's length; the last validation included.
        patience: validations without a better AP after which the run ends; None is never.
        simulates_int8: whether validation measures the AP in simulated INT8 too.
        workers: threads that make batches; None is one a core.
    """

    spec: ModelSpec
    recipe: Recipe
    train: Sequence[Sample]
    val: Sequence[Sample]
    data: Path
    folder: RunFolder
    seed: int = 0
    accumulate: int = 1
    precision: Literal["bf16", "f32"] = "f32"
    compiles: bool = False
    freezes_backbone: bool = False
    teacher: NanoDet | None = None
    has_new_auxiliary: bool = False
    uses_labels: bool = True
    budget_s: float | None = None
    patience: int | None = None
    simulates_int8: bool = True
    workers: int | None = None


@dataclass
class State:
    """How far a run is; what a checkpoint stores beside the weights.

    Attributes:
        step: optimiser steps done.
        elapsed_s: time of training so far, validation included.
        best_ap: greatest AP so far; -1 before any.
        best_step: its step.
        best_epoch: its epoch.
        stale: validations since then.
        validated_s: time that the last validation took.
        epoch: epochs that have a row in the table.
        validated_at_step: step of the last validation.
        validated_at_s: `elapsed_s` at the last validation.
    """

    step: int = 0
    elapsed_s: float = 0.0
    best_ap: float = -1.0
    best_step: int = 0
    best_epoch: int = 0
    stale: int = 0
    validated_s: float = 0.0
    epoch: int = 0
    validated_at_step: int = 0
    validated_at_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        state: at the end.
        was_interrupted: whether a signal ended it; it can be resumed.
        accuracy: of the best weights on the validation pictures; None if the run ended before.
        images_per_s: training pictures a second over the run, validation not counted.
        wait_share: share of that time in which the device waited for pictures.
        gpu_memory_bytes: greatest memory that PyTorch held; None on a CPU.
        unreadable: training pictures that were skipped, as they can't be read.
    """

    state: State
    was_interrupted: bool
    accuracy: Accuracy | None
    images_per_s: float
    wait_share: float
    gpu_memory_bytes: int | None
    unreadable: int = 0


class NotFinite(ModelError):
    """The loss isn't finite any more."""


OnStep = Callable[[State, dict[str, float]], None]
"""Called now and then with the state and the losses since the last call."""
OnRow = Callable[[EpochResult], None]
"""Called with the results of each epoch."""
OnBatch = Callable[[Batch], None]
"""Called with each batch, still on the CPU."""
