from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.__main__ import main
from calibration.dataset import read_samples
from calibration.labels import Sample
from streamer.common.errors import ConfigError
from streamer.frames.detections import Detections
from tests.media import png_header, write_image
from tests.tiny import write_tiny

LABELS = ("person", "car")


def sample(*objects: tuple[int, float, float, float, float]) -> Sample:
    table = np.array(objects, np.float64).reshape(-1, 5)
    return Sample(Path("x.jpg"), table[:, 0].astype(np.int64), table[:, 1:])


def found(*rows: tuple[int, float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))


class TestAccuracy:
    @pytest.fixture(autouse=True)
    def _needs_coco_metrics(self) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")

    def test_perfect_detections_have_100(self) -> None:
        from calibration.accuracy import coco_accuracy

        truth = [sample((0, 0.5, 0.5, 0.5, 0.5), (1, 0.1, 0.1, 0.1, 0.1)), sample()]
        right = found((0, 0.9, 160, 120, 480, 360), (1, 0.8, 32, 24, 96, 72))
        accuracy = coco_accuracy(truth, [((640, 480), right), ((640, 480), Detections.empty())], LABELS)
        assert accuracy.AP == pytest.approx(100)
        assert accuracy.APl == pytest.approx(100)
        assert np.isnan(accuracy.APs)

    def test_shifted_boxes_and_wrong_classes_cost(self) -> None:
        from calibration.accuracy import coco_accuracy

        truth = [sample((0, 0.5, 0.5, 0.5, 0.5))]
        shifted = coco_accuracy(truth, [((640, 480), found((0, 0.9, 210, 120, 530, 360)))], LABELS)
        assert 0 < shifted.AP < 60
        assert shifted.AP50 == pytest.approx(100)
        assert coco_accuracy(truth, [((640, 480), found((1, 0.9, 160, 120, 480, 360)))], LABELS).AP == 0

    def test_nothing_found(self) -> None:
        from calibration.accuracy import coco_accuracy

        assert coco_accuracy([sample((0, 0.5, 0.5, 0.5, 0.5))], [((64, 48), Detections.empty())], LABELS).AP == 0

    @pytest.mark.shared
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["nanodet-m_320", "nanodet-g_416", "nanodet-plus-m_416"])
    def test_official_weights_reach_the_reference(self, name: str, shared: Path, tmp_path: Path) -> None:
        pytest.importorskip("torch", reason="export runs PyTorch")
        model, figures = tmp_path / "m.onnx", tmp_path / "ap.json"
        weights = shared / "weights" / f"{name}.pth"
        assert main(["export", "--model", name, "--checkpoint", str(weights), "-o", str(model)]) == 0
        folders = ["--images", str(shared / "coco/val/images"), "--labels", str(shared / "coco/val/labels")]
        assert main(["evaluate", "--model", str(model), *folders, "--precision", "f32", "--json", str(figures)]) == 0
        reference = json.loads((shared / "weights" / "reference_ap.json").read_text())[name]
        measured = json.loads(figures.read_text())
        assert measured["images"] == 64
        assert measured["AP"] == pytest.approx(reference["AP"], abs=0.5)
        assert measured["AP50"] == pytest.approx(reference["AP50"], abs=0.5)

    @pytest.mark.shared
    @pytest.mark.slow
    def test_packaged_int8_model_keeps_its_accuracy(self, shared: Path, tmp_path: Path, engine: str) -> None:
        folders = ["--images", str(shared / "coco/val/images"), "--labels", str(shared / "coco/val/labels")]
        arguments = ["--model", "nanodet-g_416", "--against", "nanodet-g_416_float", "--engine", engine, *folders]
        figures = tmp_path / "ap.json"
        assert main(["evaluate", *arguments, "--json", str(figures)]) == 0
        measured = json.loads(figures.read_text())
        assert measured["engine"]["precision"] == "int8"
        assert measured["against"]["drop"] <= 0.3
        assert measured["against"]["agreement"]["misses"] < 0.1 * measured["against"]["agreement"]["matched"]


def folders(tmp_path: Path, label: str = "0 0.5 0.5 0.2 0.2\n") -> tuple[Path, Path]:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    write_image(images / "a.png")
    write_image(images / "b.png")
    (labels / "a.txt").write_text(label)
    return images, labels


def test_pictures_pair_with_labels_by_name(tmp_path: Path) -> None:
    first, second = read_samples(*folders(tmp_path, "1 0.5 0.25 0.2 0.1\n\n0 0 0 1 1\n"), LABELS)
    assert first.class_ids.tolist() == [1, 0]
    assert first.boxes_cxcywh.tolist() == [[0.5, 0.25, 0.2, 0.1], [0, 0, 1, 1]]
    assert len(second.class_ids) == 0


@pytest.mark.parametrize(
    "line", ["x 0 0 1 1", "0 0 0 1", "0 0 0 1 1 1", "2 0 0 1 1", "-1 0 0 1 1", "0 0 0 1 1.5", "0 nan 0 1 1"]
)
def test_wrong_label_lines_are_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.txt:2: wanted 'class cx cy w h'"):
        read_samples(*folders(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n"), LABELS)


def test_one_engine_against_another(tmp_path: Path) -> None:
    images, labels = folders(tmp_path)
    figures = tmp_path / "ap.json"
    where = ["--images", str(images), "--labels", str(labels), "--json", str(figures)]
    model = str(write_tiny(tmp_path / "tiny.onnx"))
    how = ["--engine", "openvino", "--device", "cpu", "--precision", "f32", "--against-engine", "onnxruntime"]
    pytest.importorskip("faster_coco_eval", reason="accuracy is computed by it")
    assert main(["evaluate", "--model", model, "--against", model, *how, *where]) == 0
    measured = json.loads(figures.read_text())
    assert [m["engine"]["name"] for m in (measured, measured["against"])] == ["openvino", "onnxruntime"]
    assert measured["against"]["drop"] == pytest.approx(0, abs=0.01)


def test_folders_without_pictures_or_labels(tmp_path: Path) -> None:
    images, labels = folders(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no folder"):
        read_samples(tmp_path / "none", labels, LABELS)
    with pytest.raises(ConfigError, match="no pictures"):
        read_samples(tmp_path / "empty", labels, LABELS)
    with pytest.raises(ConfigError, match="no folder"):
        read_samples(images, tmp_path / "none", LABELS)
    with pytest.raises(ConfigError, match="has a label file"):
        read_samples(images, tmp_path / "empty", LABELS)


@pytest.mark.parametrize("verb", ["export", "val", "evaluate", "quantize", "make", "build", "inspect"])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert verb in capsys.readouterr().out


def test_a_damaged_and_a_huge_picture_are_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")
    images, labels = folders(tmp_path)
    (images / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    model = str(write_tiny(tmp_path / "tiny.onnx"))
    arguments = ["evaluate", "--model", model, "--images", str(images), "--labels", str(labels)]
    assert main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr().out
    assert "skipped: can't read the picture" in said and "damaged.jpg': damaged, or not a picture" in said
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 2
    (images / "damaged.jpg").unlink()
    huge = png_header(40_000, 30_000)
    (images / "huge.png").write_bytes(huge)
    assert main(arguments) == 0
    assert "huge.png': 40000x30000 is above the limit of 200000000 pixels" in capsys.readouterr().out
    (images / "huge2.png").write_bytes(huge)
    assert main(arguments) == 2
    assert "2 of 4 pictures can't be read (huge.png, huge2.png)" in capsys.readouterr().err
