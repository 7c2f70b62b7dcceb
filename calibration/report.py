"""The report of quantising, as JSON and Markdown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from calibration.files import to_json
from calibration.gate import GateResult
from streamer.common.errors import counted

_JSON_KEYS = {"results": "verdicts"}  # as in reports since version 1


@dataclass(frozen=True)
class Trial:
    """One candidate: its method, the layers left in float, and its `fidelity` on the validation pictures."""

    method: str
    float_layers: tuple[str, ...]
    fidelity: float

    def line(self) -> str:
        """Returns the trial in words."""
        floats = f", {counted(len(self.float_layers), 'layer')} in float" if self.float_layers else ""
        return f"{self.method}{floats}: fidelity {self.fidelity:.4f}"


@dataclass(frozen=True)
class QuantizationReport:
    """The report about one INT8 file.

    Attributes:
        model: name of the network.
        float_sha256: of the float file.
        int8_sha256: of the INT8 file.
        float_bytes: size of the float file.
        int8_bytes: size of the INT8 file.
        method: the best one.
        float_layers: convolutions left in float, costliest first.
        quantized_layers: number of INT8 convolutions.
        calibration_sha256: of the calibration pictures' names and contents.
        pictures: number for each purpose.
        unreadable: skipped files.
        trials: all candidates in order.
        results: the gate's, one an engine.
        latency_ms: median by engine, threads and model (``float`` at precision auto, ``int8``).
        machine: the processor.
        versions: of packages.
    """

    model: str
    float_sha256: str
    int8_sha256: str
    float_bytes: int
    int8_bytes: int
    method: str
    float_layers: tuple[str, ...]
    quantized_layers: int
    calibration_sha256: str
    pictures: dict[str, int]
    unreadable: tuple[str, ...]
    trials: tuple[Trial, ...]
    results: tuple[GateResult, ...]
    latency_ms: dict[str, dict[str, dict[str, float]]]
    machine: str
    versions: dict[str, str]

    def to_json(self) -> str:
        """Returns indented JSON with null for NaN."""
        content = {_JSON_KEYS.get(key, key): value for key, value in asdict(self).items()}
        for result, entry in zip(self.results, content["verdicts"], strict=True):
            entry["agreement"]["score"] = result.agreement.score
        return to_json(content, indent=2) + "\n"

    def to_markdown(self) -> str:
        """Returns a page with tables of accuracy and latency."""
        lines = [
            f"# {self.model}, INT8",
            "",
            f"{self.int8_bytes / 1e6:.2f} MB (float {self.float_bytes / 1e6:.2f} MB), method {self.method},"
            f" {counted(self.quantized_layers, 'convolution')} in INT8, {len(self.float_layers)} left in float"
            f"{': ' + ', '.join(self.float_layers) if self.float_layers else ''}.",
            "",
            f"Calibrated on {counted(self.pictures['calibration'], 'picture')} (set `{self.calibration_sha256[:16]}`),"
            f" judged on {counted(self.pictures['gate'], 'other')}, on {self.pictures['choice']} of which the method"
            " was chosen.",
            "",
        ]
        if all(result.float_accuracy for result in self.results):
            lines += _accuracy_table(self.results)
        else:
            lines += _agreement_table(self.results)
        lines += ["", f"Median latency of one picture in ms on {self.machine}:", ""]
        lines += ["| engine | threads | float (auto) | INT8 |", "|---|---|---|---|"]
        for engine, by_threads in self.latency_ms.items():
            for threads, values in by_threads.items():
                lines.append(f"| {engine} | {threads} | {values['float']:.2f} | {values['int8']:.2f} |")
        lines += ["", f"Artifact `{self.int8_sha256}`, made from `{self.float_sha256}`."]
        return "\n".join(lines) + "\n"


def _accuracy_table(results: tuple[GateResult, ...]) -> list[str]:
    lines = [
        "| engine | model | AP | AP50 | small | medium | large | drop (95 %) | chance | agreement |",
        "|---" * 10 + "|",
    ]
    for result in results:
        for name, accuracy in (("float32", result.float_accuracy), ("INT8", result.int8_accuracy)):
            if accuracy is None or result.estimate is None or result.drop_interval is None:
                continue
            values = (accuracy.AP, accuracy.AP50, accuracy.APs, accuracy.APm, accuracy.APl)
            cells = " | ".join("-" if math.isnan(value) else f"{value:.2f}" for value in values)
            low, high = result.drop_interval
            drop = f"{result.estimate.value:+.2f} ({low:+.2f} to {high:+.2f})"
            tail = f"{drop} | {result.chance:.0%} | {result.agreement.score:.3f}"
            lines.append(f"| {result.engine} | {name} | {cells} | {tail if name == 'INT8' else ' | | '} |")
    lines += ["", "drop: estimated from AP of all classes together; chance: that more is lost than the limit."]
    return lines


def _agreement_table(results: tuple[GateResult, ...]) -> list[str]:
    lines = [
        "No labels were given: agreement with the float model's detections.",
        "",
        "| engine | agreement | matched | missed | extra | mean IoU | mean score difference |",
        "|---" * 7 + "|",
    ]
    for result in results:
        seen = result.agreement
        lines.append(
            f"| {result.engine} | {seen.score:.3f} | {seen.matched} | {seen.misses} | {seen.extras}"
            f" | {seen.mean_iou:.3f} | {seen.mean_score_difference:.3f} |"
        )
    return lines
