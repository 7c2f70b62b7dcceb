"""The layers of a built engine and their precisions, as TensorRT's engine inspector describes them.

Its JSON needs a GPU that runs the engine. Its one-line form (``LayerInformationFormat.ONELINE``) is also in the
builder's verbose log, which is all that there is without one. TensorRT 11 and TensorRT-RTX name a tensor's type in
``Datatype`` and list constants; TensorRT 10 names it within ``Format/Datatype``, and the type of a convolution's
weights in ``Weights``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: \[(?P<inputs>|.*?\} *)\], "
    r"(?:Constants: \[(?P<weights>|.*?\} *)\], )?Outputs: \[(?P<outputs>|.*?\} *)\](?P<rest>, \w.*)?$",
    re.MULTILINE,
)
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)"')
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\]")
_TYPED = re.compile(r"(?<![/\w])Datatype: (\w+)", re.IGNORECASE)
_FORMATTED = re.compile(r"Format/Datatype: ([^}\]]*)", re.IGNORECASE)
_NAMES = {"float": "FP32", "half": "FP16", "bfloat16": "BF16"} | {
    name: name.upper() for name in ("fp32", "fp16", "bf16", "fp8", "int8", "uint8", "int32", "int64", "bool")
}


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine.

    Attributes:
        name: the builder's name for it.
        kind: the builder's name for its type.
        inputs: precisions of the tensors it reads, such as ``INT8`` or ``FP32+INT8``; ``unknown`` if not reported.
        weights: precisions of its constants; empty where it has none or they aren't reported.
        outputs: precisions of the tensors it writes.
        onnx: names of the ONNX nodes it came from, as far as they are reported.
    """

    name: str
    kind: str
    inputs: str
    weights: str
    outputs: str
    onnx: tuple[str, ...]

    @property
    def precision(self) -> str:
        """Input and output precision, such as ``INT8 > FP32``; one word where they are equal."""
        return self.inputs if self.inputs == self.outputs else f"{self.inputs} > {self.outputs}"


def parse_layers(messages: Iterable[str]) -> tuple[Layer, ...]:
    """Parses layers from log messages, without those that have no tensors (stream synchronisation)."""
    layers = []
    for message in messages:
        for match in _LINE.finditer(message):
            if not (match["inputs"].strip() or match["outputs"].strip()):
                continue
            rest = match["rest"] or ""
            layers.append(
                Layer(
                    name=match["name"],
                    kind=match["kind"],
                    inputs=_precisions(match["inputs"]),
                    weights=_weights(match["weights"] or "", rest),
                    outputs=_precisions(match["outputs"]),
                    onnx=tuple(_ONNX.findall(rest)),
                )
            )
    return tuple(layers)


def read_layers(information: str) -> tuple[Layer, ...]:
    """Reads layers from the inspector's JSON, without those that have no tensors.

    Returns none where it names layers without describing them, or isn't JSON.
    """
    try:
        found = json.loads(information, strict=False)  # control characters separate the names of ONNX nodes
    except ValueError:
        return ()
    entries = found.get("Layers") if isinstance(found, dict) else None
    return tuple(
        _layer(entry)
        for entry in entries or ()
        if isinstance(entry, dict) and (entry.get("Inputs") or entry.get("Outputs"))
    )


def _layer(entry: dict[str, Any]) -> Layer:
    constants, weights = entry.get("Constants"), entry.get("Weights")
    stored = _precision(str(weights.get("Type", ""))) if isinstance(weights, dict) else ""
    return Layer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", UNKNOWN)),
        inputs=_joined(map(_described, entry.get("Inputs") or ())) or "none",
        weights=_joined(map(_described, constants)) if constants else stored,
        outputs=_joined(map(_described, entry.get("Outputs") or ())) or "none",
        onnx=tuple(_ONNX.findall(str(entry.get("Metadata", "")))),
    )


def _described(tensor: Any) -> str:
    """Returns the precision of a tensor in the inspector's JSON."""
    if not isinstance(tensor, dict):
        return UNKNOWN
    return _precision(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or ""))


def _weights(constants: str, rest: str) -> str:
    if constants.strip():
        return _precisions(constants)
    named = _WEIGHTS.search(rest)
    return _precision(named[1]) if named else ""


def _precisions(tensors: str) -> str:
    """Returns the precisions of a list of tensors in the one-line form."""
    found = _joined(map(_precision, (*_TYPED.findall(tensors), *_FORMATTED.findall(tensors))))
    return found or (UNKNOWN if tensors.strip() else "none")


def _precision(text: str) -> str:
    """Returns the precision in a type's name, such as ``Int8``, or a format's description that contains one."""
    words = re.findall(r"\w+", text)
    known = [_NAMES[word.lower()] for word in words if word.lower() in _NAMES]
    return known[0] if known else words[0].upper() if len(words) == 1 else UNKNOWN


def _joined(precisions: Iterable[str]) -> str:
    return "+".join(sorted(set(precisions)))


def summary(layers: Sequence[Layer]) -> str:
    """Returns how many kernels there are of each precision, such as ``94 kernels: 34 INT8 > FP32, 28 FP32``."""
    if not layers:
        return f"the builder reported no layers: precision {UNKNOWN}"
    counted = Counter(layer.precision for layer in layers).most_common()
    return f"{len(layers)} kernels: " + ", ".join(f"{count} {precision}" for precision, count in counted)
