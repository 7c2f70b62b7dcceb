"""From the network's raw output to detections: the NumPy reference that every other implementation must match."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from streamer.common.errors import EngineError, ModelError
from streamer.frames.detections import Detections
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

MAX_DETECTIONS = 100
"""Detections kept in one frame, best first: COCO's own limit."""

MAX_CANDIDATES = 3000
"""(point, class) pairs that reach NMS, best first; far above what a frame holds at any useful threshold."""

NOT_FINITE = "gives numbers that aren't finite: get its file again, or use --precision f32"


class Postprocessor:
    """Decodes one model's output at fixed thresholds.

    Scores are filtered first and only the survivors' distributions are decoded. A distance is the expectation of its
    softmax distribution times the stride (Generalized Focal Loss, arXiv:2006.04388, section 3.2).
    """

    def __init__(
        self, spec: ModelSpec, conf: float = 0.4, iou: float = 0.6, class_ids: Collection[int] | None = None
    ) -> None:
        """Prepares anchor points for `spec`.

        Args:
            spec: the model's description.
            conf: least score to keep, 0 to 1.
            iou: overlap above which the weaker of two boxes of one class is dropped, 0 to 1.
            class_ids: classes to keep; None keeps all.
        """
        self.spec = spec
        self.conf = conf
        self.iou = iou
        self._points = spec.anchor_points()
        self._bins = np.arange(spec.reg_max + 1, dtype=np.float32)
        dropped = set(range(spec.num_classes)) - set(class_ids) if class_ids is not None else set()
        self._dropped = np.array(sorted(dropped), np.int64)

    def __call__(self, output: npt.NDArray[np.float32], letterbox: Letterbox) -> Detections:
        """Decodes one image.

        Args:
            output: (N, classes + 4 (reg_max + 1)) float32, scores after sigmoid, then distributions as logits.
            letterbox: the transform that made the network's input.

        Returns:
            Detections in pixels of the source frame, clipped to it, best first, at most `MAX_DETECTIONS`; each box is
            wider and higher than 0.

        Raises:
            ModelError: if `output` has another shape than the model's description says.
            EngineError: if `output` holds a number that isn't finite, wherever it stands.
        """
        wanted = (len(self._points), self.spec.output_channels)
        if output.shape != wanted:
            raise ModelError(
                f"the model {self.spec.name!r} does not fit its description: wanted a network output of {wanted}, got "
                f"{output.shape}; get the file again, or correct the description"
            )
        if not np.isfinite(output).all():
            raise EngineError(f"the model {self.spec.name!r} {NOT_FINITE}")
        scores = output[:, : self.spec.num_classes]
        point_ids, class_ids = np.divmod(np.flatnonzero(scores > self.conf), self.spec.num_classes)
        if self._dropped.size:
            kept = ~np.isin(class_ids, self._dropped)
            point_ids, class_ids = point_ids[kept], class_ids[kept]
        if not point_ids.size:
            return Detections.empty()
        best = scores[point_ids, class_ids]
        order = np.argsort(-best, kind="stable")[:MAX_CANDIDATES]
        point_ids, class_ids, best = point_ids[order], class_ids[order], best[order]

        unique_ids, inverse = np.unique(point_ids, return_inverse=True)
        boxes = self._boxes(output[unique_ids, self.spec.num_classes :], self._points[unique_ids])[inverse]
        shown = letterbox.to_source(boxes)  # a box in the padding has no area left here
        has_area = (shown[:, 2:] > shown[:, :2]).all(axis=1)
        shown, boxes, best, class_ids = shown[has_area], boxes[has_area], best[has_area], class_ids[has_area]
        groups = np.zeros_like(class_ids) if self.spec.class_agnostic else class_ids
        keep = nms(boxes, groups, self.iou, MAX_DETECTIONS, distance=self.spec.nms == "diou")
        return Detections(shown[keep], best[keep], class_ids[keep])

    def _boxes(self, logits: npt.NDArray[np.float32], points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns boxes (M, 4) in input pixels, clipped to the input as upstream's `distance2bbox` does."""
        logits = logits.reshape(-1, 4, self.spec.reg_max + 1)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        distances = (weights @ self._bins) / weights.sum(axis=2) * points[:, 2:3]
        centres = points[:, :2]
        boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
        width, height = self.spec.input_size_wh
        return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32, copy=False)


def nms(
    boxes_xyxy: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int64],
    iou: float,
    limit: int,
    *,
    distance: bool = False,
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression within each class; only boxes that are kept suppress others.

    Args:
        boxes_xyxy: (N, 4) boxes, best first.
        class_ids: (N,) classes; boxes of different classes never suppress each other.
        iou: overlap above which the weaker box is dropped.
        limit: how many boxes to keep at most.
        distance: take from the overlap the squared distance of two boxes' centres, as a part of the squared diagonal of
            the least box around both (DIoU-NMS, arXiv:1911.08287, section 3.4).

    Returns:
        Indices of the kept boxes, best first, (K,) int64.
    """
    areas = np.prod(np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0), axis=1)
    rest = np.arange(len(boxes_xyxy))
    keep: list[int] = []
    while rest.size and len(keep) < limit:
        first, rest = int(rest[0]), rest[1:]
        keep.append(first)
        others = boxes_xyxy[rest]
        corner = np.minimum(boxes_xyxy[first, 2:], others[:, 2:]) - np.maximum(boxes_xyxy[first, :2], others[:, :2])
        overlap = np.prod(np.maximum(corner, 0), axis=1)
        union = areas[first] + areas[rest] - overlap
        least = iou * union
        if distance:
            around = np.maximum(boxes_xyxy[first, 2:], others[:, 2:]) - np.minimum(boxes_xyxy[first, :2], others[:, :2])
            apart = (boxes_xyxy[first, :2] + boxes_xyxy[first, 2:] - others[:, :2] - others[:, 2:]) / 2
            least = least + union * (apart**2).sum(axis=1) / np.maximum((around**2).sum(axis=1), 1e-9)
        suppressed = (overlap > least) & (class_ids[rest] == class_ids[first])
        rest = rest[~suppressed]
    return np.array(keep, np.int64)
