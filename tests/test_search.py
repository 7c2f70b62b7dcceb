"""The search for a quantised form: outputs whose rounding costs ONNX Runtime much are left unrounded, no others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import onnx
import pytest

from calibration.methods import read_output_ranges, write_output_ranges
from calibration.pictures import DatasetSplit
from calibration.search import Search

_COSTS = {"stem": 0.1, "middle": 0.004, "head": 0.006, "none": 0.0}


class Gate:
    """Judges a graph by the outputs that it rounds; passes everything."""

    def __init__(self, engines: tuple[str, ...]) -> None:
        self.engines = engines

    def fidelity(self, proto: onnx.ModelProto, pictures: Sequence[Any], engines: Sequence[str] = ()) -> float:
        rounds = not engines or "onnxruntime" in engines
        return 1 - rounds * sum(_COSTS[name] for name in read_output_ranges(proto))

    def evaluate(self, proto: onnx.ModelProto, pictures: Sequence[Any]) -> list[Any]:
        return []


class Quantizer:
    """Makes a graph that is nothing but its ranges."""

    def __init__(self) -> None:
        self.unrounded: set[str] = set()

    def quantize(self, method: str, float_layers: Sequence[str] = ()) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        write_output_ranges(proto, {name: (-1.0, 1.0) for name in _COSTS if name not in self.unrounded})
        return proto


def search(engines: tuple[str, ...], deadline: float) -> list[str]:
    quantizer: Any = Quantizer()
    gate: Any = Gate(engines)
    best, _ = Search(quantizer, gate, DatasetSplit([], [], [], []), deadline, distills=True).run(("nncf",))
    return sorted(read_output_ranges(best.proto))


def test_costly_roundings_are_left_out() -> None:
    assert search(("openvino", "onnxruntime"), time.monotonic() + 60) == ["middle", "none"]


@pytest.mark.parametrize(("engines", "seconds"), [(("openvino",), 60), (("openvino", "onnxruntime"), -1)])
def test_all_are_kept_where_nothing_rounds_them_or_no_time_is_left(engines: tuple[str, ...], seconds: float) -> None:
    assert search(engines, time.monotonic() + seconds) == sorted(_COSTS)


class TrainedQuantizer(Quantizer):
    """Its trained graph is better, and better again with each layer in float."""

    layers: ClassVar = {"one": "one", "two": "two", "three": "three", "four": "four"}

    def tune(self, proto: onnx.ModelProto, spec: Any, pictures: Sequence[Any]) -> onnx.ModelProto:
        return self.in_float(proto, ())

    def in_float(self, proto: onnx.ModelProto, float_layers: Sequence[str]) -> onnx.ModelProto:
        trained = onnx.ModelProto(producer_name="trained", producer_version=str(len(float_layers)))
        trained.graph.node.extend(node for name in self.layers for node in convolution(name))
        return trained


def convolution(name: str) -> list[onnx.NodeProto]:
    weight = onnx.helper.make_node("DequantizeLinear", [name, "s"], [f"{name}.w"])
    return [weight, onnx.helper.make_node("Conv", ["x", f"{name}.w"], [f"{name}.y"], name=name)]


class TrainedGate(Gate):
    """Passes a trained graph with two layers in float."""

    original = SimpleNamespace(spec=None)

    def fidelity(self, proto: onnx.ModelProto, pictures: Sequence[Any], engines: Sequence[str] = ()) -> float:
        return 0.5 + 0.1 * int(proto.producer_version or -1)

    def evaluate(self, proto: onnx.ModelProto, pictures: Sequence[Any]) -> list[Any]:
        passed = proto.producer_name == "trained" and int(proto.producer_version) >= 2
        return [SimpleNamespace(passed=passed, line=lambda: "")]


def test_layers_are_left_in_float_in_the_trained_graph() -> None:
    quantizer: Any = TrainedQuantizer()
    gate: Any = TrainedGate(("openvino",))
    looking = Search(quantizer, gate, DatasetSplit([], [], [], []), time.monotonic() + 60, distills=True)
    best, results = looking.run(("nncf",))
    assert best.trial.method == "nncf+distill" and len(best.trial.float_layers) == 2
    assert [result.passed for result in results] == [True]
