"""The accuracy gate on engines that return given outputs: what is compared, with which limits, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration import gate as gates
from calibration.accuracy import Accuracy, coco_accuracy
from calibration.agreement import Agreement, agreement
from calibration.bootstrap import Estimate, estimate_drop
from calibration.gate import MAX_CHANCE, AccuracyGate, GateResult, Limits, latencies_ms, more_pictures
from calibration.labels import Sample
from calibration.pictures import Picture
from streamer.frames.detections import Detections
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from tests.tiny import tiny_spec

SPEC = tiny_spec()
SQUARE = Letterbox.fit((64, 64), (64, 64), True)
ENGINES = ("one", "other")


def graph(name: str, *, quantized: bool = False) -> onnx.ModelProto:
    """A graph that is nothing but its name, and a Q node where it is quantised."""
    nodes = [helper.make_node("QuantizeLinear", ["a", "b"], ["c"])] if quantized else []
    return helper.make_model(helper.make_graph(nodes, name, [], []))


ORIGINAL = ModelFile(Path("m.onnx"), "", SPEC, graph("float"))


def output(score: float, point: int = 27) -> np.ndarray:
    """One object of class 1: 16 pixels wide and high around a point of stride 8."""
    rows = np.zeros((SPEC.num_points, SPEC.output_channels), np.float32)
    rows[point, 1] = score
    rows[point, SPEC.num_classes :].reshape(4, -1)[:, 1] = 30
    return rows


def picture(number: int) -> Picture:
    """A picture with that object labelled; its pixels are its number."""
    sample = Sample(Path(f"{number}.jpg"), np.array([1]), np.array([[28, 28, 16, 16]]) / 64)
    return Picture(sample, (64, 64), SQUARE, np.full((64, 64, 3), number, np.uint8))


PICTURES = [picture(number) for number in range(4)]


class Engine:
    """Returns the outputs of one graph for pictures by their number, from one buffer that it uses again."""

    def __init__(self, outputs: Sequence[np.ndarray]) -> None:
        self.closed = False
        self._pixels = np.zeros((1, 64, 64, 3), np.uint8)
        self._outputs = outputs
        self._buffer = np.zeros((1, SPEC.num_points, SPEC.output_channels), np.float32)

    def input(self, slot: int) -> np.ndarray:
        assert slot == 0
        return self._pixels

    def start(self, slot: int) -> None:
        assert slot == 0
        self._buffer[0] = self._outputs[self._pixels[0, 0, 0, 0]]

    def wait(self, slot: int) -> np.ndarray:
        assert slot == 0
        return self._buffer

    def close(self) -> None:
        self.closed = True


class Opened:
    """Stands for `open_engine`: records what was opened, and how."""

    def __init__(self, outputs: dict[tuple[str, str], Sequence[np.ndarray]]) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.engines: list[Engine] = []
        self._outputs = outputs

    def __call__(self, engine: str, model: ModelFile, **options: Any) -> Engine:
        name = model.proto.graph.name
        self.calls.append((engine, name, options))
        self.engines.append(Engine(self._outputs[engine, name]))
        return self.engines[-1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Engines: `one` follows the float model exactly, `other` misses the second picture's object."""
    exact = [output(0.9), output(0.8), output(0.7), output(0.6)]
    other = [output(0.9), output(0.2, point=40), output(0.7), output(0.6)]
    outputs = {(engine, "float"): exact for engine in ENGINES}
    stand_in = Opened({**outputs, ("one", "int8"): exact, ("other", "int8"): other})
    monkeypatch.setattr(gates, "open_engine", stand_in)
    return stand_in


def detections(outputs: Sequence[np.ndarray]) -> list[Detections]:
    return [Postprocessor(SPEC, 0.05)(each, SQUARE) for each in outputs]


def test_without_labels_the_agreement_decides(opened: Opened) -> None:
    exact = [output(0.9), output(0.8), output(0.7), output(0.6)]
    other = [output(0.9), output(0.2, point=40), output(0.7), output(0.6)]
    seen = agreement(detections(exact), detections(other))
    assert seen.score == pytest.approx(0.75)
    for least, passed in ((seen.score, True), (seen.score + 1e-6, False)):
        gate = AccuracyGate(ORIGINAL, ENGINES, Limits(0.5, least), labelled=False)
        one, two = gate.evaluate(graph("int8", quantized=True), PICTURES)
        assert (one.engine, one.pictures, one.agreement.score, one.passed) == ("one", 4, 1.0, True)
        assert two == GateResult("other", 4, seen, None, None, None, None, None, None, None, passed)


def test_with_labels_the_chance_of_a_drop_decides(opened: Opened) -> None:
    pytest.importorskip("faster_coco_eval", reason="the calibration extra is not installed")
    exact = detections([output(0.9), output(0.8), output(0.7), output(0.6)])
    lossy = detections([output(0.9), output(0.2, point=40), output(0.7), output(0.6)])
    estimate = estimate_drop(PICTURES, exact, lossy)
    samples = [each.sample for each in PICTURES]
    before, after = (coco_accuracy(samples, [((64, 64), d) for d in found], SPEC.labels) for found in (exact, lossy))
    for limit in (0.5, estimate.value, estimate.value + 2 * estimate.error):
        gate = AccuracyGate(ORIGINAL, list(ENGINES), Limits(limit, 2.0), labelled=True)
        one, two = gate.evaluate(graph("int8", quantized=True), PICTURES)
        assert (one.passed, one.drop, one.estimate, one.chance) == (True, 0.0, Estimate(0, 0), 0.0)
        assert (two.engine, two.pictures) == ("other", 4)
        assert two.float_accuracy and two.int8_accuracy
        assert (two.float_accuracy.table(), two.int8_accuracy.table()) == (before.table(), after.table())
        assert two.drop == before.AP - after.AP
        assert (two.estimate, two.drop_interval) == (estimate, estimate.interval())
        assert two.chance == estimate.chance_above(limit)
        assert two.more_pictures == more_pictures(estimate, limit, 4)
        assert two.passed == (estimate.chance_above(limit) <= MAX_CHANCE)
        assert two.agreement == agreement(exact, lossy)
    assert before.AP > after.AP > 0


def test_accuracy_counts_detections_that_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval", reason="the calibration extra is not installed")
    faint = [output(0.1)] * 4
    monkeypatch.setattr(gates, "open_engine", Opened({("one", "float"): faint, ("one", "int8"): faint}))
    gate = AccuracyGate(ORIGINAL, ["one"], Limits(0.5, 0.5), labelled=True)
    (result,) = gate.evaluate(graph("int8"), PICTURES)
    assert result.float_accuracy is not None and result.float_accuracy.AP == pytest.approx(100)


def test_the_greatest_chance_still_passes(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval", reason="the calibration extra is not installed")
    monkeypatch.setattr(gates, "MAX_CHANCE", 0.0)
    gate = AccuracyGate(ORIGINAL, ENGINES[:1], Limits(0.5, 2.0), labelled=True)
    assert gate.evaluate(graph("int8"), PICTURES)[0].passed  # its chance is exactly 0


def test_fidelity_is_that_of_the_worst_engine(opened: Opened) -> None:
    gate = AccuracyGate(ORIGINAL, ENGINES, Limits(0.5, 0.5), labelled=False)
    int8 = graph("int8", quantized=True)
    # scores of 0.9, 0.7 and 0.6 agree, 0.8 and 0.2 don't
    assert gate.fidelity(int8, PICTURES) == pytest.approx(2.2 / 3.2, abs=1e-6)
    assert gate.fidelity(int8, PICTURES, ["one"]) == 1
    assert gate.fidelity(int8, []) == 1


def test_float_outputs_are_computed_once_and_engines_closed(opened: Opened) -> None:
    gate = AccuracyGate(ORIGINAL, ENGINES, Limits(0.5, 0.5), labelled=False)
    int8 = graph("int8", quantized=True)
    gate.fidelity(int8, PICTURES[:2])
    gate.evaluate(int8, PICTURES)
    gate.evaluate(int8, PICTURES)
    floats = [call for call in opened.calls if call[1] == "float"]
    assert [call[0] for call in floats] == ["one", "other", "one", "other"]  # for two pictures, then for the others
    assert {(name, options["precision"], options["slots"]) for _, name, options in opened.calls} == {
        ("float", "f32", 1),
        ("int8", "auto", 1),
    }
    assert all(engine.closed for engine in opened.engines)


def test_an_engine_that_fails_is_closed(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "wait", lambda self, slot: 1 / 0)
    gate = AccuracyGate(ORIGINAL, ENGINES, Limits(0.5, 0.5), labelled=False)
    with pytest.raises(ZeroDivisionError):
        gate.evaluate(graph("int8"), PICTURES)
    assert all(engine.closed for engine in opened.engines)


class Clock:
    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


def test_latency_is_the_median_of_runs_in_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    calls: list[tuple[str, dict[str, Any]]] = []
    engines: dict[str, Engine] = {}
    order: list[str] = []

    class Timed(Engine):
        def __init__(self, name: str) -> None:
            super().__init__([output(0.9)] * 2)
            self.name, self.count = name, 0

        def start(self, slot: int) -> None:
            super().start(slot)
            assert self._pixels[0, 0, 0, 0] == 1
            order.append(self.name)
            self.count += 1
            slow = 1000 if self.count <= 5 else 1 + self.count / 1000
            clock.now_s += slow if self.name == "float" else 2 * slow

    def open_engine(engine: str, model: ModelFile, **options: Any) -> Engine:
        calls.append((engine, options))
        name = model.proto.graph.name
        engines[name] = Timed(name)
        return engines[name]

    monkeypatch.setattr(gates, "open_engine", open_engine)
    monkeypatch.setattr(gates, "time", clock)
    models = {name: ModelFile(Path("m.onnx"), "", SPEC, graph(name)) for name in ("float", "int8")}
    found = latencies_ms(models, "one", PICTURES[1], 3)
    assert found == {"float": pytest.approx(1025.5), "int8": pytest.approx(2051)}
    assert calls == [("one", {"slots": 1, "threads": 3})] * 2
    assert order == ["float", "int8"] * 45
    assert all(engine.closed for engine in engines.values())


def test_more_pictures_in_numbers() -> None:
    assert more_pictures(Estimate(0.2, 0.6), 0.5, 100) == 557  # the error must become 0.3 / 1.2816
    assert more_pictures(Estimate(0.8, 0.6), 0.5, 100) == 557
    assert more_pictures(Estimate(0.5, 0.6), 0.5, 100) == 4900
    assert more_pictures(Estimate(0.499, 0.6), 0.5, 100) == 4900
    assert more_pictures(Estimate(0.5, 0.6), 0.5, 6000) == 1
    assert more_pictures(Estimate(0.1, 0.6), 0.6, 49) == 67  # 115.9, rounded up
    assert more_pictures(Estimate(0.1, 0.3), 0.5, 100) is None
    assert more_pictures(Estimate(0.9, 0.3), 0.5, 100) is None


@pytest.mark.parametrize("chance", [0.25, 0.75])
def test_the_greatest_and_least_chance_are_clear(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MAX_CHANCE", 0.25)
    monkeypatch.setattr(Estimate, "chance_above", lambda self, limit: chance)
    assert more_pictures(Estimate(0.5, 0.6), 0.5, 100) is None


def test_a_result_in_words() -> None:
    seen = Agreement(8, 1, 2, 0.9, 0.05)
    words = "agreement 0.618 (IoU 0.900, score difference 0.050, 8 matched, 1 missed, 2 extra)"
    plain = GateResult("one", 4, seen, None, None, None, None, None, None, None, True)
    assert plain.line() == f"one: {words}, 4 pictures: passed"
    accuracies = (Accuracy(30.0, 1, 1, 1, 1, 1), Accuracy(29.254, 1, 1, 1, 1, 1))
    full = GateResult("one", 4, seen, *accuracies, 0.75, Estimate(0.75, 0.5), (-0.25, 1.75), 0.69, None, False)
    assert full.line() == (
        "one: AP 30.00 to 29.25, estimated drop +0.75 (95 % interval -0.25 to +1.75, chance of more than the limit "
        f"69%), {words}, 4 pictures: failed"
    )
