"""Recognises where a model's outputs hold scores and boxes, and converts them to the normal form in NumPy.

The normal form is (batch, points, channels): points of all strides in order, scores after sigmoid, then box channels
(NanoDet: distributions as logits). Files have one or two outputs, for all or for each stride; channels first or last;
with or without a batch; boxes or scores first; distances as logits, probabilities or integrated, in strides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from streamer.common.errors import ModelError, counted
from streamer.models.families import FAMILIES, Outputs
from streamer.models.graph.shapes import Shape
from streamer.models.graph.trace import Activation, ActivationTracer
from streamer.models.spec import ModelSpec

BoxForm = Literal["logits", "probabilities", "distances", "plain"]
LEAST_PROBABILITY = 1e-6
_BOX_WORDS = ("dis", "reg", "box", "bbox", "loc")
_SCORE_WORDS = ("cls", "class", "score", "conf", "prob")


@dataclass(frozen=True)
class Channels:
    """A range of channels of one output.

    Attributes:
        name: of the output.
        batched: whether its first dimension is the batch.
        last: whether channels are last, or first after the batch.
        start: first channel.
        stop: end of the range, exclusive.
        total: channels of the output.
        rank: number of dimensions of the output.
    """

    name: str
    batched: bool
    last: bool
    start: int
    stop: int
    total: int
    rank: int

    def rows(self, outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Returns the first picture's channels as (points, channels)."""
        values = outputs[self.name][0] if self.batched else outputs[self.name]
        rows = values if self.last else np.moveaxis(values, 0, -1)
        return rows.reshape(-1, self.total)[:, self.start : self.stop].astype(np.float32)


@dataclass(frozen=True)
class Level:
    """Scores and boxes of one stride, or of all; whether scores are after a sigmoid; the form of boxes."""

    scores: Channels
    boxes: Channels
    activated: bool
    form: BoxForm


@dataclass(frozen=True)
class Layout:
    """Where scores and boxes are: a level for each stride in order, or one for all."""

    levels: tuple[Level, ...]
    reg_max: int

    @property
    def is_plain(self) -> bool:
        """Whether the file has the normal form."""
        (level, *others) = self.levels
        scores, boxes = level.scores, level.boxes
        whole = scores.name == boxes.name and scores.batched and scores.last and scores.rank == 3
        return not others and whole and scores.start == 0 and level.activated and level.form in ("logits", "plain")

    def rows(self, outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Returns the first picture's rows, (points, channels), from the file's own outputs by name."""
        levels = []
        for level in self.levels:
            scores: npt.NDArray[np.floating] = level.scores.rows(outputs)
            boxes: npt.NDArray[np.floating] = level.boxes.rows(outputs)
            if not level.activated:
                scores = 1 / (1 + np.exp(-np.clip(scores, -80, 80)))
            if level.form == "distances":
                near = 1 - np.abs(np.clip(boxes, 0, self.reg_max)[:, :, None] - np.arange(self.reg_max + 1))
                boxes = near.reshape(len(boxes), -1)
            if level.form in ("probabilities", "distances"):
                boxes = np.log(np.maximum(boxes, LEAST_PROBABILITY))
            levels.append(np.concatenate([scores, boxes], axis=1))
        return np.concatenate(levels).astype(np.float32)


def read_layout(proto: ModelProto, spec: ModelSpec, shapes: Mapping[str, Shape]) -> tuple[Layout, ModelSpec]:
    """Recognises where the outputs of a graph hold scores and boxes; also returns `spec` completed from the graph.

    `shapes` are those of its tensors for one picture; see `shapes_of`.

    Raises:
        ModelError: the outputs don't fit the description, or are ambiguous; the message continues the file's name.
    """
    names = [value.name for value in proto.graph.output]
    strides = len(spec.strides)
    reader = _Reader(spec, {name: shapes.get(name, ()) for name in names}, ActivationTracer(proto, shapes))
    bins = spec.box_channels
    if len(names) not in (1, 2, strides, 2 * strides):
        counts = f"one output or {2 * strides} (two for each stride)" if strides else "one output or two"
        raise ModelError(f"is not a {FAMILIES[spec.family].word}: wanted {counts}, found {', '.join(names)}")
    for per_stride, kind in _outputs_to_try(proto, spec):
        grids = reader.grids if per_stride else [(spec.num_points,)]
        channels = 4 * (spec.reg_max + 1) if kind == "heads" and FAMILIES[spec.family].bins else 4
        levels = reader.levels(grids, channels) if len(names) in (len(grids), 2 * len(grids)) else None
        if levels is not None:
            return Layout(tuple(levels), spec.reg_max), _described(spec, kind, shapes.get(levels[0].boxes.name, ()))
    if len(names) == 1:
        found = list(shapes.get(names[0], ()))
        raise ModelError(
            f"does not fit its description: wanted an output (batch, {spec.num_points} points, {spec.output_channels} "
            f"channels) for {counted(spec.num_classes, 'label')}, reg_max {spec.reg_max} and input"
            f" {spec.input_size_wh[0]}x{spec.input_size_wh[1]}, found {found}"
        )
    found_all = ", ".join(f"{name} {list(shapes.get(name, ()))}" for name in names)
    wanted = " and ".join(str(prod(grid)) for grid in reader.grids)
    raise ModelError(
        f"does not fit its description: wanted outputs of {wanted} points with {spec.num_classes} and {bins} (or 4) "
        f"channels for strides {', '.join(map(str, spec.strides))}; it has {found_all}"
    )


def _outputs_to_try(proto: ModelProto, spec: ModelSpec) -> Iterator[Outputs]:
    """Yields the output forms of this family that the description allows."""
    family = FAMILIES[spec.family]
    if spec.output != "auto":
        kind: Literal["heads", "boxes"] = "boxes" if spec.output == "boxes" else "heads"
        yield Outputs(False, kind)  # the normal form
        yield from (each for each in family.outputs if each.per_stride and each.kind == kind)
        return
    decodes = any(node.op_type == family.decoding_op for node in proto.graph.node)
    for outputs in family.outputs:
        if not family.decoding_op or outputs.per_stride or decodes == (outputs.kind == "boxes"):
            yield outputs


def _described(spec: ModelSpec, kind: str, shape: Shape) -> ModelSpec:
    """Completes a description from the graph; `shape` is that of an output with boxes."""
    family = FAMILIES[spec.family]
    output = "boxes" if kind == "boxes" else "auto" if family.bins else "heads"
    queries = 0 if family.anchors or len(shape) < 2 else shape[-2]
    return spec.model_copy(update={"output": output, "queries": queries})


class _Reader:
    """Matches outputs with a description."""

    def __init__(self, spec: ModelSpec, shapes: Mapping[str, Shape], tracer: ActivationTracer) -> None:
        width, height = spec.input_size_wh
        self.grids: list[Shape] = [(-(-height // stride), -(-width // stride)) for stride in spec.strides]
        self._spec = spec
        self._shapes = shapes
        self._tracer = tracer

    def levels(self, grids: Sequence[Shape], box_channels: int) -> list[Level] | None:
        """Returns a level for each grid, or None where the outputs don't match."""
        classes = self._spec.score_channels
        joint = len(self._shapes) == len(grids)
        for batched, last in ((True, True), (True, False), (False, True), (False, False)):
            if joint:
                found = self._matching(grids, classes + box_channels, batched, last)
                if found is not None:
                    return [self._joint(name, box_channels, batched, last) for name in found]
                continue
            for batched_too, last_too in ((batched, last), (batched, not last)):
                pairs = self._pairs(grids, box_channels, (batched, last), (batched_too, last_too))
                if pairs is not None:
                    return pairs
        return None

    def _matching(
        self, grids: Sequence[Shape], channels: int, batched: bool, last: bool, without: Sequence[str] = ()
    ) -> list[str] | None:
        """Returns the output of each grid, in the file's order, or None where a grid has none."""
        left = [name for name in self._shapes if name not in without]
        found = []
        for grid in grids:
            name = next((name for name in left if _has_form(self._shapes[name], grid, channels, batched, last)), None)
            if name is None:
                return None
            left.remove(name)
            found.append(name)
        return found

    def _pairs(
        self, grids: Sequence[Shape], box_channels: int, scores_form: tuple[bool, bool], boxes_form: tuple[bool, bool]
    ) -> list[Level] | None:
        classes = self._spec.score_channels
        scores = self._matching(grids, classes, *scores_form)
        boxes = None if scores is None else self._matching(grids, box_channels, *boxes_form, without=scores)
        if scores is None or boxes is None:
            return None
        levels = []
        for name, other in zip(scores, boxes, strict=True):
            pair = (name, other)
            if classes == box_channels and scores_form == boxes_form and not self._is_scores(*pair):
                pair = (other, name)
            parts = [self._channels(name, *form) for name, form in zip(pair, (scores_form, boxes_form), strict=True)]
            of_scores, of_boxes = (set(self._activations(part)) for part in parts)
            if Activation.SIGMOID not in of_scores and self._hides_sigmoid(parts[0]):
                of_scores = {Activation.SIGMOID}
            levels.append(self._level(parts[0], parts[1], of_scores, of_boxes))
        return levels

    def _is_scores(self, name: str, other: str) -> bool:
        """Distinguishes scores from boxes with as many channels by sigmoid, description or name.

        Raises:
            ModelError: they are ambiguous.
        """
        kinds = [
            {kind for axis in (1, -1) for kind in self._tracer.trace(one, axis)} & {Activation.SIGMOID}
            for one in (name, other)
        ]
        if kinds[0] != kinds[1]:
            return bool(kinds[0])
        if self._spec.order != "auto":
            return self._spec.order == "scores-first"
        words = [
            any(word in one.lower() for word in _SCORE_WORDS) - any(word in one.lower() for word in _BOX_WORDS)
            for one in (name, other)
        ]
        if words[0] == words[1]:
            raise ModelError(
                f"doesn't tell scores from boxes: {name!r} and {other!r} have as many channels, and neither alone is "
                "behind a Sigmoid; say order: scores-first or boxes-first in the description"
            )
        return words[0] > words[1]

    def _joint(self, name: str, box_channels: int, batched: bool, last: bool) -> Level:
        classes = self._spec.score_channels
        total = classes + box_channels
        whole = self._channels(name, batched, last)
        kinds = self._activations(whole) or [Activation.NONE] * total
        borders = self._tracer.borders
        scores_first = slice(0, classes), slice(classes, total)
        boxes_first = slice(box_channels, total), slice(0, box_channels)
        if Activation.SIGMOID in kinds:
            orders = [
                (scores, boxes)
                for scores, boxes in (scores_first, boxes_first)
                if set(kinds[scores]) == {Activation.SIGMOID} and Activation.SIGMOID not in kinds[boxes]
            ]
            if not orders and self._spec.order != "auto" and set(kinds) == {Activation.SIGMOID}:
                orders = [scores_first if self._spec.order == "scores-first" else boxes_first]
            if not orders:
                raise ModelError(
                    f"has a Sigmoid before channels of {name!r} that are neither the {classes} scores nor all of them; "
                    "correct the labels and reg_max of the description, or export the file without it"
                )
            order = orders[0]
        elif self._spec.order != "auto":
            order = scores_first if self._spec.order == "scores-first" else boxes_first
        elif classes == box_channels and classes in borders:
            raise ModelError(
                f"doesn't tell scores from boxes: {name!r} has {classes} channels of each, and neither are behind a "
                "Sigmoid; say order: scores-first or boxes-first in the description"
            )
        elif (classes in borders) != (box_channels in borders):
            order = scores_first if classes in borders else boxes_first
        else:
            order = boxes_first if box_channels == 4 else scores_first
        if not self._tracer.certain and self._tracer.meets_sigmoid(name):
            kinds[order[0]] = [Activation.SIGMOID] * classes
        scores, boxes = (Channels(name, batched, last, part.start, part.stop, total, whole.rank) for part in order)
        return self._level(scores, boxes, set(kinds[order[0]]), set(kinds[order[1]]))

    def _level(self, scores: Channels, boxes: Channels, of_scores: set[Activation], of_boxes: set[Activation]) -> Level:
        said = self._spec.scores
        activated = Activation.NONE not in of_scores and bool(of_scores) if said == "auto" else said == "probabilities"
        form: BoxForm = "probabilities" if of_boxes == {Activation.SOFTMAX} else "logits"
        if boxes.stop - boxes.start == 4:
            form = "distances" if self._spec.family.startswith("nanodet") else "plain"
        return Level(scores, boxes, activated, form)

    def _hides_sigmoid(self, channels: Channels) -> bool:
        """Whether scores follow a sigmoid that can't be traced exactly for unknown shapes."""
        self._activations(channels)
        return not self._tracer.certain and self._tracer.meets_sigmoid(channels.name)

    def _channels(self, name: str, batched: bool, last: bool) -> Channels:
        shape = self._shapes[name]
        total = shape[-1] if last else shape[int(batched)]
        return Channels(name, batched, last, 0, total, total, len(shape))

    def _activations(self, channels: Channels) -> list[Activation]:
        return self._tracer.trace(channels.name, -1 if channels.last else int(channels.batched))


def _has_form(shape: Shape, grid: Shape, channels: int, batched: bool, last: bool) -> bool:
    """Whether a shape is (points, channels) in the given order; the points of all strides may be unknown."""
    if batched:
        if not shape or shape[0] not in (0, 1):
            return False
        shape = shape[1:]
    if len(shape) not in (2, 3):
        return False
    spatial, found = (shape[:-1], shape[-1]) if last else (shape[1:], shape[0])
    unknown = len(grid) == len(spatial) == 1 and 0 in (*grid, *spatial)
    return (unknown or spatial in (grid, (prod(grid),))) and found == channels
