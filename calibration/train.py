"""`python -m calibration train`: fine-tunes or trains a network on labelled pictures, to ONNX and INT8."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.train_options import (
    DEFAULTS,
    add_arguments,
    checked_options,
    command_of,
    given_options,
    resumed_options,
)
from streamer.common.errors import ConfigError, counted, listed
from streamer.common.terminal import say
from streamer.models.spec import ModelSpec, parse_size_wh, spec_for

if TYPE_CHECKING:
    from calibration.data import TrainingData
    from calibration.run_folder.folder import RunFolder
    from calibration.training.job import Job
    from calibration.training.preparation import Prepared
    from calibration.training.process import Process
    from calibration.training.recipe import Recipe
    from streamer.common.interrupt import Interrupt

__all__ = ["add_arguments", "run"]

log = logging.getLogger(__name__)

_NAMED_AT_MOST = 8


def run(options: argparse.Namespace) -> int:
    """Trains, and writes the run's folder.

    Raises:
        StreamerError: an option, the data or a file is wrong, or the training diverges.
    """
    _require_packages()
    import torch

    from calibration.run_folder.folder import open_run_folder
    from calibration.training.process import joined_process

    given = given_options(options)
    folder = None if options.resume is None else open_run_folder(options.resume)
    if folder is not None and options.runs is not None:
        raise ConfigError("--runs is of a new run: leave it out with --resume")
    settings = DEFAULTS | given
    if folder is not None:
        settings = resumed_options(checked_options(folder.read_args(), folder.args), given)
    for name in ("model_config", "data"):
        settings[name] = Path(settings[name]) if settings.get(name) else None
    if settings["data"] is None or not (settings.get("model") or settings["model_config"]):
        raise ConfigError("train wants --model NAME and --data data.yaml, or --resume DIR")
    with joined_process(str(settings["device"])) as process:
        data = _read(settings, process)
        try:
            return _train(settings, data, folder, process, options)
        except torch.OutOfMemoryError:
            pass  # what holds the memory is freed with the exception
        raise ConfigError(_out_of_memory(settings, data, process))


def _train(
    settings: dict[str, Any],
    data: TrainingData,
    folder: RunFolder | None,
    process: Process,
    options: argparse.Namespace,
) -> int:
    from calibration.run_folder.folder import RunFolder, new_run_folder
    from calibration.run_folder.tensorboard import EventWriter
    from calibration.training.beginning import read_beginning, write_beginning
    from calibration.training.display import Display
    from calibration.training.finish import Told, finish, machine_line
    from calibration.training.loop import Training
    from calibration.training.preparation import find_source, prepare
    from calibration.training.recipe import gentler
    from calibration.training.slopes import exchanges_leaky_relu
    from calibration.training.teacher_labels import with_labels
    from calibration.training.validation import Validator

    interrupt: Interrupt | None = options.interrupt

    source = None
    if folder is None:
        source = find_source(_spec(settings, data.names)[0], str(settings["init"]))
        if source is not None and not settings.get("activation"):
            settings["activation"] = source.activation
    spec, teacher_activation = _spec(settings, data.names)
    recipe = _recipe(settings, spec, len(data.splits["train"]), from_scratch=settings["init"] == "none")
    settings["batch"] = recipe.batch
    if folder is not None:
        prepared = read_beginning(folder.beginning, spec, data.path)
    else:
        teaches = {"auto": None, "yes": True, "no": False}[settings["teacher"]]
        prepared = prepare(
            spec, source, data.splits["train"], process.device, seed=int(settings["seed"]), teaches=teaches,
            teacher_activation=teacher_activation,
        )  # fmt: skip
    if settings["no_labels"] and prepared.teacher is None:
        raise ConfigError(
            "--no-labels needs a teacher, an initial network that knows all classes of the data: give --teacher yes"
            " with such weights, and another --activation where that is to be exchanged"
        )
    if prepared.teacher is not None and exchanges_leaky_relu(prepared.teacher.spec, spec) and not settings.get("lr"):
        recipe = gentler(recipe)
    said = list(prepared.done)
    if settings["no_labels"] and prepared.teacher is not None:
        data, found = with_labels(data, prepared.teacher, spec, process.device)
        said += found
    validator = Validator(data.splits["val"], spec, data.path) if process.is_main else None
    if folder is None:
        base = options.runs or DEFAULTS["runs"]
        folder = new_run_folder(base) if process.is_main else RunFolder(base)
        if process.is_main:
            write_beginning(folder.beginning, prepared)
    job = _job(settings, data, spec, recipe, folder, process, prepared)
    training = Training(job, process, prepared.network, validator)
    if options.resume is not None:
        training.resume()
    if interrupt is not None:
        interrupt.defer()
    if process.is_main:
        if options.resume is not None:
            said = [f"resumed after step {training.state.step} with --{name.replace('_', '-')} {given}" for name, given
                    in given_options(options).items()] or [f"resumed after step {training.state.step}"]  # fmt: skip
            if training.length.is_over(training.state):
                said.append("nothing is left to train: only what comes after training is done again")
        for sentence in (*said, recipe.line(job.budget_s), f"{folder.path}: on {process.describe()}"):
            say(sentence)
        folder.write_args({name: value for name, value in settings.items() if value is not None})
        _draw_labels(data, spec.input_size_wh, folder)
    if not process.is_main:
        training.run(interrupt)
        return 0
    with (
        EventWriter(folder.events, first_step=training.state.step) as events,
        Display(job, training.length, events=events) as display,
    ):
        events.add_picture("labels", folder.labels_picture, training.state.step)
        outcome = training.run(interrupt, display.on_step, display.on_row, display.on_batch)
    if interrupt is not None:  # what follows is written file by file, and done again by --resume
        interrupt.stop_deferring()
    if outcome.was_interrupted or (interrupt is not None and interrupt.happened):
        say(f"stopped after step {outcome.state.step}; go on with: python -m calibration train --resume {folder.path}")
        return 0
    say(
        f"{counted(outcome.state.step, 'step')}, {outcome.state.elapsed_s:.0f} s, {outcome.images_per_s:.0f} images/s,"
        f" waiting for pictures {outcome.wait_share:.1%} of the time; best AP {outcome.state.best_ap:.2f} at step"
        f" {outcome.state.best_step}"
    )
    if outcome.unreadable:
        log.warning("%d of %d training pictures can't be read and were skipped", outcome.unreadable, len(job.train))
    splits = {name: samples for name, samples in data.splits.items() if samples}
    told = Told(command_of(settings), "; ".join(prepared.done), machine_line(process.describe()))
    finish(
        job,
        outcome,
        splits,
        told,
        process.device,
        int8=bool(settings["int8"]),
        max_ap_drop=float(settings["max_ap_drop"]),
    )
    return 0


def _read(settings: dict[str, Any], process: Process) -> TrainingData:
    from calibration.data import read_data

    pairs = settings.get("rename") or ()
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--rename wants OLD=NEW, got {pair!r}")
    renamed = dict(pair.partition("=")[::2] for pair in pairs)
    data = read_data(settings["data"], classes=settings.get("classes"), rename=renamed or None)
    if process.is_main:
        for finding in data.findings:
            if finding.severity != "info":
                level = logging.ERROR if finding.severity == "error" else logging.WARNING
                log.log(level, "%s: %s (%d): %s", data.path, finding.text, finding.count, finding.where)
    train, val = (data.splits.get(name, ()) for name in ("train", "val"))
    for name, samples in (("train", train), ("val", val)):
        if not samples:
            what = f"the split {name!r} is empty" if name in data.splits else f"there is no split {name!r}"
            raise ConfigError(f"{data.path}: {what}: training needs pictures in train and val")
    if settings["no_labels"]:
        return data
    missing = set(range(len(data.names)))
    for name, samples in (("train", train), ("val", val)):
        seen = {index for sample in samples for index in sample.class_ids[sample.is_object].tolist()}
        if not seen:
            raise ConfigError(f"{data.path}: no picture of {name} has an object: check the labels with the verb check")
        if name == "train":
            missing -= seen
    if missing and process.is_main:
        named = listed([data.names[index] for index in sorted(missing)], _NAMED_AT_MOST)
        log.warning("%s: no training picture has %s: what isn't shown can't be learnt", data.path, named)
    return data


def _draw_labels(data: TrainingData, input_wh: tuple[int, int], folder: RunFolder) -> None:
    """Draws how many objects of each class and size there are, as the verb check does."""
    from calibration.data.histograms import draw_histograms
    from calibration.data.report import CheckReport
    from calibration.data.scan import read_sizes
    from calibration.data.summary import summarise
    from calibration.files import write_whole

    sizes = read_sizes(sample.image for samples in data.splits.values() for sample in samples)
    report = CheckReport(str(data.path), data.names, input_wh, data.findings, summarise(data, sizes, input_wh))
    write_whole(folder.labels_picture, draw_histograms(report, folder.labels_picture.suffix))


def _spec(settings: dict[str, Any], names: Sequence[str]) -> tuple[ModelSpec, str]:
    """Returns the description of the network to train, and the activation of its initial weights."""
    config = settings.get("model_config")
    spec = ModelSpec.from_yaml(config) if config else spec_for(settings["model"])
    if settings.get("input_size"):
        spec = spec.with_input_size(parse_size_wh(settings["input_size"]))
    changes = {"activation": settings["activation"]} if settings.get("activation") else {}
    own = spec.activation
    described = spec.model_dump(mode="json") | changes | {"labels": list(names)}
    return ModelSpec.from_mapping(described, config or settings["model"]), own


def _recipe(settings: dict[str, Any], spec: ModelSpec, pictures: int, *, from_scratch: bool) -> Recipe:
    from calibration.training.recipe import default_recipe, shortened, upstream_recipe

    batch = settings.get("batch")
    if settings["recipe"] == "upstream":
        recipe = upstream_recipe(spec)
        recipe = dataclasses.replace(recipe, batch=batch or recipe.batch)
    else:
        recipe = default_recipe(spec, pictures, from_scratch=from_scratch, batch=batch)
    if settings.get("lr"):
        recipe = dataclasses.replace(recipe, lr=settings["lr"], reference_batch=recipe.batch)
    if recipe.batch % settings["accumulate"]:
        raise ConfigError(f"a batch of {recipe.batch} can't be computed in {settings['accumulate']} equal parts")
    return shortened(recipe, epochs=settings.get("epochs"), steps=settings.get("steps"))


def _job(
    settings: dict[str, Any],
    data: TrainingData,
    spec: ModelSpec,
    recipe: Recipe,
    folder: RunFolder,
    process: Process,
    prepared: Prepared,
) -> Job:
    from calibration.training.job import Job

    return Job(
        spec=spec, recipe=recipe, train=data.splits["train"], val=data.splits["val"], data=data.path, folder=folder,
        seed=int(settings["seed"]), accumulate=int(settings["accumulate"]),
        precision=process.precision(settings["precision"]),
        compiles=bool(settings["compile"]), freezes_backbone=bool(settings["freeze_backbone"]),
        teacher=prepared.teacher, has_new_auxiliary=prepared.network.has_new_auxiliary,
        uses_labels=not settings["no_labels"], budget_s=settings.get("budget"), patience=settings.get("patience"),
        workers=settings.get("workers"),
    )  # fmt: skip


def _out_of_memory(settings: dict[str, Any], data: TrainingData, process: Process) -> str:
    """Returns what to say where a batch doesn't fit in the GPU's memory: which one does."""
    from calibration.training.memory_probe import largest_fitting_batch

    batch, parts = int(settings["batch"]), int(settings["accumulate"])
    at_once = batch // (parts * process.world)
    said = f"the GPU's memory is too small for {counted(at_once, 'picture')} at once (--batch {batch})"
    fitting = largest_fitting_batch(
        _spec(settings, data.names)[0], at_once, process.device, process.precision(settings["precision"])
    )
    if fitting is None:
        return f"{said}, and for a single one: give a smaller --input-size"
    advice = f"--batch {fitting * parts * process.world}"
    more = parts * at_once // fitting
    if batch % (more * process.world) == 0:
        advice = f"--accumulate {more} computes the same batch in parts, or give {advice}"
    return f"{said}: {fitting} fit; {advice}"


def _require_packages() -> None:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    try:
        import faster_coco_eval  # noqa: F401
        import matplotlib  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxsim  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"train needs {error.name}: pip install 'nanodet-streamer[calibration]'") from error
