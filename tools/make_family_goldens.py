"""Writes tests/data/families.json: what each family's own code makes of the outputs of `tests.family_outputs`.

Needs, in an environment of its own: torch, torchvision, pixeltable-yolox 0.4.3 (YOLOX, Apache-2.0), pydfine 0.2.1
(D-FINE's postprocessor, Apache-2.0) and libreyolo 1.6.0 (MIT; PaddleDetection's PicoDet and MMDetection's
RTMDet, ported).
Run from the repository's root: ``python -m tools.make_family_goldens``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.family_outputs import CASES, CLASSES, raw_output

GOLDENS = Path(__file__).parent.parent / "tests" / "data" / "families.json"


def main() -> None:
    """Makes every case and writes the file."""
    made = {case: _case(case) for case in CASES}
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(golden)}" for case, golden in made.items())
    GOLDENS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _case(case: str) -> dict[str, Any]:
    family, output, (width, height), (frame_width, frame_height), conf, iou = CASES[case]
    rows = torch.from_numpy(raw_output(case))
    if family == "yolox":
        scores, classes, boxes = _yolox(rows, output, (width, height), conf, iou)
    elif family == "d-fine":
        scores, classes, boxes = _d_fine(rows, (frame_width, frame_height), conf)
    else:
        scores, classes, boxes = _libreyolo(family, rows, (width, height), conf, iou)
    if family != "d-fine":
        boxes = boxes * np.tile([frame_width / width, frame_height / height], 2)
    boxes = boxes.clip(0, np.tile([frame_width, frame_height], 2))
    shown = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order = shown[np.argsort(-scores[shown], kind="stable")]
    return {
        "scores": np.round(scores[order], 6).tolist(),
        "class_ids": classes[order].astype(int).tolist(),
        "boxes_xyxy": np.round(boxes[order], 4).tolist(),
    }


def _yolox(rows: Any, output: str, size_wh: tuple[int, int], conf: float, iou: float) -> tuple[np.ndarray, ...]:
    from yolox.models.yolo_head import YoloxHead
    from yolox.utils.boxes import postprocess

    scores, boxes = rows[:, : CLASSES + 1], rows[:, CLASSES + 1 :]
    prediction = torch.cat([boxes, scores], dim=1)[None]
    if output == "heads":
        head = YoloxHead(CLASSES)
        head.hw = [(size_wh[1] // stride, size_wh[0] // stride) for stride in head.strides]
        prediction = head.decode_outputs(prediction, prediction.dtype)
    (found,) = postprocess(prediction, CLASSES, conf, iou)
    values = found.numpy()
    return values[:, 4] * values[:, 5], values[:, 6], values[:, :4]


def _d_fine(rows: Any, frame_wh: tuple[int, int], conf: float) -> tuple[np.ndarray, ...]:
    from dfine.backends.native.postprocessor import DFINEPostProcessor

    outputs = {
        "pred_logits": torch.logit(rows[None, :, :CLASSES].double()),
        "pred_boxes": rows[None, :, CLASSES:].double(),
    }
    processor = DFINEPostProcessor(num_classes=CLASSES, num_top_queries=len(rows))
    (found,) = processor(outputs, torch.tensor([frame_wh]))
    kept = found["scores"] > conf
    return tuple(found[name][kept].numpy() for name in ("scores", "labels", "boxes"))


def _libreyolo(family: str, rows: Any, size_wh: tuple[int, int], conf: float, iou: float) -> tuple[np.ndarray, ...]:
    from importlib import import_module

    postprocess = import_module(f"libreyolo.postprocess.{family}").postprocess
    strides = (8, 16, 32, 64) if family == "picodet" else (8, 16, 32)
    grids = [(-(-size_wh[1] // stride), -(-size_wh[0] // stride)) for stride in strides]
    levels = torch.split(rows, [height * width for height, width in grids])
    logits = [
        torch.logit(level[:, :CLASSES].double()).T.reshape(1, CLASSES, *grid)
        for level, grid in zip(levels, grids, strict=True)
    ]
    boxes = [level[:, CLASSES:].double().T.reshape(1, -1, *grid) for level, grid in zip(levels, grids, strict=True)]
    found = postprocess((logits, boxes), conf_thres=conf, iou_thres=iou, input_size=size_wh[::-1])
    return tuple(np.array(found[name]) for name in ("scores", "classes", "boxes"))


if __name__ == "__main__":
    main()
