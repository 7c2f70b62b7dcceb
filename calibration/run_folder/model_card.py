"""Writes what a trained model is, in Markdown."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.accuracy import Accuracy
from calibration.files import write_whole
from calibration.labels import Sample
from calibration.run_folder.curves import Curve, DetectionCurves
from calibration.run_folder.folder import RunFolder
from streamer.common.errors import counted, listed

_FEW_OBJECTS = 50
_FEW_PICTURES = 100
_NAMED_AT_MOST = 10


@dataclass(frozen=True)
class SplitCounts:
    """What one split of the data holds.

    Attributes:
        pictures: number of pictures.
        background: those of them without objects.
        objects: number of objects by class, without crowds.
    """

    pictures: int
    background: int
    objects: Mapping[str, int]

    @classmethod
    def of(cls, samples: Sequence[Sample], names: Sequence[str]) -> SplitCounts:
        """Counts the pictures and objects of a split."""
        counts = np.zeros(len(names), np.int64)
        for sample in samples:
            counts += np.bincount(sample.class_ids[sample.is_object], minlength=len(names))
        background = sum(not len(sample.class_ids) for sample in samples)
        return cls(len(samples), background, dict(zip(names, counts.tolist(), strict=True)))


@dataclass(frozen=True)
class MeasuredAccuracy:
    """Accuracy on one split.

    Attributes:
        accuracy: COCO metrics x 100.
        interval: 95 % interval of AP x 100; None where it wasn't computed.
    """

    accuracy: Accuracy
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Speed:
    """Measured speed of one model.

    Attributes:
        model: ``float`` or ``INT8``.
        engine: what it ran on.
        images_per_s: throughput; None where it wasn't measured.
        latency_ms: median of one picture; None where it wasn't measured.
    """

    model: str
    engine: str
    images_per_s: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """The facts about a trained model; what is None or empty is left out of the card.

    Attributes:
        folder: of the run.
        names: the classes by class id.
        network: the network's name, such as ``nanodet-g_416``.
        activation: such as ``ReLU``.
        input_size_wh: width and height of the network's input in pixels.
        data: the description of the data, such as ``data.yaml``.
        splits: counts by split, such as ``train``.
        measured_on: the split of the figures.
        command: the command that trained the model, without secrets.
        initial_weights: where the first weights are from, and which of them are new.
        recipe: name and main settings.
        seed: of all random numbers.
        epochs: epochs done.
        steps: optimiser steps done.
        batch: pictures in a step.
        time_s: of the training.
        machine: processor and GPU of the training.
        float_accuracy: of the float model.
        int8_accuracy: of the INT8 model; with it the command to stream takes ``best_int8.onnx``.
        curves: precision and recall by confidence of the model that streams.
        confused: (labelled class, detected class, count), the most first.
        speeds: measured speeds.
        speed_machine: what they were measured on.
        limits: further limits, a sentence each.
        licences: notes on licences of weights and data, a sentence each.
        versions: of packages.
    """

    folder: RunFolder
    names: tuple[str, ...]
    network: str
    activation: str
    input_size_wh: tuple[int, int]
    data: str
    splits: Mapping[str, SplitCounts]
    measured_on: str
    command: str
    initial_weights: str | None = None
    recipe: str | None = None
    seed: int | None = None
    epochs: int | None = None
    steps: int | None = None
    batch: int | None = None
    time_s: float | None = None
    machine: str | None = None
    float_accuracy: MeasuredAccuracy | None = None
    int8_accuracy: MeasuredAccuracy | None = None
    curves: DetectionCurves | None = None
    confused: tuple[tuple[str, str, int], ...] = ()
    speeds: tuple[Speed, ...] = ()
    speed_machine: str | None = None
    limits: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Writes the card into the folder of the run; raises ConfigError if that fails."""
        write_whole(self.folder.model_card, self.to_markdown().encode())

    def to_markdown(self) -> str:
        """Returns the card."""
        sections = (
            self._summary(),
            self._use(),
            self._accuracy(),
            self._by_class(),
            self._speed(),
            self._data(),
            self._training(),
            self._limits(),
            self._reproduction(),
        )
        return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"

    @property
    def stream_command(self) -> str:
        """The command that runs the model on the first camera, with the best threshold where one is known."""
        model = self.folder.best_int8_onnx if self.int8_accuracy else self.folder.best_onnx
        best = self.curves.overall.best if self.curves else None
        conf = f" --conf {best.threshold:g}" if best else ""
        return f"python run_stream.py --model {shlex.quote(model.as_posix())} --source 0{conf}"

    def _summary(self) -> list[str]:
        names = listed([_text(name) for name in self.names], 20)
        width, height = self.input_size_wh
        return [
            f"# {_text(self.folder.path.name)}: {_text(self.network)}",
            "",
            f"Detects {counted(len(self.names), 'class')}: {names}.",
            "",
            f"Network {_text(self.network)} with {_text(self.activation)}, input {width} x {height} pixels.",
        ]

    def _use(self) -> list[str]:
        lines = ["## Use", "", "```", self.stream_command, "```"]
        if not self.curves:
            return lines
        wanted = self.curves.wanted_precision
        lines += ["", "| threshold | | precision | recall | F1 |", "|---|---|---|---|---|"]
        for point, why in (
            (self.curves.overall.best, "best F1"),
            (self.curves.overall.at_precision(wanted), f"precision {wanted:g}"),
        ):
            if point is None:
                lines.append(f"| - | {why}: not reached | | | |")
            else:
                figures = f"{point.precision:.2f} | {point.recall:.2f} | {point.f1:.2f}"
                lines.append(f"| {point.threshold:g} | {why} | {figures} |")
        lines += ["", f"At IoU 0.5, all classes together, measured on {counted(self.curves.pictures, 'picture')}."]
        return lines

    def _accuracy(self) -> list[str]:
        measured = (("float", self.float_accuracy), ("INT8", self.int8_accuracy))
        if not any(accuracy for _, accuracy in measured):
            return []
        split = self.splits.get(self.measured_on)
        pictures = f", {counted(split.pictures, 'picture')}" if split else ""
        lines = [
            "## Accuracy",
            "",
            f"COCO metrics x 100 on the split `{self.measured_on}`{pictures}.",
            "",
            "| model | AP | AP 95 % interval | AP50 | AP75 | small | medium | large |",
            "|---" * 8 + "|",
        ]
        for name, each in measured:
            if each is None:
                continue
            values = each.accuracy
            interval = f"{each.interval[0]:.1f} to {each.interval[1]:.1f}" if each.interval else "-"
            others = (values.AP50, values.AP75, values.APs, values.APm, values.APl)
            lines.append(f"| {name} | {_figure(values.AP)} | {interval} | {' | '.join(map(_figure, others))} |")
        lines += ["", "small: under 32 x 32 pixels; medium: under 96 x 96; -: no such objects, or not measured."]
        return lines

    def _by_class(self) -> list[str]:
        curves = {curve.name: curve for curve in self.curves.classes} if self.curves else {}
        accuracy = self.int8_accuracy or self.float_accuracy
        classes = accuracy.accuracy.classes if accuracy else {}
        if not curves and not classes:
            return []
        wanted = self.curves.wanted_precision if self.curves else 0.0
        which = "INT8" if self.int8_accuracy else "float"
        titles = ["class", "objects", f"AP ({which})", "AP50"]
        if curves:
            titles += ["best threshold", "F1 there", f"threshold for precision {wanted:g}"]
        lines = ["## By class", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for name in self.names:
            known, curve = classes.get(name), curves.get(name)
            objects = curve.objects if curve else known.objects if known else 0
            ap50 = known.AP50 if known else curve.AP50 if curve else math.nan
            cells = [_text(name), str(objects), _figure(known.AP) if known else "-", _figure(ap50)]
            lines.append(f"| {' | '.join(cells + (_thresholds(curve, wanted) if curve else []))} |")
        if self.confused:
            pairs = ", ".join(f"{_text(a)} as {_text(b)} ({count})" for a, b, count in self.confused)
            lines += ["", f"Most often confused: {pairs}."]
        return lines

    def _speed(self) -> list[str]:
        if not self.speeds:
            return []
        where = f"Measured on {_text(self.speed_machine)}." if self.speed_machine else ""
        lines = ["## Speed", "", *([where, ""] if where else [])]
        lines += ["| model | engine | images/s | latency of one picture, ms |", "|---|---|---|---|"]
        for each in self.speeds:
            rate = "-" if each.images_per_s is None else f"{each.images_per_s:.1f}"
            latency = "-" if each.latency_ms is None else f"{each.latency_ms:.2f}"
            lines.append(f"| {_text(each.model)} | {_text(each.engine)} | {rate} | {latency} |")
        return lines

    def _data(self) -> list[str]:
        splits = list(self.splits.items())
        lines = ["## Data", "", f"`{self.data}`", "", f"| | {' | '.join(f'`{name}`' for name, _ in splits)} |"]
        lines.append("|---" * (len(splits) + 1) + "|")
        lines.append(f"| pictures | {' | '.join(str(split.pictures) for _, split in splits)} |")
        lines.append(f"| of them without objects | {' | '.join(str(split.background) for _, split in splits)} |")
        for name in self.names:
            counts = " | ".join(str(split.objects.get(name, 0)) for _, split in splits)
            lines.append(f"| {_text(name)} | {counts} |")
        return lines

    def _training(self) -> list[str]:
        facts = (
            ("initial weights", self.initial_weights),
            ("recipe", self.recipe),
            ("seed", self.seed),
            ("epochs", self.epochs),
            ("steps", self.steps),
            ("batch", self.batch),
            ("time", None if self.time_s is None else _duration(self.time_s)),
            ("machine", self.machine),
        )
        known = [f"- {name}: {_text(str(value))}" for name, value in facts if value is not None]
        return ["## Training", "", *known] if known else []

    def _limits(self) -> list[str]:
        lines = [f"- {_text(text)}" for text in (*self._limits_of_data(), *self.limits)]
        licences = [f"- {_text(text)}" for text in self.licences]
        if not licences:
            licences = ["- Licences of the initial weights and of the pictures aren't recorded here and may limit use."]
        return [*(["## Limits", "", *lines, ""] if lines else []), "## Licences", "", *licences]

    def _limits_of_data(self) -> list[str]:
        """Returns what the counts say about the figures' worth."""
        limits = []
        train, measured = self.splits.get("train"), self.splits.get(self.measured_on)
        if train:
            for text, names in (
                ("No object to learn from", [n for n in self.names if not train.objects.get(n, 0)]),
                (
                    f"Fewer than {_FEW_OBJECTS} objects to learn from",
                    [n for n in self.names if 0 < train.objects.get(n, 0) < _FEW_OBJECTS],
                ),
            ):
                if names:
                    limits.append(f"{text}: {listed(names, _NAMED_AT_MOST)}.")
        if measured:
            missing = [name for name in self.names if not measured.objects.get(name, 0)]
            if missing:
                limits.append(f"No object in `{self.measured_on}`, so not measured: {listed(missing, _NAMED_AT_MOST)}.")
            if measured.pictures < _FEW_PICTURES:
                pictures = counted(measured.pictures, "picture")
                limits.append(f"Measured on {pictures}: with so few, AP differs by several points between sets.")
        return limits

    def _reproduction(self) -> list[str]:
        lines = ["## Reproduce", "", "```", self.command, "```"]
        if self.versions:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
            lines += ["", f"Versions: {_text(versions)}."]
        return lines


def _thresholds(curve: Curve, wanted: float) -> list[str]:
    best, reached = curve.best, curve.at_precision(wanted)
    return [
        f"{best.threshold:g}" if best else "-",
        f"{best.f1:.2f}" if best else "-",
        f"{reached.threshold:g}" if reached else "not reached" if curve.objects else "-",
    ]


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _text(text: str) -> str:
    """Returns text as one line that can't break a table or turn into HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
