from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from streamer.common.errors import EngineError, ModelError
from streamer.detector import open_detector, self_check
from streamer.engines import open_engine
from streamer.frames.detections import Detections
from streamer.models.file import load_model
from streamer.models.zoo import ZOO, resolve_model, where
from tests.tiny import tiny_spec, write_tiny

PACKAGED = [name for name, model in ZOO.items() if where(model) == "packaged"]


def found(*rows: tuple[int, float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


PERSON = (0, 0.8, 10.0, 10.0, 60.0, 110.0)
CUP = (41, 0.6, 100.0, 10.0, 160.0, 90.0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([PERSON, CUP], None),
        ([(0, 0.75, 11.0, 12.0, 61.0, 112.0), (41, 0.68, 100.0, 10.0, 160.0, 90.0)], None),
        ([PERSON, CUP, (2, 0.45, 0.0, 0.0, 9.0, 9.0)], None),
        ([], "missed class 0"),
        ([PERSON], "missed class 41"),
        ([PERSON, (42, *CUP[1:])], "missed class 41"),
        ([PERSON, (41, 0.6, 130.0, 40.0, 190.0, 120.0)], "missed class 41"),
        ([PERSON, (41, 0.4, *CUP[2:])], "missed class 41"),
        ([PERSON, CUP, (2, 0.9, 0.0, 0.0, 9.0, 9.0)], "made up class 2"),
    ],
)
def test_difference(rows: list[tuple[int, float, float, float, float, float]], says: str | None) -> None:
    said = self_check.difference(found(PERSON, CUP), found(*rows))
    assert said is None if says is None else said is not None and says in said


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models_know_what_they_find(name: str, engine: str) -> None:
    path, _ = resolve_model(name)
    model = load_model(path)
    with contextlib.closing(open_engine(engine, model, slots=1)) as runner:
        self_check.check(model, runner)
        labels = [model.spec.labels[i] for i in self_check.find_in_picture(model, runner).class_ids]
    assert "person" in labels
    assert "cup" in labels
    assert any(entry.key == self_check.KEY for entry in model.proto.metadata_props)


def wrong_copy(folder: Path) -> Path:
    """The packaged model with the weights of its last layers shuffled: it loads, runs, and finds other things."""
    proto = onnx.load(resolve_model("nanodet-g_416_float")[0])
    for constant in proto.graph.initializer:
        if constant.name.startswith("head.") and len(constant.dims) == 4:
            array = onnx.numpy_helper.to_array(constant)
            constant.CopyFrom(onnx.numpy_helper.from_array(array[::-1].copy(), constant.name))
    onnx.save(proto, folder / "wrong.onnx")
    return folder / "wrong.onnx"


def test_wrong_results_are_refused_unless_told_otherwise(tmp_path: Path) -> None:
    wrong = wrong_copy(tmp_path)
    with pytest.raises(EngineError, match="wrongly.*nanodet-g_416_float.*--no-self-check"):
        open_detector(wrong)
    open_detector(wrong, self_check=False).close()


def test_a_file_that_says_nothing_passes(tmp_path: Path) -> None:
    open_detector(write_tiny(tmp_path / "tiny.onnx")).close()


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "nan.onnx"
    proto = onnx.load(write_tiny(path))
    weight = proto.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))
    onnx.save(proto, path)
    with pytest.raises(EngineError, match="'nan.onnx' produced NaN or Inf"):
        open_detector(path, engine=engine, device="cpu")


def test_onnxruntime_says_nothing_of_its_own_when_it_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "gather.onnx"
    proto = onnx.load(write_tiny(path))
    graph = proto.graph
    graph.node[-1].output[0] = "all"
    beyond = np.full(tiny_spec().num_points, 10_000, np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(beyond, "beyond"))
    graph.node.append(onnx.helper.make_node("Gather", ["all", "beyond"], ["output"], axis=1))
    onnx.save(proto, path)
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        open_detector(path, engine="onnxruntime", device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[[1, 2]]", '"x"', "[[0, 2, 3, 4, 5, null]]"])
def test_damaged_metadata(tmp_path: Path, text: str) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    proto = onnx.load(path)
    kept = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, kept | {self_check.KEY: text})
    onnx.save(proto, path)
    with pytest.raises(ModelError, match="damaged"):
        open_detector(path)
