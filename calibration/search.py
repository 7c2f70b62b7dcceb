"""Searches for a quantised form of a model that passes the accuracy gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnx import ModelProto
from tqdm import tqdm

from calibration.gate import AccuracyGate, GateResult
from calibration.methods import (
    METHODS,
    Quantizer,
    quantized_layers,
    read_output_ranges,
    write_output_ranges,
)
from calibration.pictures import DatasetSplit
from calibration.report import Trial
from streamer.common.errors import ConfigError, ModelError

_LOG = logging.getLogger(__name__)
_SEARCH_PICTURES = 8
_MAX_FLOAT_SHARE = 0.5
_ROUNDS_OUTPUTS = "onnxruntime"
_COSTLY_ROUNDING = 0.005
"""Gain of fidelity from which a convolution's output isn't rounded."""


@dataclass(frozen=True)
class Candidate:
    """A quantised graph and its trial."""

    proto: ModelProto
    trial: Trial


class Search:
    """Searches for the method and the layers to leave in float."""

    def __init__(
        self, quantizer: Quantizer, gate: AccuracyGate, pictures: DatasetSplit, deadline: float, *, distills: bool
    ) -> None:
        self.trials: list[Trial] = []
        self.quantizer = quantizer
        self._gate = gate
        self._pictures = pictures
        self._deadline = deadline
        self._distills = distills

    def run(self, methods: Sequence[str]) -> tuple[Candidate, list[GateResult]]:
        """Returns the best candidate and its results: the first that passes, or the best of those that failed."""
        best = self._without_costly_outputs(self._best_method(methods))
        results = self._evaluated(best)
        if all(result.passed for result in results):
            return best, results
        tuned = self._tuned(best) if self._distills else None
        if tuned is not None:
            best, results = tuned, self._evaluated(tuned)
            if all(result.passed for result in results):
                return best, results
        base = best
        order = self._costliest_first(base)
        most = int(_MAX_FLOAT_SHARE * len(order))
        count = min(1, most)
        while time.monotonic() < self._deadline:
            best = self._in_float(base, tuple(order[:count]))
            results = self._evaluated(best)
            if count == most or all(result.passed for result in results):
                break
            count = min(2 * count, most)
        return best, results

    def _without_costly_outputs(self, candidate: Candidate) -> Candidate:
        """Drops the ranges of outputs whose rounding is costly on ONNX Runtime, the only engine that rounds there."""
        if _ROUNDS_OUTPUTS not in self._gate.engines:
            return candidate
        pictures = self._pictures.validation[:_SEARCH_PICTURES]
        ranges = read_output_ranges(candidate.proto)
        changed = ModelProto()
        changed.CopyFrom(candidate.proto)

        def fidelity(kept: Collection[str]) -> float:
            write_output_ranges(changed, {name: limits for name, limits in ranges.items() if name in kept})
            return self._gate.fidelity(changed, pictures, [_ROUNDS_OUTPUTS])

        with_all = fidelity(ranges)
        for name in tqdm(ranges, desc="roundings", unit=" rounding", disable=None):
            if time.monotonic() > self._deadline:
                break
            if fidelity(ranges.keys() - {name}) - with_all > _COSTLY_ROUNDING:
                self.quantizer.unrounded.add(name)
        if not self.quantizer.unrounded:
            return candidate
        return self._try(candidate.trial.method, candidate.trial.float_layers)

    def _tuned(self, candidate: Candidate) -> Candidate | None:
        """Returns the candidate after distillation, if better."""
        pictures = [picture.pixels for picture in self._pictures.calibration]
        try:
            proto = self.quantizer.tune(candidate.proto, self._gate.original.spec, pictures)
        except (ImportError, ModelError) as error:
            _LOG.info("not distilled: %s", error)
            return None
        tuned = self._measured(proto, f"{candidate.trial.method}+distill", ())
        return tuned if tuned.trial.fidelity > candidate.trial.fidelity else None

    def _in_float(self, base: Candidate, float_layers: tuple[str, ...]) -> Candidate:
        """Returns a candidate with some layers in float: placed by its method, or taken from the trained graph."""
        if base.trial.method in METHODS:
            return self._try(base.trial.method, float_layers)
        return self._measured(self.quantizer.in_float(base.proto, float_layers), base.trial.method, float_layers)

    def _evaluated(self, candidate: Candidate) -> list[GateResult]:
        results = self._gate.evaluate(candidate.proto, self._pictures.gate)
        for result in results:
            _LOG.info("%s", result.line())
        return results

    def _best_method(self, methods: Sequence[str]) -> Candidate:
        best: Candidate | None = None
        for method in tqdm(methods, desc="methods", unit=" method", disable=None):
            if best is not None and time.monotonic() > self._deadline:
                break
            tried = self._try(method, ())
            if best is None or tried.trial.fidelity > best.trial.fidelity:
                best = tried
        if best is None:
            raise ConfigError("no method was given")
        return best

    def _try(self, method: str, float_layers: tuple[str, ...]) -> Candidate:
        return self._measured(self.quantizer.quantize(method, float_layers), method, float_layers)

    def _measured(self, proto: ModelProto, method: str, float_layers: tuple[str, ...]) -> Candidate:
        trial = Trial(method, float_layers, self._gate.fidelity(proto, self._pictures.validation))
        self.trials.append(trial)
        _LOG.info("%s", trial.line())
        return Candidate(proto, trial)

    def _costliest_first(self, candidate: Candidate) -> list[str]:
        """Returns the quantised layers by fidelity with only that one in float, the best first."""
        pictures = self._pictures.validation[:_SEARCH_PICTURES]
        engine = min(self._gate.engines, key=lambda name: self._gate.fidelity(candidate.proto, pictures, [name]))
        layers = quantized_layers(candidate.proto, self.quantizer.layers)
        found: dict[str, float] = {}
        for layer in tqdm(layers, desc="layers", unit=" layer", disable=None):
            if time.monotonic() > self._deadline:
                break
            changed = self.quantizer.in_float(candidate.proto, (layer,))
            found[layer] = self._gate.fidelity(changed, pictures, [engine])
        return sorted(found, key=lambda layer: -found[layer])
