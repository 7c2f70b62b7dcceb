"""Foreign files are tried against themselves: what is noticed, what is remembered, and what is done then."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer import open_detector
from streamer.common.errors import EngineError, ModelError
from streamer.detector import self_check
from streamer.detector.reference import reference_rows
from streamer.engines import open_engine
from streamer.models.file import ModelFile, load_model
from tests.quantized import pixels
from tests.tiny import tiny_model, tiny_spec, write_tiny
from tests.variants import Variant, build

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))


def foreign(tmp_path: Path) -> ModelFile:
    return load_model(write_tiny(tmp_path / "m.onnx", described=False), tiny_spec())


def output(model: ModelFile) -> np.ndarray:
    with contextlib.closing(open_engine("onnxruntime", model, slots=1)) as engine:
        engine.input(0)[:] = pixels(model.spec)
        engine.start(0)
        return engine.wait(0)[0].copy()


@pytest.mark.parametrize("missing", [None, "onnxruntime"])
@pytest.mark.parametrize("form", ["joint-planar", "pairs-nchw", "distances", "probabilities"])
def test_the_reference_is_what_the_engines_give(
    form: str, missing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = Variant(form=form, axes="four" if form == "pairs-nchw" else "batch")
    model = load_model(build(variant, tmp_path), variant.spec())
    wanted = output(model)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    rows = reference_rows(model, pixels(model.spec))
    assert rows is not None
    np.testing.assert_allclose(rows, wanted, atol=0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[::-1], "a score differs by"),
        (lambda rows: np.concatenate([rows[:, :3], rows[:, :2:-1]], axis=1), "distances differ by"),
    ],
)
def test_another_output_is_refused_in_one_line(change: Any, says: str, tmp_path: Path) -> None:
    model = foreign(tmp_path)
    wrong = change(output(model))
    for _ in range(2):  # a failure isn't remembered
        with pytest.raises(EngineError, match=f"odd computes m.onnx differently from the file .*{says}") as caught:
            self_check.check_output(model, "odd", lambda frame: wrong)
        assert "\n" not in str(caught.value)


def test_what_was_right_is_remembered_for_this_file_and_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runs = foreign(tmp_path), []

    def counted(model: ModelFile, image: np.ndarray) -> np.ndarray | None:
        runs.append(model.sha256)
        return reference_rows(model, image)

    monkeypatch.setattr(self_check, "reference_rows", counted)
    rows = output(model)
    for engine, count in (("one", 1), ("one", 1), ("other", 2)):
        self_check.check_output(model, engine, lambda frame: rows)
        assert len(runs) == count
    write_tiny(tmp_path / "m.onnx", described=False, seed=1)
    changed = load_model(tmp_path / "m.onnx", tiny_spec())
    self_check.check_output(changed, "one", lambda frame: output(changed))
    assert len(runs) == 3


def test_a_folder_that_can_not_be_written_only_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file"))
    model = foreign(tmp_path)
    self_check.check_output(model, "one", lambda frame: output(model))


def test_a_file_that_nothing_runs_untouched_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = foreign(tmp_path)
    rows = output(model)
    model.path.write_bytes(b"gone")
    with caplog.at_level(logging.WARNING):
        self_check.check_output(model, "one", lambda frame: rows)
    assert "no package here runs m.onnx unchanged" in caplog.text


def test_another_engine_is_taken_where_the_first_computes_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from streamer.engines.openvino_engine import OpenVinoEngine

    path = write_tiny(tmp_path / "m.onnx")
    wait = OpenVinoEngine.wait

    def reversed_rows(self: OpenVinoEngine, slot: int) -> tuple[np.ndarray, float]:
        rows, took_ms = wait(self, slot)
        return rows[::-1], took_ms

    monkeypatch.setattr(OpenVinoEngine, "wait", reversed_rows)
    with pytest.raises(EngineError, match="openvino .* computes m.onnx differently"):
        open_detector(path, engine="openvino", device="cpu")
    with caplog.at_level(logging.WARNING), open_detector(path, device="cpu") as detector:
        assert detector.info.name == "onnxruntime"
        (fallback,) = detector.info.fallbacks
    assert fallback.startswith("openvino: openvino ")
    assert "computes m.onnx differently from the file itself" in caplog.text
    assert "using onnxruntime" in caplog.text


def test_scores_that_are_no_probabilities_are_refused_with_the_cure(tmp_path: Path) -> None:
    import onnx

    onnx.save(tiny_model(tiny_spec(), sigmoid=False), tmp_path / "logits.onnx")
    write_tiny(tmp_path / "scores.onnx", described=False)
    for name, said, says in (
        (
            "logits",
            "probabilities",
            "gives scores from -.* which are no probabilities: correct labels, reg_max, scores",
        ),
        ("scores", "logits", "no score below 0.5: they went through a sigmoid twice; say scores: probabilities"),
    ):
        spec = tiny_spec().model_copy(update={"scores": said})
        model = load_model(tmp_path / f"{name}.onnx", spec)
        with pytest.raises(ModelError, match=says):
            self_check.check_output(model, "one", lambda frame, model=model: output(model))


def test_what_was_right_once_is_not_run_again(tmp_path: Path) -> None:
    model = foreign(tmp_path)
    right, runs = output(model), []
    for _ in range(2):
        self_check.check_output(model, "any", lambda _: runs.append(1) or right)
    assert len(runs) == 1
