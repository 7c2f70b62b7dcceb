"""Does this processor and runtime compute the model correctly?

Runtimes have computed INT8 models wrongly, without an error, on processors that they weren't tested on. A file can
store what it detects in one packaged picture; an engine's detections must match before any frame is shown. For a file
that stores nothing, the engine's output must match that of the untouched file (see `streamer.detector.reference`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamer.common.errors import EngineError, ModelError
from streamer.detector.reference import approval_path, difference_of_rows, mark_approved, reference_rows
from streamer.engines.base import Engine
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.models.described import DescribedModel
from streamer.models.families import scores_of
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import NOT_FINITE, Postprocessor
from streamer.models.spec import METADATA_PREFIX

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

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
_NUDGE = 1.0001

Output = npt.NDArray[np.float32]


def packaged_frame() -> Frame:
    """Returns the packaged picture."""
    import cv2

    return Frame(np.asarray(cv2.imread(str(PICTURE)), np.uint8), "self-check", 0, 0.0, 0.0)


def find_in_picture(model: DescribedModel, engine: Engine) -> Detections:
    """Returns what `engine`, idle, detects in the packaged picture with `model`."""
    frame = packaged_frame()
    return _decode(model, _run(model, engine, frame), frame)


def _run(model: DescribedModel, engine: Engine, frame: Frame) -> Output:
    Letterbox.for_model(frame, model.spec).apply(frame, engine.input(0))
    engine.start(0)
    return engine.wait(0)[0]


def _decode(model: DescribedModel, output: Output, frame: Frame) -> Detections:
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
    """Stores what `engine`, idle, detects in the metadata of `model.proto`: scores to two decimals, whole pixels.

    A network that is sure of a crowd is hardly trained; nothing is stored for it, as rounding alone reorders a crowd.
    """
    import onnx

    found = find_in_picture(model, engine)
    if (found.scores >= _SURE_CONF).sum() > _CROWD:
        return
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
    kept = {entry.key: entry.value for entry in model.proto.metadata_props}
    kept[KEY] = json.dumps([[c, round(score, 2), *(round(edge) for edge in box)] for c, score, box in rows])
    onnx.helper.set_model_props(model.proto, kept)


def check(model: ModelFile, engine: Engine) -> None:
    """Runs the packaged picture through an idle CPU engine; see `check_output`."""
    check_output(model, engine.name, lambda frame: _run(model, engine, frame), engine.precision)


def check_output(
    model: ModelFile, engine_name: str, output_of: Callable[[Frame], Output], computed_by: str = ""
) -> None:
    """Compares an engine's result for the packaged picture with what the model file stores, or computes untouched.

    Args:
        model: what is run.
        engine_name: what runs it.
        output_of: runs it on a frame and returns the raw output, (N, channels) float32.
        computed_by: what the output depends on apart from the engine and the processor.

    Raises:
        EngineError: if the result differs, or isn't finite: the file is damaged, or this processor or runtime computes
            it wrongly.
        ModelError: if the metadata is damaged, or the output has another shape than described, or no scores.
    """
    text = next((entry.value for entry in model.proto.metadata_props if entry.key == KEY), None)
    expected = None if text is None else _read(text)
    engine = f"{engine_name} {computed_by}"
    approval = None if expected is not None or model.form is None else approval_path(model, engine)
    if approval is not None and approval.is_file():
        return  # it was correct before, with the same packages on this processor
    frame = packaged_frame()
    output = output_of(frame)
    found = _decode(model, output, frame)
    if approval is not None and _compare_with_file(model, engine, output, frame):
        mark_approved(approval)
    if expected is not None and (problem := difference(expected, found)):
        raise EngineError(
            f"{engine_name} computes {model.path.name} wrongly ({problem}): if the file is intact, the cause is this "
            "processor; download the file again, or use a float model (--model nanodet-g_416_float) or another "
            "--engine; --no-self-check runs it anyway"
        )


def _compare_with_file(model: ModelFile, engine: str, output: Output, frame: Frame) -> bool:
    """Compares an engine's output for a frame with the untouched file's; returns False where no package runs that."""
    width, height = model.spec.input_size_wh
    pixels = np.zeros((height, width, 3), np.uint8)
    Letterbox.for_model(frame, model.spec).apply(frame, pixels)
    reference = reference_rows(model, pixels)
    if reference is None:
        log.warning(
            "no package here runs %s unchanged: can't check that %s computes it correctly", model.path.name, engine
        )
        return False
    problem = _difference_of_outputs(model, reference, output, frame)
    if problem:
        cause = "use another --engine, or export or quantise the model again"
        again = reference_rows(model, pixels, factor=_NUDGE)
        if again is not None and _difference_of_outputs(model, reference, again, frame):
            cause = (
                "so does the file from itself when the picture changes by a ten-thousandth: rounding errors decide "
                "this network's output; train it, or quantise it again"
            )
        raise EngineError(
            f"{engine.strip()} computes {model.path.name} differently from the file itself ({problem}): {cause}; "
            "--no-self-check runs it anyway"
        )
    return True


def _difference_of_outputs(model: ModelFile, reference: Output, output: Output, frame: Frame) -> str | None:
    """Describes the first difference of two outputs in one phrase, or returns None."""
    if model.spec.has_anchors:
        return difference_of_rows(reference, output, model.spec)
    # rows are sorted by score, and rounding alone reorders them
    return difference(*(_decode(model, rows, frame) for rows in (reference, output)))


def difference(expected: Detections, found: Detections) -> str | None:
    """Describes the first difference in one phrase, or returns None.

    Every sure detection on either side needs one on the other with its class, nearly its score and nearly its box.
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
