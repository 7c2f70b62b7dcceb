"""Families beside NanoDet: each form of their files gives, on both CPU engines, what the untouched file says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from streamer.common.errors import ConfigError, ModelError
from streamer.detector import open_detector
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.families import FAMILIES
from streamer.models.file import load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.spec import ModelSpec
from tests.family_models import FORMS, HEIGHT, LABELS, WIDTH, FamilyModel, family_model, saved
from tests.family_outputs import CASES, raw_output

GOLDENS = json.loads((Path(__file__).parent / "data" / "families.json").read_text(encoding="utf-8"))
CONF = 0.3


def described(model: FamilyModel, folder: Path) -> Path:
    path = folder / "model.yaml"
    path.write_text(f"name: tiny\nfamily: {model.family}\nlabels: [{', '.join(LABELS)}]\n", encoding="utf-8")
    return path


def picture(seed: int = 0) -> Frame:
    """Twice as large as the input, smooth, so that resizing hardly matters, and of another shape."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Frame(np.ascontiguousarray(np.kron(small, np.ones((30, 40, 1), np.uint8))), "test", 0, 0.0, 0.0)


def expected(model: FamilyModel, frame: Frame) -> Detections:
    """What the untouched file says of a frame: every pair above the threshold, best first."""
    letterbox = Letterbox.for_model(frame, model.spec().with_input_size((WIDTH, HEIGHT)))
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    letterbox.apply(frame, pixels)
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    scores, boxes = model.read(dict(zip(names, session.run(names, model.feed(pixels)), strict=True)))
    rows, classes = np.nonzero(scores > CONF)
    found, sure = letterbox.to_source(boxes[rows].astype(np.float32)), scores[rows, classes]
    shown = np.flatnonzero((found[:, 2:] > found[:, :2]).all(axis=1))
    order = shown[np.argsort(-sure[shown], kind="stable")][:100]
    return Detections(found[order], sure[order].astype(np.float32), classes[order].astype(np.int64))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_what_its_file_says(form: str, engine: str, tmp_path: Path) -> None:
    model = family_model(form)
    path, description = saved(model, tmp_path), described(model, tmp_path)
    with open_detector(
        path, model_config=description, engine=engine, device="cpu", precision="f32", conf=CONF, iou=1.0
    ) as detector:
        for seed in (1, 2):
            frame = picture(seed)
            wanted = expected(model, frame)
            detector.submit(frame)
            _, found, _ = detector.collect()
            assert len(wanted.scores) > 2, "a picture in which something is found"
            assert len(found.scores) == len(wanted.scores)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=2e-3)
            for score, class_id, box in zip(wanted.scores, wanted.class_ids, wanted.boxes_xyxy, strict=True):
                near = (found.class_ids == class_id) & (np.abs(found.scores - score) < 4e-3)
                assert np.abs(found.boxes_xyxy[near] - box).max(axis=1).min() < 0.5


@pytest.mark.parametrize("case", CASES)
def test_decoding_agrees_with_the_reference_implementation(case: str) -> None:
    """The goldens are what each family's own code makes of the same outputs: see tools/make_family_goldens.py."""
    golden = GOLDENS[case]
    family, output, size_wh, frame_wh, conf, iou = CASES[case]
    spec = ModelSpec.from_mapping(
        {"name": case, "family": family, "labels": list(LABELS), "input_size_wh": list(size_wh), "output": output},
        "golden.yaml",
    )
    rows = raw_output(case)
    spec = spec.model_copy(update={"queries": 0 if spec.has_anchors else len(rows)})
    letterbox = Letterbox.fit(frame_wh, size_wh, spec.keep_ratio, spec.padding)
    found = Postprocessor(spec, conf, iou)(rows, letterbox)
    assert len(found.scores) == len(golden["scores"]) > 3
    np.testing.assert_allclose(found.scores, golden["scores"], atol=1e-5)
    assert found.class_ids.tolist() == golden["class_ids"]
    np.testing.assert_allclose(found.boxes_xyxy, golden["boxes_xyxy"], atol=2e-3)


@pytest.mark.parametrize("form", ["yolox-heads", "picodet-boxes", "rtmdet-detections", "d-fine-heads"])
def test_a_description_survives_in_metadata(form: str, tmp_path: Path) -> None:
    model = family_model(form)
    loaded = load_model(saved(model, tmp_path), model.spec())
    onnx.helper.set_model_props(loaded.proto, loaded.spec.to_metadata())
    onnx.save(loaded.proto, tmp_path / "again.onnx")
    again = load_model(tmp_path / "again.onnx")
    assert again.spec == loaded.spec
    assert again.form is not None and again.form.layout.is_plain


def test_a_description_says_only_what_its_family_leaves_open(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("name: my-yolox\nfamily: yolox\nlabels: [gear]\npad_value: 0\n", encoding="utf-8")
    spec = ModelSpec.from_yaml(path)
    assert (spec.strides, spec.padding, spec.pad_value, spec.channel_order) == ((8, 16, 32), "top-left", 0, "BGR")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("family: yolov8", "family: Input should be 'nanodet', 'nanodet-plus', 'picodet', 'yolox', 'rtmdet', 'd-fine'"),
        ("family: picodet\nreg_max: 0", "family picodet has a reg_max above 0, got 0"),
        ("family: yolox\nreg_max: 7", "family yolox has a reg_max of 0, got 7"),
        ("family: yolox\nstrides: []", r"family yolox has strides, got \[\]"),
        ("family: deimv2\nstrides: [8]", r"family deimv2 has no strides, got \[8\]"),
        ("family: rtmdet\npad_value: 256", "pad_value: Input should be less than or equal to 255, got 256"),
    ],
)
def test_a_wrong_description_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(f"name: mine\nlabels: [gear]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=problem):
        ModelSpec.from_yaml(path)


def coco_file(inputs: dict[str, list[int]], outputs: dict[str, list[int]], *, domain: str = "", op: str = "") -> bytes:
    """A file with the outline of one that has COCO's classes; it isn't run."""
    nodes = [helper.make_node("Identity", ["picture"], ["x"])]
    if op:
        nodes.append(helper.make_node(op, ["picture", "k"], ["top", "index"]))
    graph = helper.make_graph(
        nodes,
        "outline",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
    )
    opsets = [helper.make_opsetid("", 16), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


PICTURE = {"picture": [1, 3, 416, 416]}
PICO_HEADS = {f"s{n}": [1, n, 80] for n in (2704, 676, 169, 49)} | {f"b{n}": [1, n, 32] for n in (2704, 676, 169, 49)}


@pytest.mark.parametrize(
    ("content", "family"),
    [
        (coco_file(PICTURE, {"output": [1, 3549, 85]}), "yolox"),
        (coco_file(PICTURE, {"output": [1, 10647, 85]}), None),
        (coco_file(PICTURE, {"output": [1, 3549, 84]}), None),
        (coco_file(PICTURE, PICO_HEADS, domain="Paddle"), "picodet"),
        (coco_file(PICTURE, PICO_HEADS), None),
        (coco_file(PICTURE, {"logits": [1, 300, 80], "boxes": [1, 300, 4]}, op="TopK"), "d-fine"),
        (coco_file(PICTURE, {"logits": [1, 300, 80], "boxes": [1, 300, 4]}), None),
        (
            coco_file(
                PICTURE | {"orig_target_sizes": [1, 2]}, {"labels": [1, 9], "boxes": [1, 9, 4], "scores": [1, 9]}
            ),
            "d-fine",
        ),
        (coco_file(PICTURE, {"dets": [1, 100, 5], "labels": [1, 100]}), None),
    ],
)
def test_the_family_is_recognised_where_the_graph_tells(content: bytes, family: str | None) -> None:
    from streamer.models.graph.recognise import recognised

    spec = recognised(onnx.load_model_from_string(content), "m")
    assert (spec and spec.family) == family
    assert spec is None or (spec.num_classes, spec.labels[0]) == (80, "person")


def test_a_file_that_is_not_recognised_is_refused_in_one_line_that_names_the_families(tmp_path: Path) -> None:
    path = saved(family_model("rtmdet-heads"), tmp_path)
    with pytest.raises(ModelError) as refused:
        load_model(path)
    assert "--model-config" in str(refused.value) and f"family: ({', '.join(FAMILIES)})" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_detection_of_a_class_that_the_description_lacks_is_refused() -> None:
    spec = ModelSpec.from_mapping({"name": "m", "family": "d-fine", "labels": list(LABELS)}, "m.yaml")
    spec = spec.model_copy(update={"output": "detections", "queries": 1})
    rows = np.array([[1, 2, 30, 40, 0.9, 3]], np.float32)
    with pytest.raises(ModelError, match="detects class 3, but its description has 3 labels"):
        Postprocessor(spec)(rows, Letterbox.fit((64, 64), (640, 640), False))
