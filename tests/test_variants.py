"""Model files of all forms, each on both CPU engines, against plain ONNX Runtime and the untouched file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from calibration.agreement import box_overlap
from streamer.common.errors import ModelError
from streamer.detector import self_check
from streamer.detector.self_check import packaged_frame
from streamer.engines import open_engine
from streamer.frames.detections import Detections
from streamer.models.file import load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.spec import ModelSpec
from tests.corpus import corpus
from tests.quantized import pixels
from tests.variants import BOXES, IR, JOINT, PAIRS, QUANTISERS, Variant, build, reference, softmax

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

VARIANTS = list(corpus())
UNDECIDED = {  # as many labels as bins, and no sigmoid to tell which is which
    variant for variant in VARIANTS if variant.labels == 16 and variant.scores == "logits"
}
QUICK = {
    *(Variant(form=form, axes="static") for form in ("joint-flat", "joint-flat-planar", "pairs-chw", "pairs-hwc")),
    *(Variant(form=form) for form in ("joint-planar", "boxes-first", "levels", "two", "pairs-nhwc", *BOXES)),
    *(Variant(form="pairs-nchw", axes=axes) for axes in ("all", "undeclared", "four")),
    *(Variant(form="joint", scores=scores) for scores in ("clip", "slice", "late")),
    *(Variant(opset=17, quantiser=quantiser) for quantiser in QUANTISERS[1:5]),
    *(Variant(form="joint", opset=opset, axes="static") for opset in (9, 10, 21)),
    *(Variant(trick=trick) for trick in ("weight-first", "named", "external", "ort-extended", "const-identity")),
    Variant(kind="half", axes="static"),
    Variant(trick="ir"),
    Variant(form="pairs-nchw", trick="ir-half", axes="static"),
    Variant(quantiser="nncf"),
    Variant(quantiser="nncf", trick="ir"),
    Variant(form="boxes-first", labels=16),
    Variant(form="pairs-rows", labels=16, scores="logits"),
}


def cases() -> list[object]:
    return [
        pytest.param(variant, id=variant.name, marks=[] if variant in QUICK else [pytest.mark.slow])
        for variant in VARIANTS
    ]


def decoded(rows: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """(points, classes + 4): scores, and distances in strides, of what an engine gives."""
    bins = np.arange(spec.reg_max + 1)
    boxes = softmax(rows[:, spec.num_classes :], spec.reg_max).reshape(len(rows), 4, -1) @ bins
    return np.concatenate([rows[:, : spec.num_classes], boxes], axis=1)


def needed(variant: Variant) -> None:
    """Skips what needs a package that isn't installed."""
    if variant.trick in IR:
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if variant.quantiser == "nncf":
        pytest.importorskip("nncf", reason="NNCF is not installed")


def detected(wanted: np.ndarray, spec: ModelSpec) -> Detections:
    """What (points, classes + 4) scores and distances say, score 0.3 and above."""
    near = 1 - np.abs(np.clip(wanted[:, spec.num_classes :, None], 0, spec.reg_max) - np.arange(spec.reg_max + 1))
    bins = np.log(np.maximum(near, 1e-6)).reshape(len(wanted), -1)
    rows = np.concatenate([wanted[:, : spec.num_classes], bins], axis=1).astype(np.float32)
    return Postprocessor(spec, 0.3)(rows, Letterbox.for_model(packaged_frame(), spec))


def unmatched(one: Detections, other: Detections, score: float, iou: float) -> list[float]:
    """Scores of the detections of `one` without one of their class, place and score in `other`; each counts once."""
    overlap = box_overlap(one.boxes_xyxy[:, None], other.boxes_xyxy[None])
    is_same = one.class_ids[:, None] == other.class_ids[None]
    is_near = is_same & (np.abs(other.scores[None] - one.scores[:, None]) <= score) & (overlap >= iou)
    overlap[~is_near] = -1
    scores = []
    for index in range(len(one.scores)):
        best = int(overlap[index].argmax()) if len(other.scores) else -1
        if best >= 0 and overlap[index, best] >= 0:
            overlap[:, best] = -1
        else:
            scores.append(float(one.scores[index]))
    return scores


@pytest.mark.parametrize("variant", cases())
def test_every_variant_is_computed_as_its_file_says(variant: Variant, tmp_path: Path) -> None:
    needed(variant)
    path, spec = build(variant, tmp_path), variant.spec()
    if variant in UNDECIDED:
        with pytest.raises(ModelError, match="doesn't tell scores from boxes.*say order: scores-first") as caught:
            load_model(path, spec)
        assert "\n" not in str(caught.value)
        spec = spec.model_copy(
            update={"order": "boxes-first" if variant.form in ("boxes-first", "reversed") else "scores-first"}
        )
    wanted = reference(variant, path)
    model = load_model(path, spec)
    most_scores, most_boxes = (0.06, 0.35) if variant.quantiser else (0.004, 0.02)
    least_iou = 0.8 if variant.quantiser else 0.99
    for name in ("openvino", "onnxruntime"):
        with contextlib.closing(open_engine(name, model, slots=1, precision="f32")) as engine:
            engine.input(0)[:] = pixels(spec)
            engine.start(0)
            got = decoded(engine.wait(0)[0].copy(), spec)
            self_check.check(model, engine)
        apart = np.abs(got - wanted)
        assert apart[:, : spec.num_classes].max() < most_scores, name
        assert apart[:, spec.num_classes :].max() < most_boxes, name
        found = [detected(rows, model.spec) for rows in (wanted, got)]
        for one, other in (found, found[::-1]):
            lost = unmatched(one, other, most_scores, least_iou)
            borderline = max(score for score in [0.0, *lost])
            assert borderline < 0.3 + most_scores or (variant.quantiser and len(lost) <= 0.03 * len(one.scores)), name


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(VARIANTS) >= 200
    assert set(VARIANTS) >= QUICK
    assert {variant.form for variant in VARIANTS} == {*JOINT, *PAIRS, *BOXES}
