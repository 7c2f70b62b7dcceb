"""The accuracy gate: compares a quantised model with its float original on held-out pictures."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from onnx import ModelProto

from calibration.accuracy import Accuracy, coco_accuracy
from calibration.agreement import Agreement, Output, agreement, fidelity
from calibration.bootstrap import Estimate, estimate_drop
from calibration.evaluate import EVALUATION_CONF
from calibration.pictures import Picture
from streamer.common.errors import counted
from streamer.engines import open_engine
from streamer.frames.detections import Detections
from streamer.models.file import ModelFile
from streamer.models.postprocess import Postprocessor

MAX_CHANCE = 0.1
"""Greatest chance that a passed model loses more than the limit."""
_Z = NormalDist().inv_cdf(1 - MAX_CHANCE)  # standard errors between the estimate and the limit at that chance
_MOST_PICTURES = 5000
_WARM_UP = 5
_TIMED = 40


@dataclass(frozen=True)
class Limits:
    """What a quantised model may lose.

    Attributes:
        max_ap_drop: COCO AP x 100, where there are labels.
        min_agreement: `Agreement.score`, where there are none.
    """

    max_ap_drop: float
    min_agreement: float


@dataclass(frozen=True)
class GateResult:
    """The result on one engine.

    Attributes:
        engine: its name.
        pictures: how many it was measured on.
        agreement: with the float model's detections.
        float_accuracy: of the float model in float32; None without labels, as are the next five.
        int8_accuracy: of the quantised model.
        drop: float AP minus quantised AP.
        estimate: the drop estimated with less noise.
        drop_interval: its 95 % interval.
        chance: that the drop exceeds the limit.
        more_pictures: roughly how many more would decide; None also where these do.
        passed: whether it is within the limits.
    """

    engine: str
    pictures: int
    agreement: Agreement
    float_accuracy: Accuracy | None
    int8_accuracy: Accuracy | None
    drop: float | None
    estimate: Estimate | None
    drop_interval: tuple[float, float] | None
    chance: float | None
    more_pictures: int | None
    passed: bool

    def line(self) -> str:
        """Returns the result in words."""
        of = self.agreement
        words = (
            f"agreement {of.score:.3f} (IoU {of.mean_iou:.3f}, score difference {of.mean_score_difference:.3f},"
            f" {of.matched} matched, {of.misses} missed, {of.extras} extra)"
        )
        if self.float_accuracy and self.int8_accuracy and self.estimate and self.drop_interval:
            low, high = self.drop_interval
            words = (
                f"AP {self.float_accuracy.AP:.2f} to {self.int8_accuracy.AP:.2f}, estimated drop"
                f" {self.estimate.value:+.2f} (95 % interval {low:+.2f} to {high:+.2f}, chance of more than the limit"
                f" {self.chance:.0%}), {words}"
            )
        return f"{self.engine}: {words}, {counted(self.pictures, 'picture')}: {self.outcome}"

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        if self.passed:
            return "passed"
        if self.more_pictures is None:
            return "failed"
        return f"can't tell with {counted(self.pictures, 'picture')}: give about {self.more_pictures} more"


class AccuracyGate:
    """Compares quantised forms of one float model with it, on several engines."""

    def __init__(self, original: ModelFile, engines: Sequence[str], limits: Limits, labelled: bool) -> None:
        """Takes the float model, engine names, limits, and whether pictures have labels."""
        self.original = original
        self.engines = tuple(engines)
        self._limits = limits
        self._labelled = labelled
        self._postprocess = Postprocessor(original.spec, EVALUATION_CONF)
        self._float_cache: dict[tuple[str, int], Output] = {}

    def fidelity(self, quantized: ModelProto, pictures: Sequence[Picture], engines: Sequence[str] = ()) -> float:
        """Returns the lowest `fidelity` over `engines` (default all). Unlike AP it is stable on few pictures."""
        return min(
            fidelity(
                self.original.spec, self._float_outputs(engine, pictures), self._infer(quantized, engine, pictures)
            )
            for engine in engines or self.engines
        )

    def evaluate(self, quantized: ModelProto, pictures: Sequence[Picture]) -> list[GateResult]:
        """Returns the result on each engine."""
        return [self._evaluate(quantized, engine, pictures) for engine in self.engines]

    def _evaluate(self, quantized: ModelProto, engine: str, pictures: Sequence[Picture]) -> GateResult:
        before = self._postprocessed(self._float_outputs(engine, pictures), pictures)
        after = self._postprocessed(self._infer(quantized, engine, pictures), pictures)
        compared = agreement(before, after)
        if not self._labelled:
            passed = compared.score >= self._limits.min_agreement
            return GateResult(engine, len(pictures), compared, None, None, None, None, None, None, None, passed)
        float_accuracy, int8_accuracy = self._accuracy(pictures, before), self._accuracy(pictures, after)
        estimate = estimate_drop(pictures, before, after)
        chance = estimate.chance_above(self._limits.max_ap_drop)
        return GateResult(
            engine,
            len(pictures),
            compared,
            float_accuracy,
            int8_accuracy,
            float_accuracy.AP - int8_accuracy.AP,
            estimate,
            estimate.interval(),
            chance,
            more_pictures(estimate, self._limits.max_ap_drop, len(pictures)),
            chance <= MAX_CHANCE,
        )

    def _accuracy(self, pictures: Sequence[Picture], found: Sequence[Detections]) -> Accuracy:
        sized = [(picture.size_wh, detections) for picture, detections in zip(pictures, found, strict=True)]
        return coco_accuracy([picture.sample for picture in pictures], sized, self.original.spec.labels)

    def _postprocessed(self, outputs: Sequence[Output], pictures: Sequence[Picture]) -> list[Detections]:
        return [self._postprocess(output, picture.letterbox) for output, picture in zip(outputs, pictures, strict=True)]

    def _float_outputs(self, engine: str, pictures: Sequence[Picture]) -> list[Output]:
        missing = [picture for picture in pictures if (engine, id(picture)) not in self._float_cache]
        for picture, output in zip(missing, self._infer(self.original.proto, engine, missing), strict=True):
            self._float_cache[engine, id(picture)] = output
        return [self._float_cache[engine, id(picture)] for picture in pictures]

    def _infer(self, proto: ModelProto, engine: str, pictures: Sequence[Picture]) -> list[Output]:
        if not pictures:
            return []
        model = dataclasses.replace(self.original, proto=proto)
        runner = open_engine(engine, model, slots=1, precision="auto" if model.quantized else "f32")
        try:
            outputs = []
            for picture in pictures:
                runner.input(0)[:] = picture.pixels
                runner.start(0)
                outputs.append(runner.wait(0)[0].copy())
            return outputs
        finally:
            runner.close()


def more_pictures(estimate: Estimate, limit: float, count: int) -> int | None:
    """Estimates how many more pictures would decide on which side of `limit` the drop is; None if it is clear.

    The standard error falls with the square root of the number of pictures.
    """
    if not MAX_CHANCE < estimate.chance_above(limit) < 1 - MAX_CHANCE:
        return None
    wanted_error = abs(estimate.value - limit)
    most = float(_MOST_PICTURES)
    wanted = min(count * (_Z * estimate.error / wanted_error) ** 2, most) if wanted_error > 0 else most
    return max(1, math.ceil(wanted) - count)


def latencies_ms(models: dict[str, ModelFile], engine: str, picture: Picture, threads: int) -> dict[str, float]:
    """Returns each model's median latency on one engine, one request in flight, alternating between models."""
    runners = {name: open_engine(engine, model, slots=1, threads=threads) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for turn in range(_WARM_UP + _TIMED):
            for name, runner in runners.items():
                runner.input(0)[:] = picture.pixels
                began = time.perf_counter()
                runner.start(0)
                runner.wait(0)
                if turn >= _WARM_UP:
                    times[name].append((time.perf_counter() - began) * 1e3)
    finally:
        for runner in runners.values():
            runner.close()
    return {name: float(np.median(values)) for name, values in times.items()}
