"""Quantising: dataset splits, agreement, the bootstrap, bad inputs, and a small network the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.agreement import agreement, fidelity
from calibration.bootstrap import WeightedAp
from calibration.files import write_whole
from calibration.labels import Sample
from calibration.pictures import Picture, split
from calibration.quantize import quantize
from streamer.common.errors import ConfigError, ModelError
from streamer.frames.detections import Detections
from streamer.models.file import load_model
from streamer.models.graph.int8 import RANGES_KEY
from streamer.models.letterbox import Letterbox
from tests.media import png_header
from tests.tiny import tiny_model, tiny_spec, write_tiny


def pictures(folder: Path, count: int, *, first: int = 0) -> Path:
    folder.mkdir()
    random = np.random.default_rng(first)
    for index in range(first, first + count):
        small = random.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.png"), cv2.resize(small, (96, 72), interpolation=cv2.INTER_NEAREST))
    return folder


def labels(folder: Path, images: Path) -> Path:
    folder.mkdir()
    for index, image in enumerate(sorted(images.iterdir())):
        (folder / f"{image.stem}.txt").write_text(f"{index % 3} 0.5 0.5 0.4 0.4\n")
    return folder


def found(*boxes: tuple[float, float, float, float, float, int]) -> Detections:
    rows = np.array(boxes, np.float64).reshape(-1, 6)
    return Detections(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64))


BOX = (10, 10, 50, 50)


@pytest.mark.parametrize(
    ("reference", "tested", "counts"),
    [
        (found(), found(), (0, 0, 0)),
        (found((*BOX, 0.9, 1)), found(), (0, 1, 0)),
        (found(), found((*BOX, 0.9, 1)), (0, 0, 1)),
        (found((*BOX, 0.9, 1)), found((*BOX, 0.8, 1)), (1, 0, 0)),
        (found((*BOX, 0.9, 1)), found((*BOX, 0.9, 2)), (0, 1, 1)),
        (found((*BOX, 0.41, 1)), found((*BOX, 0.39, 1)), (1, 0, 0)),
        (found((*BOX, 0.39, 1)), found((*BOX, 0.35, 1)), (0, 0, 0)),
        (found((*BOX, 0.9, 1)), found((60, 60, 90, 90, 0.9, 1)), (0, 1, 1)),
        (found((*BOX, 0.9, 1)), found((*BOX, 0.9, 1), (*BOX, 0.8, 1)), (1, 0, 1)),
    ],
)
def test_agreement_counts(reference: Detections, tested: Detections, counts: tuple[int, int, int]) -> None:
    seen = agreement([reference], [tested])
    assert (seen.matched, seen.misses, seen.extras) == counts


def test_agreement_score() -> None:
    seen = agreement([found((*BOX, 0.9, 1))], [found((10, 10, 50, 40, 0.8, 1))])
    assert seen.mean_iou == pytest.approx(0.75)
    assert seen.score == pytest.approx(0.65)
    assert agreement([found()], [found()]).score == 1
    assert agreement([found((*BOX, 0.9, 1))], [found()]).score == 0
    with pytest.raises(ValueError):
        agreement([found()], [])


def test_fidelity_falls_with_scores_and_boxes() -> None:
    spec = tiny_spec()
    output = np.zeros((spec.num_points, spec.output_channels), np.float32)
    assert fidelity(spec, [output], [output]) == 1
    output[40, 0] = 0.8
    assert fidelity(spec, [output], [output]) == pytest.approx(1)
    weaker, moved = output.copy(), output.copy()
    weaker[40, 0] = 0.6
    moved[40, spec.num_classes :] = np.tile([5, 0, 0, 0], 4)
    assert fidelity(spec, [output], [weaker]) == pytest.approx(0.75)
    assert fidelity(spec, [output], [moved]) < 0.5
    assert fidelity(spec, [output], [np.full_like(output, np.nan)]) < 0.1


def random_scene(seed: int, count: int = 12) -> tuple[list[Picture], list[Detections]]:
    """Ground truth, and detections that are near it, doubled, missing or wrong."""
    random = np.random.default_rng(seed)
    scene, detections = [], []
    for index in range(count):
        size = random.integers(1, 6)
        centres, sides = random.uniform(0.3, 0.7, (size, 2)), random.uniform(0.1, 0.5, (size, 2))
        sample = Sample(Path(f"{index}.jpg"), random.integers(0, 3, size), np.hstack([centres, sides]))
        scene.append(
            Picture(sample, (200, 100), Letterbox.fit((200, 100), (64, 64), True), np.zeros((64, 64, 3), np.uint8))
        )
        corners = np.hstack([centres - sides / 2, centres + sides / 2]) * [200, 100, 200, 100]
        boxes = np.vstack([corners, corners]) + random.normal(0, 4, (2 * size, 4))
        scores = np.sort(random.uniform(0.05, 1, 2 * size))[::-1].astype(np.float32)
        ids = np.tile(sample.class_ids, 2)
        ids[random.random(2 * size) < 0.2] = 1
        detections.append(Detections(boxes.astype(np.float32), scores, ids))
    return scene, detections


def test_bootstrap_counts_ap_as_coco_does() -> None:
    pytest.importorskip("faster_coco_eval", reason="the calibration extra is not installed")
    from calibration.accuracy import coco_accuracy

    for seed in range(4):
        scene, detections = random_scene(seed)
        times = np.random.default_rng(seed).integers(0, 3, len(scene))
        picked = np.repeat(np.arange(len(scene)), times)
        wanted = coco_accuracy(
            [scene[i].sample for i in picked], [(scene[i].size_wh, detections[i]) for i in picked], ("a", "b", "c")
        )
        assert WeightedAp(scene, detections)(times) == pytest.approx(wanted.AP, abs=1e-6)
        assert wanted.AP > 5


def test_split_is_disjoint_and_reproducible(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 40)
    parts = split(tiny_spec(), images)
    names = [[p.sample.image.name for p in part] for part in (parts.calibration, parts.validation, parts.gate)]
    assert [len(part) for part in names] == [10, 15, 30]
    assert len({*names[0], *names[2]}) == 40
    assert set(names[1]) < set(names[2])
    again = split(tiny_spec(), images)
    assert [p.sample.image.name for p in again.gate] == names[2]


def test_split_with_gate_pictures(tmp_path: Path) -> None:
    images, others = pictures(tmp_path / "a", 16), pictures(tmp_path / "b", 20, first=100)
    parts = split(tiny_spec(), images, None, others)
    assert (len(parts.calibration), len(parts.validation), len(parts.gate)) == (16, 10, 20)
    with pytest.raises(ConfigError, match="share pictures"):
        split(tiny_spec(), images, None, images)
    with pytest.raises(ConfigError, match="--gate-labels"):
        split(tiny_spec(), images, labels(tmp_path / "l", images), others)
    with pytest.raises(ConfigError, match="--gate-images"):
        split(tiny_spec(), images, None, None, tmp_path / "l")


def test_extra_pictures_calibrate_and_are_not_in_the_gate(tmp_path: Path) -> None:
    images, extra = pictures(tmp_path / "a", 40), pictures(tmp_path / "b", 3, first=100)
    plain = split(tiny_spec(), images)
    parts = split(tiny_spec(), images, extra_images=extra)
    assert len(parts.calibration) == len(plain.calibration) + 3
    assert [p.sample.image for p in parts.gate] == [p.sample.image for p in plain.gate]
    assert len(split(tiny_spec(), images, extra_images=images).calibration) == len(plain.calibration)


def test_too_few_or_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "no pictures"), (tmp_path / "missing", "no folder")):
        with pytest.raises(ConfigError, match=words):
            split(tiny_spec(), folder)
    with pytest.raises(ConfigError, match="at least 16 pictures, got 15"):
        split(tiny_spec(), pictures(tmp_path / "few", 15))


def test_unreadable_pictures_are_named_up_to_five_percent(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 39)
    (images / "bad1.png").write_bytes(b"not a picture")
    assert [file.name for file in split(tiny_spec(), images).unreadable] == ["bad1.png"]
    for index in range(2, 4):
        (images / f"bad{index}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"3 of 42 .*bad1.png, bad2.png, bad3.png"):
        split(tiny_spec(), images)


def test_one_damaged_picture_of_a_few_is_passed_over(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 16)
    (images / "huge.png").write_bytes(png_header(40_000, 30_000))
    assert [file.name for file in split(tiny_spec(), images).unreadable] == ["huge.png"]


def test_labels_of_other_pictures(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 16)
    others = labels(tmp_path / "labels", pictures(tmp_path / "others", 16, first=500))
    with pytest.raises(ConfigError, match="no picture"):
        split(tiny_spec(), images, others)


def test_disk_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_whole(tmp_path / "model.onnx", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nncf() -> None:
    pytest.importorskip("nncf", reason="the calibration extra is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.usefixtures("nncf")
def test_models_and_options_that_are_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    model = write_tiny(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="unknown method 'best'"):
        quantize(model, tmp_path / "o.onnx", images=images, method="best")
    with pytest.raises(ConfigError, match="input itself"):
        quantize(model, model, images=images)
    with pytest.raises(ConfigError, match="folder doesn't exist"):
        quantize(model, tmp_path / "none" / "o.onnx", images=images)

    half = tiny_model(tiny_spec())
    weight = half.graph.initializer[0]
    rounded = numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(numpy_helper.from_array(rounded, "weight8.half"))
    half.graph.node.insert(0, helper.make_node("Cast", ["weight8.half"], ["weight8"], to=TensorProto.FLOAT))
    helper.set_model_props(half, tiny_spec().to_metadata())
    onnx.save(half, tmp_path / "half.onnx")
    with pytest.raises(ModelError, match="holds float16"):
        quantize(tmp_path / "half.onnx", tmp_path / "o.onnx", images=images)


@pytest.mark.slow
@pytest.mark.usefixtures("nncf")
def test_the_whole_way(tmp_path: Path) -> None:
    """Float to INT8: signed, zero point 0, float bias, tail in float, same bytes again, refused a second time."""
    images = pictures(tmp_path / "images", 16)
    model = write_tiny(tmp_path / "m.onnx")
    kept = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    report = quantize(model, tmp_path / "a.onnx", images=images, method="nncf", min_agreement=0.0)
    again = quantize(model, tmp_path / "b.onnx", images=images, method="nncf", min_agreement=0.0)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert report.int8_sha256 == again.int8_sha256
    assert report.quantized_layers == 3

    artifact = onnx.load(tmp_path / "a.onnx")
    metadata = {entry.key: entry.value for entry in artifact.metadata_props}
    assert kept.items() <= metadata.items()
    assert json.loads(metadata["nanodet.int8_float_sha256"]) == report.float_sha256
    ranges = json.loads(metadata[RANGES_KEY])
    assert list(ranges) == sorted(ranges)  # not in the order of a set, which differs from process to process
    assert load_model(tmp_path / "a.onnx").quantized
    constants = {c.name: numpy_helper.to_array(c) for c in artifact.graph.initializer}
    quantizers = [node for node in artifact.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    for node in quantizers:
        zero = constants[node.input[2]]
        assert (zero.dtype, zero.size, int(zero.ravel()[0])) == (np.int8, 1, 0)
    made_by = {output: node for node in artifact.graph.node for output in node.output}
    tail = [node for node in artifact.graph.node if node.op_type in ("Sigmoid", "Concat", "Split")]
    assert tail and all(made_by[n].op_type != "DequantizeLinear" for node in tail for n in node.input if n in made_by)

    content = json.loads((tmp_path / "a.json").read_text())
    assert content["method"] == "nncf"
    assert {verdict["engine"] for verdict in content["verdicts"]} <= {"openvino", "onnxruntime"}
    assert "| engine | threads |" in (tmp_path / "a.md").read_text()
    with pytest.raises(ModelError, match="quantised already"):
        quantize(tmp_path / "a.onnx", tmp_path / "c.onnx", images=images)


@pytest.mark.slow
@pytest.mark.usefixtures("nncf")
def test_gate_refuses_and_writes_nothing(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images", 16)
    with pytest.raises(ModelError, match=r"not written.*agreement of at least 1\.1"):
        quantize(write_tiny(tmp_path / "m.onnx"), tmp_path / "o.onnx", images=images, method="nncf", min_agreement=1.1)
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.slow
@pytest.mark.usefixtures("nncf")
def test_onnxruntime_does_not_warn_of_weights_listed_as_inputs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(2)  # its default, warnings: it may have been changed in this process
    model = onnx.load(write_tiny(tmp_path / "m.onnx"))
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    onnx.save(model, tmp_path / "listed.onnx")
    images = pictures(tmp_path / "images", 16)
    quantize(tmp_path / "listed.onnx", tmp_path / "o.onnx", images=images, method="minmax", min_agreement=0.0)
    assert "onnxruntime" not in capfd.readouterr().err
