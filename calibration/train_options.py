"""The options of the verb ``train``: on the command line, in a run's folder, and what a resumed run may change."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from streamer.common.errors import ConfigError
from streamer.common.units import parse_seconds

_LENGTHS = ("epochs", "steps", "budget")
_EXTENDED = (*_LENGTHS, "patience", "workers", "device", "data", "int8", "max_ap_drop")
"""Options that a resumed run may change."""
_MOST_WORKERS = 256
_NOT_KEPT = ("run", "verb", "interrupt", "resume", "runs")
DEFAULTS: dict[str, Any] = {
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
    data.add_argument("--classes", nargs="+", action="extend", metavar="NAME", help="train these classes only")
    data.add_argument("--rename", nargs="+", action="extend", metavar="OLD=NEW", help="other names for classes")
    data.add_argument("--no-labels", action="store_const", const=True, help="imitate the teacher alone")
    length = parser.add_argument_group("length").add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training pictures")
    length.add_argument("--steps", type=_positive, metavar="N", help="batches")
    length.add_argument(
        "--budget",
        type=_duration,
        metavar="TIME",
        help="what fits in this time, such as 20m or 2h; export and INT8 come after it",
    )
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
    how.add_argument("--workers", type=_workers, metavar="N", help="threads that read and augment (one a core)")
    out = parser.add_argument_group("results")
    out.add_argument("--int8", action="store_const", const=True, help="quantise at the end, behind the accuracy gate")
    out.add_argument("--max-ap-drop", type=_ap, metavar="AP", help="what INT8 may lose (0.5)")
    out.add_argument("--runs", type=Path, metavar="DIR", help="where the run's folder train-N goes (runs)")
    out.add_argument("--resume", type=Path, metavar="DIR", help="go on with this run, such as runs/train-1")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, without those that a run's folder doesn't keep."""
    return {name: value for name, value in vars(options).items() if name not in _NOT_KEPT and value is not None}


class _StoredOptions(argparse.ArgumentParser):
    """Parses a run's options as the command line's, but raises where that ends the program."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def checked_options(stored: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns a run's settings, each of the type and in the range that its option has.

    Raises:
        ConfigError: one isn't, or isn't an option.
    """
    parser = _StoredOptions(allow_abbrev=False, add_help=False)
    add_arguments(parser)
    try:
        options = parser.parse_args(_words(stored))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; mend the file or start a new run") from None
    return {name: value for name, value in vars(options).items() if value is not None}


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Returns the command line's words for settings."""
    words: list[str] = []
    for name, value in sorted(settings.items(), key=lambda item: str(item[0])):
        option = f"--{str(name).replace('_', '-')}"
        if isinstance(value, list):
            words += [option, *map(str, value)]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            is_time = name == "budget" and isinstance(value, float)
            words += [option, f"{value:.3f}s" if is_time else str(value)]
    return words


def resumed_options(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's settings with those that may change.

    Raises:
        ConfigError: another one is given with another value.
    """
    for name, value in given.items():
        before = stored.get(name, DEFAULTS.get(name))
        if name not in _EXTENDED and str(value) != str(before):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} was {before} when the run began and can't change to {value}: leave it out, or start a new"
                f" run (a resumed one may change {', '.join(f'--{each}' for each in _EXTENDED).replace('_', '-')})"
            )
    kept = {name: value for name, value in stored.items() if not (name in _LENGTHS and set(_LENGTHS) & set(given))}
    return DEFAULTS | kept | given


def command_of(settings: dict[str, Any]) -> str:
    """Returns the command that trains the same again."""
    changed = {name: value for name, value in settings.items() if value != DEFAULTS.get(name)}
    return shlex.join(["python", "-m", "calibration", "train", *_words(changed)])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a number of 1 or more, got {text!r}")
    return int(text)


def _workers(text: str) -> int:
    if _positive(text) > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"wanted at most {_MOST_WORKERS}, got {text!r}")
    return int(text)


def _ap(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"wanted an AP of 0 to 100, got {text!r}")
    return value


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
