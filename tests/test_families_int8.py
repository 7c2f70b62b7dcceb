"""Families beside NanoDet through the INT8 gate, and in the benchmark of models."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("nncf", reason="needs the calibration extra")

from benchmarks.zoo import main as zoo
from calibration.agreement import fidelity
from calibration.quantize import quantize
from streamer.common.errors import ModelError
from streamer.detector import open_detector
from streamer.models.file import load_model
from tests.family_models import family_model, saved
from tests.test_families import described, picture


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03}.png"), picture(index).image)
    return folder


@pytest.mark.parametrize(
    "form", ["picodet-heads", "yolox-heads", "rtmdet-heads", "d-fine-heads", "deimv2-detections", "picodet-detections"]
)
def test_the_gate_writes_a_file_that_describes_itself(form: str, tmp_path: Path) -> None:
    model = family_model(form)
    path, images = saved(model, tmp_path), pictures(tmp_path / "images", 16)
    output = tmp_path / "int8.onnx"
    report = quantize(path, output, images=images, spec=model.spec(), method="nncf", max_minutes=1, distill=False)
    assert report.quantized_layers > 0
    again = load_model(output)
    assert again.quantized
    assert again.spec.output == load_model(path, model.spec()).spec.output
    for engine in ("openvino", "onnxruntime"):
        with (
            open_detector(path, model_config=described(model, tmp_path), engine=engine, device="cpu") as float_detector,
            open_detector(output, engine=engine, device="cpu") as detector,
        ):
            for seed in (1, 2):
                for each in (float_detector, detector):
                    each.submit(picture(seed))
                wanted, found = float_detector.collect()[1], detector.collect()[1]
                assert abs(len(wanted.scores) - len(found.scores)) <= max(2, len(wanted.scores) // 4)
                assert len(found.scores) > 0
                assert abs(found.scores[0] - wanted.scores[0]) < 0.1


@pytest.mark.parametrize("form", ["yolox-heads", "rtmdet-heads", "d-fine-heads", "picodet-detections"])
def test_fidelity_is_of_boxes_whatever_the_family(form: str) -> None:
    model = family_model(form)
    spec = model.spec()
    random = np.random.default_rng(0)
    if form == "picodet-detections":
        spec = spec.model_copy(update={"output": "detections"})
        corner = random.random((12, 2)) * 50
        boxes = np.concatenate([corner, corner + 20], axis=1)
        rows = np.concatenate([boxes, random.random((12, 1)) + 0.1, random.integers(0, 3, (12, 1))], axis=1)
    else:
        spec = spec.with_input_size((96, 64))
        count = spec.num_points or 12
        rows = random.random((count, spec.output_channels)) * 0.5 + 0.25
    output = rows.astype(np.float32)
    weaker = output.copy()
    column = slice(4, 5) if form == "picodet-detections" else slice(0, spec.score_channels)
    weaker[:, column] *= 0.5
    assert fidelity(spec, [output], [output]) == pytest.approx(1)
    assert 0.2 < fidelity(spec, [output], [weaker]) < 0.7
    if not spec.has_anchors:  # their rows are in any order
        assert fidelity(spec, [output], [output[::-1]]) == pytest.approx(1)
    assert fidelity(spec, [output], [output[:0]] if not spec.has_anchors else [output * 0]) == 0


def test_distillation_says_what_it_needs() -> None:
    pytest.importorskip("torch", reason="needs the calibration extra")
    from calibration.distill import tune

    model = family_model("yolox-heads")
    with pytest.raises(ModelError, match="boxes as distributions, and yolox has none"):
        tune(model.proto, model.proto, model.spec(), [])


def test_the_benchmark_of_models_takes_one_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("supervision", reason="needs the bench extra")
    model = family_model("rtmdet-boxes")
    path, images = saved(model, tmp_path), pictures(tmp_path / "images", 2)
    config = str(described(model, tmp_path))
    options = ["--images", str(images), "--model-config", config, "--rounds", "1", "--threads", "1"]
    assert zoo([str(path), *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| rtmdet-boxes")]
    assert len(lines) == 3
    assert all(line.split("|")[4].strip() == "-" for line in lines)
