"""The training loop, from the first step to the last: read it from top to bottom.

Weights, average, optimiser and the number of the step are all that a run has: batch k depends on the seed and k alone,
so a run that is resumed from a checkpoint continues as if it hadn't stopped (on a CPU, to the bit).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from calibration.accuracy import Accuracy, coco_accuracy
from calibration.distill import distillation_loss
from calibration.run_folder.results_table import EpochResult, ResultsTable
from calibration.training.averaging import AveragedWeights
from calibration.training.checkpoint_file import read_checkpoint, write_checkpoint
from calibration.training.int8_simulation import simulate_int8
from calibration.training.job import Job, OnRow, OnStep, Outcome, State
from calibration.training.length import Length
from calibration.training.loader import Batch, Loader
from calibration.training.losses import LossSettings, Predictions, detection_loss
from calibration.training.meter import Meter
from calibration.training.network import TrainingNetwork
from calibration.training.optimiser import make_optimiser
from calibration.training.photometry import network_inputs
from calibration.training.process import Process
from calibration.training.validation import Validator
from streamer.common.errors import ModelError
from streamer.common.interrupt import Interrupt
from streamer.models.nanodet import NanoDet, build, load_into

_SAVE_EVERY_S = 120.0
_ASK_EVERY = 20  # steps; processes that ask each other wait for their devices
_AUXILIARY_LEARNS = 0.2
"""Share of the run after which an auxiliary head that was new assigns objects to points."""
_INT8_PICTURES = 32
_TRAINED_BETWEEN = 4
"""With a budget, time between validations as a multiple of one's own."""


class Training:
    """A run: network, average, optimiser and state, and the loop over them.

    Attributes:
        state: how far it is.
        length: how long it is.
        waited_s: time in steps without a batch, since `run` began.
    """

    def __init__(self, job: Job, process: Process, network: TrainingNetwork, validator: Validator | None) -> None:
        """Takes a network with its initial weights; only the main process needs a validator."""
        self.job, self.process, self.state = job, process, State()
        self.length = Length.of(job.recipe, len(job.train), job.budget_s)
        # channels last: NanoDet-g at 416 takes 159 ms of CPU time a picture in float32 instead of 184
        self.network = network.to(process.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if job.freezes_backbone:
            network.freeze_backbone()
        self.average = AveragedWeights(network, job.recipe.averaging) if job.recipe.averaging else None
        self.optimiser = make_optimiser(network, job.recipe)
        self.teacher = None if job.teacher is None else job.teacher.to(process.device).eval()
        self._validator = validator
        self._table = ResultsTable(job.folder.results, auxiliary=network.auxiliary is not None)
        self._meter = Meter(job.train)
        self._accuracy: Accuracy | None = None
        self._next_validation = 0.0
        self._saved_at_s = time.monotonic()
        self.waited_s = 0.0

    def run(
        self,
        interrupt: Interrupt | None = None,
        on_step: OnStep = lambda state, losses: None,
        on_row: OnRow = lambda row: None,
    ) -> Outcome:
        """Trains to the end of the recipe or of the budget, or until a signal.

        Args:
            interrupt: the program's signals, or None.
            on_step: called now and then, with the state and the mean losses since the last call.
            on_row: called with the results of each epoch, in the main process.

        Raises:
            NotFinite: the loss is infinite or not a number.
            ConfigError: too many pictures are unreadable, or a file can't be written.
        """
        job, state, meter, process = self.job, self.state, self._meter, self.process
        recipe, parts = job.recipe, job.accumulate
        self._set_next_validation()
        model = self._prepared_model()
        started_at_s = time.monotonic() - state.elapsed_s
        first_step, trained_s, self.waited_s = state.step, 0.0, 0.0
        stops, is_over = False, process.agree(self.length.is_over(state))
        with Loader(
            job.train, job.spec, recipe.augmentation, recipe.batch // parts, job.seed, workers=job.workers,
            start_step=state.step * parts, rank=process.rank, world=process.world,
        ) as loader:  # fmt: skip
            final = recipe.final_augmentation
            while not (stops or is_over):
                share = self.length.share(state)
                if final is not None and share >= 1 - recipe.final_share:
                    loader.set_augmentation(final, state.step * parts)
                    final = None
                rate = recipe.scaled_lr * recipe.schedule.factor(state.step, share)
                for group in self.optimiser.param_groups:
                    group["lr"] = rate
                trusts = not job.has_new_auxiliary or share >= _AUXILIARY_LEARNS
                settings = replace(LossSettings.of(job.spec), auxiliary_assigns=trusts)
                epoch = loader.sampler.epoch_of(state.step * parts)
                self.network.detach_auxiliary = recipe.detach_epoch is not None and epoch >= recipe.detach_epoch

                # one step: forward and backward in parts, then the weights
                began_s = time.monotonic()
                self.optimiser.zero_grad(set_to_none=True)
                for part in range(parts):
                    before_s = loader.waited_s
                    batch = next(loader)
                    meter.waited_s += loader.waited_s - before_s
                    self.waited_s += loader.waited_s - before_s
                    with self._synchronised(model, is_last=part == parts - 1):
                        loss, terms = self._loss(model, batch.to(process.device), settings)
                        torch.autograd.backward(loss / parts)
                    meter.add(state.step, loss, terms, batch.indices)
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm, foreach=True)
                self.optimiser.step()
                if self.average is not None:
                    self.average.update(state.step)
                state.step += 1
                meter.pictures += recipe.batch

                # what is looked at and written now and then
                has_signal = interrupt is not None and interrupt.happened
                ends_epoch = loader.sampler.epoch_of(state.step * parts) > epoch
                if ends_epoch or has_signal or meter.is_due or self.length.is_over(state):
                    on_step(state, meter.look())
                meter.trained_s += time.monotonic() - began_s
                state.elapsed_s = time.monotonic() - started_at_s
                if interrupt is not None:
                    interrupt.report_progress(state.step)
                is_last = job.budget_s is None and self.length.is_over(state)
                if process.world == 1 or ends_epoch or is_last or state.step % _ASK_EVERY == 0:
                    stops, is_over = process.agree(has_signal), process.agree(self.length.is_over(state))
                if not stops and (ends_epoch or is_over):
                    trained_s += meter.trained_s
                    state.epoch = loader.sampler.epoch_of(state.step * parts - 1) + 1
                    stops = self._end_epoch(rate, on_row, ends=is_over)
                    state.elapsed_s = time.monotonic() - started_at_s
                    is_over = process.agree(self.length.is_over(state))
                    meter.restart()
                if stops or time.monotonic() - self._saved_at_s > _SAVE_EVERY_S:
                    meter.look()
                    self.save()
            trained_s += meter.trained_s
        rate_s = (state.step - first_step) * recipe.batch / trained_s if trained_s else 0.0
        share = self.waited_s / trained_s if trained_s else 0.0
        return Outcome(
            state, interrupt is not None and interrupt.happened, self._accuracy, rate_s, share, self._memory_bytes()
        )

    def _prepared_model(self) -> nn.Module:
        """Returns the network as the loop calls it: compiled, and with gradients that are averaged over processes."""
        model: nn.Module = self.network
        if self.process.device.type == "cuda":
            torch.backends.cudnn.benchmark = self.job.compiles  # trying every algorithm takes 40 s for Plus
            torch.set_float32_matmul_precision("high")
            torch.cuda.reset_peak_memory_stats(self.process.device)
        if self.job.compiles:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.process.world > 1:
            ids = [self.process.device.index] if self.process.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids)
        return model

    def _synchronised(self, model: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Returns a block after which gradients are averaged over processes; only the last part of a step needs it."""
        if is_last or not isinstance(model, DistributedDataParallel):
            return contextlib.nullcontext()
        return model.no_sync()

    def _loss(self, model: nn.Module, batch: Batch, settings: LossSettings) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns a batch's loss, and its terms by name."""
        spec, device = self.job.spec, self.process.device
        images = network_inputs(batch.images, spec, batch.colour).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.job.precision == "bf16"):
            predictions: Predictions = model(images)
        terms: dict[str, Tensor] = {}
        loss = predictions.main.new_zeros((), dtype=torch.float32)
        if self.job.uses_labels:
            losses = detection_loss(predictions, batch.truth, spec, settings)
            loss, terms = losses.total, losses.terms
        if self.teacher is not None:
            with torch.no_grad():
                target = _with_probabilities(self.teacher(images), spec.num_classes)
            imitation = distillation_loss(_with_probabilities(predictions.main, spec.num_classes), target, spec)
            loss = loss + imitation
        return loss, terms

    def _end_epoch(self, rate: float, on_row: OnRow, *, ends: bool) -> bool:
        """Validates where that is due, and writes the epoch's row and a checkpoint; returns whether the run ends early.

        Other processes wait for the main one.
        """
        state, meter, job = self.state, self._meter, self.job
        is_due = ends or self.length.share(state) >= self._next_validation
        stops = False
        if self.process.is_main:
            row = EpochResult(
                state.epoch, state.step, state.elapsed_s, rate, **meter.means(),
                images_per_s=meter.pictures / meter.trained_s, data_wait_share=meter.waited_s / meter.trained_s,
                gpu_memory_mb=None if (held := self._memory_bytes()) is None else held / 1e6,
            )  # fmt: skip
            if is_due:
                row = self._validated(row)
                self._set_next_validation()
                stops = job.patience is not None and state.stale >= job.patience
            self._table.append(row)
            on_row(row)
            if is_due:
                self.save()
        return self.process.agree(stops)

    def _validated(self, row: EpochResult) -> EpochResult:
        """Measures the accuracy of the averaged weights, keeps them where they are the best, and returns the row."""
        state, validator = self.state, self._validator
        assert validator is not None
        began_s = time.monotonic()
        network = self.trained_network()
        labels, device = self.job.spec.labels, self.process.device
        accuracy = coco_accuracy(validator.samples, validator.detect(network, device), labels)
        row = replace(row, AP=accuracy.AP, AP50=accuracy.AP50, AP75=accuracy.AP75)
        is_better = state.best_ap < accuracy.AP
        if self.job.simulates_int8 and (is_better or self.length.is_over(state)):
            images = network_inputs(torch.from_numpy(validator.inputs(_INT8_PICTURES)).to(device), self.job.spec)
            simulate_int8(network, torch.split(images, 8))
            int8 = coco_accuracy(validator.samples, validator.detect(network, device), labels)
            row = replace(row, int8_AP=int8.AP, int8_AP50=int8.AP50)
        state.stale += 1
        if is_better:
            state.best_ap, state.best_step, state.best_epoch, state.stale = accuracy.AP, state.step, state.epoch, 0
            self._accuracy = accuracy
            self._write(self.job.folder.best_checkpoint, is_whole=False)
        state.validated_s = time.monotonic() - began_s
        return row

    def _set_next_validation(self) -> None:
        """Sets after which share of the run the next validation is due; of a budget they take a fifth at most."""
        recipe, share = self.job.recipe, self.length.share(self.state)
        if recipe.validations is not None:
            every = 1 / recipe.validations
        else:
            every = recipe.validate_epochs * len(self.job.train) / recipe.batch / self.length.steps
        if self.length.budget_s is not None:
            every = max(every, _TRAINED_BETWEEN * self.state.validated_s / self.length.budget_s)
            self._next_validation = share + every
        else:
            self._next_validation = (share // every + 1) * every - 1e-9

    def trained_network(self) -> NanoDet:
        """Returns a copy of the network with the averaged weights, on the same device, in evaluation mode."""
        weights = self.network.state_dict() if self.average is None else self.average.values
        network = build(self.job.spec).to(self.process.device)
        official = self.network.official_state(weights)
        load_into(network, {name: official[name] for name in network.state_dict()})
        return network

    def save(self) -> None:
        """Writes the checkpoint from which the run is resumed; a full disk leaves the one before."""
        if self.process.is_main:
            self._write(self.job.folder.last_checkpoint, is_whole=True)
        self._saved_at_s = time.monotonic()

    def resume(self) -> None:
        """Goes on from the last checkpoint of the run's folder; later rows of the table are removed.

        Raises:
            ModelError: it is damaged, or of another run.
        """
        path = self.job.folder.last_checkpoint
        stored = read_checkpoint(path)
        try:
            own = stored["training"]
            self.state = State(**own["state"])
            self.network.load_state_dict(own["network"])
            self.optimiser.load_state_dict(own["optimiser"])
            if self.average is not None:
                self.average.load(own["average"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: it isn't a checkpoint of this run, or of other settings: {error}") from error
        if self.process.is_main:
            self._table.trim(self.state.epoch)

    def _write(self, path: Path, *, is_whole: bool) -> None:
        averaged = None if self.average is None else self.average.values
        extra: dict[str, object] = {"epoch": self.state.epoch, "global_step": self.state.step}
        if is_whole:
            extra["training"] = {
                "state": asdict(self.state),
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": averaged,
            }
        write_checkpoint(path, self.network, averaged, extra)

    def _memory_bytes(self) -> int | None:
        device = self.process.device
        return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def _with_probabilities(output: Tensor, classes: int) -> Tensor:
    """Returns an output (B, N, classes + bins) in float32 with scores after the sigmoid."""
    output = output.float()
    return torch.cat((output[..., :classes].sigmoid(), output[..., classes:]), dim=-1)
