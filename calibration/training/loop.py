"""The training loop, from the first step to the last: read it from top to bottom.

Weights, average, optimiser and the number of the step are all that a run has: batch k depends on the seed and k alone,
so a run that is resumed from a checkpoint continues as if it hadn't stopped (on a CPU, to the bit).
"""

from __future__ import annotations

import contextlib
import logging
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
from calibration.training.beginning import check_classes
from calibration.training.checkpoint_file import NAMES_KEY, read_checkpoint, write_checkpoint
from calibration.training.int8_simulation import simulate_int8
from calibration.training.job import Job, NotFinite, OnBatch, OnRow, OnStep, Outcome, State
from calibration.training.length import Length
from calibration.training.loader import Batch, Loader
from calibration.training.losses import LossSettings, Predictions, detection_loss
from calibration.training.meter import Meter
from calibration.training.network import TrainingNetwork
from calibration.training.optimiser import make_optimiser
from calibration.training.photometry import network_inputs
from calibration.training.process import Process
from calibration.training.slopes import FallingSlopes, exchanges_leaky_relu
from calibration.training.validation import Validator
from streamer.common.errors import ConfigError, EngineError, ModelError, counted, one_line, short
from streamer.common.interrupt import Interrupt
from streamer.models.nanodet import NanoDet, build, load_into
from streamer.models.nanodet.layers import LEAKY_SLOPE

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 120.0
_AUXILIARY_LEARNS = 0.2
"""Share of the run after which an auxiliary head that was new assigns objects to points."""
_INT8_PICTURES = 32
_TRAINED_BETWEEN = 4
"""With a budget, time between validations as a multiple of one's own."""
_LOOK_EVERY = 20


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
        is_exchanged = job.teacher is not None and exchanges_leaky_relu(job.teacher.spec, job.spec)
        self._slopes = FallingSlopes(network, LEAKY_SLOPE) if is_exchanged else None
        if is_exchanged:
            network.keep_statistics()
        self._validator = validator
        self._interrupt: Interrupt | None = None
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
        on_batch: OnBatch = lambda batch: None,
    ) -> Outcome:
        """Trains to the end of the recipe or of the budget, or until a signal.

        Args:
            interrupt: the program's signals, or None.
            on_step: called now and then, with the state and the mean losses since the last call.
            on_row: called with the results of each epoch, in the main process.
            on_batch: called with each batch before the step.

        Raises:
            NotFinite: the loss is infinite or not a number.
            ConfigError: too many pictures are unreadable, or a file can't be written.
        """
        job, state, meter, process = self.job, self.state, self._meter, self.process
        recipe, parts = job.recipe, job.accumulate
        self._interrupt = interrupt
        self._set_next_validation()
        model = self._prepared_model()
        started_at_s = time.monotonic() - state.elapsed_s
        first_step, trained_s, self.waited_s = state.step, 0.0, 0.0
        stops, is_over = False, self.length.is_over(state)
        if interrupt is not None:  # a step may take longer than a shutdown has to begin
            interrupt.report_progress(state.step)
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
                if self._slopes is not None:
                    self._slopes.set(share)
                trusts = not job.has_new_auxiliary or share >= _AUXILIARY_LEARNS
                settings = replace(LossSettings.of(job.spec), auxiliary_assigns=trusts)
                epoch = loader.sampler.epoch_of(state.step * parts)
                self.network.detach_auxiliary = recipe.detach_epoch is not None and epoch >= recipe.detach_epoch

                # one step: forward and backward in parts, then the weights
                began_s, waited_before_s = time.monotonic(), loader.waited_s
                self.optimiser.zero_grad(set_to_none=True)
                for part in range(parts):
                    batch = next(loader)
                    on_batch(batch)
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

                # what is looked at and written now and then; processes agree on signals and time only then
                ends_epoch = loader.sampler.epoch_of(state.step * parts) > epoch
                is_due = ends_epoch or state.step % _LOOK_EVERY == 0
                if is_due or process.world == 1:
                    signals, state.elapsed_s = process.greatest(
                        interrupt is not None and interrupt.happened, time.monotonic() - started_at_s
                    )
                    stops = signals > 0
                is_over = self.length.is_over(state)
                if is_due or is_over or stops:
                    on_step(state, meter.look())
                step_s, waited_now_s = time.monotonic() - began_s, loader.waited_s - waited_before_s
                meter.trained_s, meter.waited_s = meter.trained_s + step_s, meter.waited_s + waited_now_s
                trained_s, self.waited_s = trained_s + step_s, self.waited_s + waited_now_s
                if interrupt is not None:
                    interrupt.report_progress(state.step)
                if ends_epoch or is_over:
                    state.epoch = epoch + 1
                    ends_early = self._end_epoch(rate, on_row)
                    ended, state.elapsed_s, state.validated_s = process.greatest(
                        ends_early, time.monotonic() - started_at_s, state.validated_s
                    )
                    stops, is_over = stops or ended > 0, self.length.is_over(state)
                if stops or time.monotonic() - self._saved_at_s > _SAVE_EVERY_S:
                    meter.look()
                    self.save()
            unreadable = len(loader.unreadable)
        rate_s = (state.step - first_step) * recipe.batch / trained_s if trained_s else 0.0
        share = self.waited_s / trained_s if trained_s else 0.0
        was_interrupted = interrupt is not None and interrupt.happened
        return Outcome(state, was_interrupted, self._accuracy, rate_s, share, self._memory_bytes(), unreadable)

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
            is_unused = self.network.auxiliary is not None and not self.job.uses_labels
            model = DistributedDataParallel(model, device_ids=ids, find_unused_parameters=is_unused)
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

    def _end_epoch(self, rate: float, on_row: OnRow) -> bool:
        """Validates where that is due, and writes the epoch's row and a checkpoint; returns whether the run ends early.

        The main process does; it returns False in others.
        """
        state, meter, job = self.state, self._meter, self.job
        is_due = self.length.is_over(state) or self.length.share(state) >= self._next_validation
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
        meter.restart()
        if is_due:
            self.save()
        return stops

    def _validated(self, row: EpochResult) -> EpochResult:
        """Measures the accuracy of the averaged weights, keeps them where they are the best, and returns the row."""
        state, validator = self.state, self._validator
        assert validator is not None
        began_s = time.monotonic()
        self._check_weights()
        network = self.trained_network()
        accuracy = self._measured(validator, network)
        row = replace(row, AP=accuracy.AP, AP50=accuracy.AP50, AP75=accuracy.AP75)
        is_better = state.best_ap < accuracy.AP
        if self.job.simulates_int8 and (is_better or self.length.is_over(state)):
            pictures = torch.from_numpy(validator.inputs(_INT8_PICTURES)).to(self.process.device)
            images = network_inputs(pictures, self.job.spec)
            simulate_int8(network, torch.split(images, 8))
            int8 = self._measured(validator, network)
            row = replace(row, int8_AP=int8.AP, int8_AP50=int8.AP50)
        state.stale += 1
        if is_better:
            state.best_ap, state.best_step, state.best_epoch, state.stale = accuracy.AP, state.step, state.epoch, 0
            self._accuracy = accuracy
            self._write(self.job.folder.best_checkpoint, is_whole=False)
        state.validated_s = time.monotonic() - began_s
        state.validated_at_step, state.validated_at_s = state.step, state.elapsed_s
        return row

    def _measured(self, validator: Validator, network: NanoDet) -> Accuracy:
        try:
            found = validator.detect(network, self.process.device, self._report_progress)
        except EngineError as error:
            raise NotFinite(
                f"the network's output isn't finite after step {self.state.step}: lower --lr; the last checkpoint, if"
                " there is one, is from before"
            ) from error
        return coco_accuracy(validator.samples, found, self.job.spec.labels)

    def _report_progress(self) -> None:
        """Tells the program's shutdown time-out, where a signal has come, that validation goes on."""
        if self._interrupt is not None:
            self._interrupt.report_progress(time.monotonic())

    def _set_next_validation(self) -> None:
        """Sets after which share of the run the next validation is due; of a budget they take a fifth at most."""
        state, recipe = self.state, self.job.recipe
        share = self.length.share(replace(state, step=state.validated_at_step, elapsed_s=state.validated_at_s))
        if recipe.validations is not None:
            every = 1 / recipe.validations
        else:
            every = recipe.validate_epochs * len(self.job.train) / recipe.batch / self.length.steps
        if self.length.budget_s is not None:
            every = max(every, _TRAINED_BETWEEN * state.validated_s / self.length.budget_s)
            self._next_validation = share + every
        else:
            self._next_validation = ((share + 1e-9) // every + 1) * every - 1e-9

    def trained_network(self) -> NanoDet:
        """Returns a copy of the network with the averaged weights, on the same device, in evaluation mode."""
        weights = self.network.state_dict() if self.average is None else self.average.values
        network = build(self.job.spec).to(self.process.device)
        official = self.network.official_state(weights)
        load_into(network, {name: official[name] for name in network.state_dict()})
        return network

    def save(self) -> None:
        """Writes the checkpoint from which the run is resumed; a full disk leaves the one before.

        Raises:
            NotFinite: a weight is infinite or not a number; nothing is written.
            ConfigError: the file can't be written.
        """
        if self.process.is_main:
            self._check_weights()
            self._write(self.job.folder.last_checkpoint, is_whole=True)
        self._saved_at_s = time.monotonic()

    def _check_weights(self) -> None:
        finite = torch.stack([value.isfinite().all() for value in self.network.parameters()])
        if not bool(finite.all()):
            raise NotFinite(
                f"weights aren't finite after step {self.state.step}: lower --lr; the last checkpoint, if there is one,"
                " is from before"
            )

    def resume(self) -> None:
        """Goes on from the run's last checkpoint, where there is one; later rows of the table are removed.

        Raises:
            ModelError: it is damaged, or of another run, or the best weights are gone and nothing is left to train.
        """
        path, job, best = self.job.folder.last_checkpoint, self.job, self.job.folder.best_checkpoint
        if path.exists():
            self._load(path)
        if self.state.best_step and not best.is_file():
            lost = f"{best}, with the weights of step {self.state.best_step} (AP {self.state.best_ap:.2f}), is gone"
            if self.length.is_over(self.state):
                raise ModelError(f"{lost}: put it back, or train longer with --steps, --epochs or --budget")
            log.warning("%s: the best from here on are kept instead", lost)
            self.state.best_ap, self.state.best_step, self.state.best_epoch, self.state.stale = -1.0, 0, 0, 0
        if not self.length.is_over(self.state):  # a row of an epoch that isn't complete is written again
            self.state.epoch = min(self.state.epoch, self.state.step * job.recipe.batch // len(job.train))
        if self.process.is_main:
            self._table.trim(self.state.epoch)

    def _load(self, path: Path) -> None:
        stored = read_checkpoint(path)
        try:
            own = stored["training"]
            names = tuple(stored[NAMES_KEY])
            pictures = own["pictures"]
            self.state = State(**own["state"])
            self.network.load_state_dict(own["network"])
            self.optimiser.load_state_dict(own["optimiser"])
            if self.average is not None:
                self.average.load(own["average"])
            self._meter.restore(own["meter"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = short(one_line(str(error)))
            raise ModelError(f"{path}: it isn't a checkpoint of this run, or of another network: {reason}") from error
        check_classes(names, self.job.spec, self.job.data)
        if pictures != len(self.job.train):
            raise ConfigError(
                f"{self.job.data}: the run began with {counted(pictures, 'training picture')}, now there are"
                f" {len(self.job.train)}: begin a new one with --init {path}"
            )

    def _write(self, path: Path, *, is_whole: bool) -> None:
        averaged = None if self.average is None else self.average.values
        extra: dict[str, object] = {"epoch": self.state.epoch, "global_step": self.state.step}
        if is_whole:
            extra["training"] = {
                "state": asdict(self.state),
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "average": averaged,
                "meter": self._meter.totals(),
                "pictures": len(self.job.train),
            }
        write_checkpoint(path, self.network, averaged, extra)

    def _memory_bytes(self) -> int | None:
        device = self.process.device
        return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def _with_probabilities(output: Tensor, classes: int) -> Tensor:
    """Returns an output (B, N, classes + bins) in float32 with scores after the sigmoid."""
    output = output.float()
    return torch.cat((output[..., :classes].sigmoid(), output[..., classes:]), dim=-1)
