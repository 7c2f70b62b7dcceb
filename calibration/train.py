"""`python -m calibration train`: fine-tunes or trains a network on labelled pictures, to ONNX and INT8."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.common.errors import ConfigError
from streamer.common.terminal import say
from streamer.common.units import parse_seconds
from streamer.models.spec import ModelSpec, parse_size_wh, spec_for

if TYPE_CHECKING:
    from calibration.data import TrainingData
    from calibration.run_folder.folder import RunFolder
    from calibration.training.job import Job
    from calibration.training.preparation import Prepared
    from calibration.training.process import Process
    from calibration.training.recipe import Recipe
    from streamer.common.interrupt import Interrupt

log = logging.getLogger(__name__)

_LENGTHS = ("epochs", "steps", "budget")
_EXTENDED = (*_LENGTHS, "patience", "workers", "device", "int8", "max_ap_drop")
"""Options that a resumed run may change."""
_NOT_KEPT = ("run", "verb", "interrupt", "resume", "runs")
_DEFAULTS: dict[str, Any] = {
    "init": "auto", "recipe": "default", "seed": 0, "accumulate": 1, "device": "auto", "precision": "auto",
    "compile": False, "freeze_backbone": False, "teacher": "auto", "no_labels": False, "int8": False,
    "max_ap_drop": 0.5, "runs": Path("runs"),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``train``; those that aren't given are None, so that a resumed run can tell."""
    model = parser.add_argument_group("network and weights")
    model.add_argument("--model", metavar="NAME", help="<network>_<size>, such as nanodet-g_416")
    model.add_argument("--model-config", type=Path, metavar="YAML", help="description of a network of your own")
    model.add_argument("--init", metavar="auto|none|FILE", help="initial weights: the packaged ones, random, or a file")
    model.add_argument("--activation", metavar="NAME", help="such as ReLU, instead of the network's own")
    model.add_argument("--input-size", metavar="W[xH]", help="network input in pixels, instead of the name's")
    model.add_argument("--freeze-backbone", action="store_const", const=True, help="train neck and head only")
    model.add_argument(
        "--teacher", choices=("auto", "yes", "no"),
        help="imitate the initial network too; auto: where its activation is exchanged and its classes are the same",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="data.yaml", help="pictures and labels; see the verb check")
    data.add_argument("--classes", nargs="+", metavar="NAME", help="train these classes only")
    data.add_argument("--rename", nargs="+", metavar="OLD=NEW", help="other names for classes")
    data.add_argument("--no-labels", action="store_const", const=True, help="imitate the teacher alone")
    length = parser.add_argument_group("length").add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training pictures")
    length.add_argument("--steps", type=_positive, metavar="N", help="batches")
    length.add_argument("--budget", type=_duration, metavar="TIME", help="what fits in this time, such as 20m or 2h")
    how = parser.add_argument_group("training")
    how.add_argument("--recipe", choices=("default", "upstream"), help="upstream: the published configuration")
    how.add_argument("--batch", type=_positive, metavar="N", help="pictures a step, over all GPUs")
    how.add_argument("--accumulate", type=_positive, metavar="N", help="compute a step's pictures in N parts")
    how.add_argument("--lr", type=_rate, metavar="X", help="learning rate at this batch")
    how.add_argument("--patience", type=_positive, metavar="N", help="end after N validations without a better AP")
    how.add_argument("--seed", type=_seed, metavar="N", help="of weights, order and augmentation (0)")
    how.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N; several GPUs: see torchrun")
    how.add_argument("--precision", choices=("auto", "f32", "bf16"), help="auto: bf16 where GPU or CPU have it")
    how.add_argument("--compile", action="store_const", const=True, help="compile the network: a minute, then faster")
    how.add_argument("--workers", type=_positive, metavar="N", help="threads that read and augment (one a core)")
    out = parser.add_argument_group("results")
    out.add_argument("--int8", action="store_const", const=True, help="quantise at the end, behind the accuracy gate")
    out.add_argument("--max-ap-drop", type=float, metavar="AP", help="what INT8 may lose (0.5)")
    out.add_argument("--runs", type=Path, metavar="DIR", help="where the run's folder train-N goes (runs)")
    out.add_argument("--resume", type=Path, metavar="DIR", help="go on with this run, such as runs/train-1")


def run(options: argparse.Namespace) -> int:
    """Trains, and writes the run's folder.

    Raises:
        StreamerError: an option, the data or a file is wrong, or the training diverges.
    """
    _require_packages()
    import torch

    from calibration.run_folder.folder import open_run_folder
    from calibration.training.process import joined_process

    given = _given(options)
    folder = None if options.resume is None else open_run_folder(options.resume)
    settings = _DEFAULTS | given if folder is None else _resumed(folder.read_args(), given)
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
    from calibration.training.display import Display
    from calibration.training.finish import Told, finish, machine_line
    from calibration.training.loop import Training
    from calibration.training.preparation import activation_of, find_source, prepare
    from calibration.training.teacher_labels import with_labels
    from calibration.training.validation import Validator

    interrupt: Interrupt | None = options.interrupt

    source = find_source(_spec(settings, data.names)[0], str(settings["init"]))
    if source is not None and not settings.get("activation"):
        settings["activation"] = activation_of(source)
    spec, teacher_activation = _spec(settings, data.names)
    recipe = _recipe(settings, spec, len(data.splits["train"]), from_scratch=source is None)
    settings["batch"] = recipe.batch
    teaches = {"auto": None, "yes": True, "no": False}[settings["teacher"]]
    prepared = prepare(
        spec, source, data.splits["train"], process.device, seed=int(settings["seed"]), teaches=teaches,
        teacher_activation=teacher_activation,
    )  # fmt: skip
    if settings["no_labels"] and prepared.teacher is None:
        raise ConfigError(
            "--no-labels needs a teacher, an initial network that knows all classes of the data: give --teacher yes with"
            " such weights, and another --activation where that is to be exchanged"
        )
    said = list(prepared.done)
    if settings["no_labels"] and prepared.teacher is not None:
        data, found = with_labels(data, prepared.teacher, spec, process.device)
        said += found
    if folder is None:
        base = options.runs or _DEFAULTS["runs"]
        folder = new_run_folder(base) if process.is_main else RunFolder(base)
    job = _job(settings, data, spec, recipe, folder, process, prepared)
    validator = Validator(job.val, spec, data.path) if process.is_main else None
    training = Training(job, process, prepared.network, validator)
    if options.resume is not None:
        training.resume()
    if interrupt is not None:
        interrupt.defer()
    if process.is_main:
        if options.resume is not None:
            said = [f"resumed after step {training.state.step} with --{name.replace('_', '-')} {given}" for name, given
                    in _given(options).items()] or [f"resumed after step {training.state.step}"]  # fmt: skip
        for sentence in (*said, recipe.line(job.budget_s), f"{folder.path}: on {process.describe()}"):
            say(sentence)
        folder.write_args({name: value for name, value in settings.items() if value is not None})
    if not process.is_main:
        training.run(interrupt)
        return 0
    with (
        EventWriter(folder.events, first_step=training.state.step) as events,
        Display(job, training.length, events=events) as display,
    ):
        outcome = training.run(interrupt, display.on_step, display.on_row, display.on_batch)
    if outcome.was_interrupted:
        say(f"stopped after step {outcome.state.step}; go on with: python -m calibration train --resume {folder.path}")
        return 0
    say(
        f"{outcome.state.step} steps, {outcome.state.elapsed_s:.0f} s, {outcome.images_per_s:.0f} images/s, waiting for"
        f" pictures {outcome.wait_share:.1%} of the time; best AP {outcome.state.best_ap:.2f} at step"
        f" {outcome.state.best_step}"
    )
    if outcome.unreadable:
        log.warning("%d of %d training pictures can't be read and were skipped", outcome.unreadable, len(job.train))
    splits = {name: samples for name, samples in data.splits.items() if samples}
    told = Told(_command(settings), "; ".join(prepared.done), machine_line(process.describe()))
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


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, without those that a run's folder doesn't keep."""
    return {name: value for name, value in vars(options).items() if name not in _NOT_KEPT and value is not None}


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
            raise ConfigError(f"{data.path}: the split {name!r} is empty: training needs pictures in train and val")
    if settings["no_labels"]:
        return data
    missing = set(range(len(data.names)))
    for name, samples in (("train", train), ("val", val)):
        seen = {
            index for sample in samples for index in set(sample.class_ids.tolist()) if sample.objects_of(index).any()
        }
        if not seen:
            raise ConfigError(f"{data.path}: no picture of {name} has an object: check the labels with the verb check")
        if name == "train":
            missing -= seen
    if missing and process.is_main:
        named = ", ".join(data.names[index] for index in sorted(missing))
        log.warning("%s: no training picture has %s: what isn't shown can't be learnt", data.path, named)
    return data


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
        teacher=prepared.teacher, has_new_auxiliary=prepared.has_new_auxiliary,
        uses_labels=not settings["no_labels"], budget_s=settings.get("budget"), patience=settings.get("patience"),
        workers=settings.get("workers"),
    )  # fmt: skip


def _resumed(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's settings with those that may change.

    Raises:
        ConfigError: another one is given with another value.
    """
    for name, value in given.items():
        before = stored.get(name, _DEFAULTS.get(name))
        if name not in _EXTENDED and str(value) != str(before):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} was {before} when the run began and can't change to {value}: leave it out or start anew"
                f" (a resumed one may change {', '.join(f'--{each}' for each in _EXTENDED).replace('_', '-')})"
            )
    kept = {name: value for name, value in stored.items() if not (name in _LENGTHS and set(_LENGTHS) & set(given))}
    return _DEFAULTS | kept | given


def _out_of_memory(settings: dict[str, Any], data: TrainingData, process: Process) -> str:
    """Returns what to say where a batch doesn't fit in the GPU's memory: which one does."""
    from calibration.training.memory_probe import largest_fitting_batch

    batch, parts = int(settings["batch"]), int(settings["accumulate"])
    at_once = batch // (parts * process.world)
    said = f"the GPU's memory is too small for {at_once} pictures at once (--batch {batch})"
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


def _command(settings: dict[str, Any]) -> str:
    """Returns the command that trains the same again."""
    words = ["python", "-m", "calibration", "train"]
    for name, value in sorted(settings.items()):
        if value is None or value is False or value == _DEFAULTS.get(name):
            continue
        option = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [f"{value:.3f}s" if name == "budget" else value]
        words += [option] if value is True else [option, *map(str, values)]
    return shlex.join(words)


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


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a number of 1 or more, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"wanted a number of 0 or more, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10:
        raise argparse.ArgumentTypeError(f"wanted a learning rate such as 0.001, got {text!r}")
    return value


def _duration(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
