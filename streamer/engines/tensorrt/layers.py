"""The layers of a built engine and their precisions, parsed from the builder's log.

The one-line form is that of TensorRT's engine inspector (``LayerInformationFormat.ONELINE``), which the builder also
writes into its verbose log: TensorRT 11 and TensorRT-RTX name a tensor's type in ``Datatype`` and list constants;
TensorRT 10 names it within ``Format/Datatype``, and the type of a convolution's weights in ``Weights``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def _weights(constants: str, rest: str) -> str:
    if constants.strip():
        return _precisions(constants)
    named = _WEIGHTS.search(rest)
    return _NAMES.get(named[1].lower(), named[1].upper()) if named else ""


def _precisions(tensors: str) -> str:
    """Returns the precisions of a list of tensors, joined by ``+`` in alphabetical order."""
    names = set()
    for word in _TYPED.findall(tensors):
        names.add(_NAMES.get(word.lower(), word.upper()))
    for words in _FORMATTED.findall(tensors):
        found = [_NAMES[word] for word in re.findall(r"\w+", words.lower()) if word in _NAMES]
        names.add(found[0] if found else UNKNOWN)
    if not names:
        return UNKNOWN if tensors.strip() else "none"
    return "+".join(sorted(names))


def summary(layers: Sequence[Layer]) -> str:
    """Returns how many kernels there are of each precision, such as ``94 kernels: 34 INT8 > FP32, 28 FP32``."""
    if not layers:
        return f"the builder reported no layers: precision {UNKNOWN}"
    counted = Counter(layer.precision for layer in layers).most_common()
    return f"{len(layers)} kernels: " + ", ".join(f"{count} {precision}" for precision, count in counted)
