"""Makes and opens the folder of a training run."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from calibration.files import write_whole
from streamer.common.errors import ConfigError, short

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one training run's files; making one touches no file.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def args(self) -> Path:
        """The settings of the run."""
        return self.path / "args.yaml"

    @property
    def results(self) -> Path:
        """The table of results, a row an epoch."""
        return self.path / "results.csv"

    @property
    def results_picture(self) -> Path:
        """The table of results, drawn."""
        return self.path / "results.png"

    @property
    def labels_picture(self) -> Path:
        """How many objects of each class and size the data has, drawn."""
        return self.path / "labels.png"

    @property
    def beginning(self) -> Path:
        """The initial weights and the teacher, which `--resume` needs."""
        return self.path / "initial.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The latest state, from which the run is resumed."""
        return self.path / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The weights with the greatest AP on the validation pictures."""
        return self.path / "best.ckpt"

    @property
    def best_onnx(self) -> Path:
        """The best weights as a float model."""
        return self.path / "best.onnx"

    @property
    def best_int8_onnx(self) -> Path:
        """The best weights as an INT8 model."""
        return self.path / "best_int8.onnx"

    @property
    def curves(self) -> Path:
        """Precision and recall by confidence, as JSON."""
        return self.path / "curves.json"

    @property
    def precision_recall_picture(self) -> Path:
        """Precision by recall, drawn."""
        return self.path / "PR.png"

    @property
    def confidence_picture(self) -> Path:
        """Precision, recall and F1 by confidence, drawn."""
        return self.path / "confidence.png"

    @property
    def confusion_picture(self) -> Path:
        """The confusion matrix in numbers of objects, drawn."""
        return self.path / "confusion.png"

    @property
    def normalised_confusion_picture(self) -> Path:
        """The confusion matrix in shares of each class, drawn."""
        return self.path / "confusion_normalised.png"

    @property
    def model_card(self) -> Path:
        """What the model is, in Markdown."""
        return self.path / "model_card.md"

    @property
    def events(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    def training_picture(self, number: int) -> Path:
        """The augmented training batch `number`, drawn."""
        return self.path / f"train_batch_{number}.jpg"

    def validation_picture(self, number: int) -> Path:
        """The validation pictures `number`, drawn with labels and detections."""
        return self.path / f"val_batch_{number}.jpg"

    def write_args(self, args: Mapping[str, Any]) -> None:
        """Writes the settings, sorted by name.

        Args:
            args: None, booleans, numbers, text, paths, and lists, tuples and mappings of these. Paths are written as
                text and tuples as lists; all else reads back exactly.

        Raises:
            ConfigError: the file can't be written.
        """
        text = yaml.dump(_plain(args), Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=10_000)
        write_whole(self.args, text.encode())

    def read_args(self) -> dict[str, Any]:
        """Returns the settings that `write_args` wrote.

        Raises:
            ConfigError: the file can't be read or holds no settings.
        """
        try:
            found = yaml.safe_load(self.args.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(
                f"{self.args}: can't read the settings of the run ({error.strerror or error}); "
                "give the folder of a training run, such as runs/train-1"
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}" if mark else short(str(error))
            raise ConfigError(f"{self.args}: isn't YAML ({where}); mend the file or start a new run") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self.args}: should hold keys and values; mend the file or start a new run")
        return found


def new_run_folder(base: Path | str = "runs", name: str = "train") -> RunFolder:
    """Creates ``base/name-N`` with the number after the greatest there is, also while other runs do the same.

    Raises:
        ConfigError: the name isn't a plain one, or the folder can't be made.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ConfigError(f"wanted a plain name for the run, such as 'train', got {short(name)}")
    base = Path(base)
    numbered = re.compile(rf"{re.escape(name)}-([0-9]{{1,9}})")
    try:
        base.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for each in base.iterdir() if (match := numbered.fullmatch(each.name))]
        number = max(taken, default=0) + 1
        while True:
            path = base / f"{name}-{number}"
            try:
                path.mkdir()
                return RunFolder(path)
            except FileExistsError:
                number += 1
    except OSError as error:
        raise ConfigError(f"{base}: can't make the folder of the run: {reason_and_remedy(error)}") from error


def open_run_folder(path: Path) -> RunFolder:
    """Returns the folder of a run that is there.

    Raises:
        ConfigError: there is no such folder, or it holds no ``args.yaml``.
    """
    folder = RunFolder(path)
    if not folder.args.is_file():
        what = "holds no args.yaml" if path.is_dir() else "no such folder"
        raise ConfigError(f"{path}: {what}; give the folder of a training run, such as runs/train-1")
    return folder


def reason_and_remedy(error: OSError) -> str:
    """Returns why a file can't be written, and what helps."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}; free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; choose a folder that you may write to"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{reason}; a file has this name: move it or choose another folder"
    return reason


class _Dumper(yaml.SafeDumper):
    """Writes text with unprintable characters in double quotes: PyYAML reads others' next-line characters as spaces."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
