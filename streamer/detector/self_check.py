"""Does this processor and runtime compute the model rightly? One packaged picture, detections known beforehand.

Runtimes have computed INT8 models wrongly without a word on processors they were never tried on. A model file can carry
what it finds in one packaged picture; what an engine finds must match that before any frame is shown. Of a file that
says nothing, the engine's output must be that of the file itself (see `streamer.detector.reference`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from streamer.common.errors import EngineError, ModelError
from streamer.detector.reference import approval, approve, difference_of_rows, reference_rows
from streamer.engines.base import Engine
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.families import scores_of
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import NOT_FINITE, Postprocessor
from streamer.models.spec import METADATA_PREFIX

log = logging.getLogger(__name__)

KEY = f"{METADATA_PREFIX}self_check"
"""Metadata: JSON of [[class id, score, left, top, right, bottom], ...] in pixels of the packaged picture."""

PICTURE = Path(__file__).parent.parent / "data" / "self_check.png"
_RECORDED_CONF = 0.3
_SURE_CONF = 0.5
_MIN_IOU = 0.75
_CROWD = 20
_MAX_SCORE_DIFFERENCE = 0.12
_ROUNDING = 0.01
_SIGMOID_OF_ONE = 0.7311


Output = npt.NDArray[np.float32]


def find_in_picture(model: ModelFile, engine: Engine) -> Detections:
    """Returns what `engine`, idle, finds in the packaged picture with `model`."""
    return _find(model, lambda frame: _run(model, engine, frame))


def _run(model: ModelFile, engine: Engine, frame: Frame) -> Output:
    letterbox = Letterbox.for_model(frame, model.spec)
    letterbox.apply(frame, engine.input(0))
    engine.start(0)
    return engine.wait(0)[0]


def packaged_frame() -> Frame:
    """Returns the packaged picture."""
    import cv2

    return Frame(np.asarray(cv2.imread(str(PICTURE)), np.uint8), "self-check", 0, 0.0, 0.0)


def _find(model: ModelFile, output_of: Callable[[Frame], Output]) -> Detections:
    frame = packaged_frame()
    return _decoded(model, output_of(frame), frame)


def _decoded(model: ModelFile, output: Output, frame: Frame) -> Detections:
    if not np.isfinite(output).all():
        raise EngineError(f"the model {model.path.name!r} {NOT_FINITE}")
    found = Postprocessor(model.spec, _RECORDED_CONF)(output, Letterbox.for_model(frame, model.spec))
    scores = scores_of(output, model.spec)
    least, greatest = float(scores.min()), float(scores.max())
    if least < -_ROUNDING or greatest > 1 + _ROUNDING:
        raise ModelError(
            f"{str(model.path)!r} gives scores from {least:.2f} to {greatest:.2f}, which are no probabilities: correct "
            "labels, reg_max, scores or order of its description"
        )
    if least >= 0.5 and 0.5 < greatest <= _SIGMOID_OF_ONE:
        raise ModelError(
            f"{str(model.path)!r} gives no score below 0.5: they went through a sigmoid twice; say scores: "
            "probabilities in its description"
        )
    return found


def record(model: ModelFile, engine: Engine) -> None:
    """Writes what `engine`, idle, finds into the metadata of `model.proto`: scores to two decimals, whole pixels.

    Of a network that is sure of a crowd, and so hardly trained, nothing is recorded: rounding alone reorders a crowd.
    """
    found = find_in_picture(model, engine)
    if (found.scores >= _SURE_CONF).sum() > _CROWD:
        return
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
    kept = {entry.key: entry.value for entry in model.proto.metadata_props}
    kept[KEY] = json.dumps([[c, round(score, 2), *(round(edge) for edge in box)] for c, score, box in rows])
    onnx.helper.set_model_props(model.proto, kept)


def check(model: ModelFile, engine: Engine) -> None:
    """Runs the packaged picture and compares with what the model file says, or what it computes untouched.

    Raises:
        EngineError: if the detections or outputs differ, or the output isn't finite: the file is damaged, or this
            processor or runtime computes it wrongly.
        ModelError: if the metadata is damaged, or the output has another shape than described, or no scores.
    """
    check_output(model, engine.name, lambda frame: _run(model, engine, frame), engine.precision)


def check_output(
    model: ModelFile, engine_name: str, output_of: Callable[[Frame], Output], computed_by: str = ""
) -> None:
    """Does what `check` does with whatever makes the network's raw output, (N, channels) float32, of a frame.

    Args:
        model: what is run.
        engine_name: what runs it.
        output_of: runs it.
        computed_by: what the output depends on beside the engine's and the processor's names.

    Raises:
        EngineError, ModelError: as `check`.
    """
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == KEY), None)
    expected = None if text is None else _read(text)
    frame = packaged_frame()
    output = output_of(frame)
    found = _decoded(model, output, frame)
    if expected is None:
        _compare_with_file(model, f"{engine_name} {computed_by}", output, frame)
        return
    problem = difference(expected, found)
    if problem:
        raise EngineError(
            f"{engine_name} computes {model.path.name} wrongly ({problem}): where the file is whole, this processor is "
            "at fault; get the file again, or use a float model (--model nanodet-g_416_float) or another --engine; "
            "--no-self-check runs it all the same"
        )


def _compare_with_file(model: ModelFile, engine: str, output: Output, frame: Frame) -> None:
    """Compares an engine's output for a frame with that of the untouched file, once for a file, engine and machine."""
    approved = approval(model, engine)
    if model.form is None or approved.is_file():
        return
    width, height = model.spec.input_size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    Letterbox.for_model(frame, model.spec).apply(frame, pixels)
    reference = reference_rows(model, pixels)
    if reference is None:
        log.warning(
            "nothing here runs %s as it is: whether %s computes it rightly isn't known", model.path.name, engine
        )
        return
    if model.spec.has_anchors:
        problem = difference_of_rows(reference, output, model.spec)
    else:  # rows are ranked by score, and rounding alone reorders them
        problem = difference(*(_decoded(model, rows, frame) for rows in (reference, output)))
    if problem:
        raise EngineError(
            f"{engine.strip()} computes {model.path.name} otherwise than the file says ({problem}): use another "
            "--engine, or export or quantise the model again; --no-self-check runs it all the same"
        )
    approve(approved)


def difference(expected: Detections, found: Detections) -> str | None:
    """Says in one phrase how `found` differs from `expected`, or returns None where it doesn't by much.

    Every sure detection on either side needs a partner of its class and place, of nearly its score, on the other.
    """
    for one, other, word in ((expected, found, "missed"), (found, expected, "made up")):
        for score, class_id, box in zip(one.scores, one.class_ids, one.boxes_xyxy, strict=True):
            if score < _SURE_CONF:
                continue
            near = (other.class_ids == class_id) & (np.abs(other.scores - score) <= _MAX_SCORE_DIFFERENCE)
            if not (near & (_iou(box, other.boxes_xyxy) >= _MIN_IOU)).any():
                return f"{word} class {class_id} at score {score:.2f}"
    return None


def _iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    overlap = np.prod(np.maximum(corner, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - overlap
    return np.asarray(overlap / np.maximum(union, 1e-9), np.float32)


def _read(text: str) -> Detections:
    try:
        rows = np.array(json.loads(text), np.float32).reshape(-1, 6)
        if not np.isfinite(rows).all():
            raise ValueError("not a number")
        return Detections(rows[:, 2:], rows[:, 1], rows[:, 0].astype(np.int64))
    except (ValueError, TypeError, RecursionError):
        raise ModelError(f"the model's metadata is damaged at {KEY!r}: make the model again") from None
