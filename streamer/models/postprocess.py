"""The network's raw output to detections: the NumPy reference that the GPU kernel must match."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from streamer.common.errors import EngineError, ModelError, counted
from streamer.frames.detections import Detections, Keep
from streamer.models.families import FAMILIES, boxes_of, scores_of
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

MAX_DETECTIONS = 100
"""Detections kept in one frame, best first: COCO's own limit."""

MAX_CANDIDATES = 3000
"""(point, class) pairs that reach NMS, best first."""

NOT_FINITE = "produced NaN or Inf: get its file again, or use --precision f32"


class Postprocessor:
    """Decodes one model's output at fixed thresholds, as its family (`streamer.models.families`) defines.

    Attributes:
        spec: the model's description.
        conf: lowest score of any class that is kept, 0 to 1.
        thresholds: (num_classes,) float32, lowest score of each class.
        iou: overlap above which the weaker of two boxes of one class is dropped, 0 to 1.
        wanted: (num_classes,) bool, the classes to keep.
    """

    def __init__(
        self,
        spec: ModelSpec,
        conf: float | npt.NDArray[np.float32] = 0.4,
        iou: float = 0.6,
        class_ids: Collection[int] | None = None,
        keep: Keep | None = None,
    ) -> None:
        """See the attributes.

        Args:
            spec: the model's description.
            conf: lowest score to keep, of all classes or of each, (num_classes,).
            iou: see the attribute.
            class_ids: the classes to keep; None keeps all.
            keep: drops more of what was found in a frame; None drops nothing.
        """
        self.spec = spec
        self.iou = iou
        self._keep = keep
        self._family = FAMILIES[spec.family]
        self._points = spec.anchor_points()
        self.wanted = np.full(spec.num_classes, class_ids is None)
        self.wanted[list(class_ids or ())] = True
        self._wants_all = bool(self.wanted.all())
        self.thresholds = np.broadcast_to(np.asarray(conf, np.float32), (spec.num_classes,))
        self._is_uniform = not isinstance(conf, np.ndarray)
        lowest = self.thresholds[self.wanted].min(initial=1.0)
        self.conf = float(lowest) if isinstance(conf, np.ndarray) else conf

    def with_thresholds(
        self, conf: float | npt.NDArray[np.float32], class_ids: Collection[int] | None
    ) -> Postprocessor:
        """Returns one that keeps other scores and classes, and is the same in all else; arguments as above."""
        return Postprocessor(self.spec, conf, self.iou, class_ids, self._keep)

    def __call__(self, output: npt.NDArray[np.float32], letterbox: Letterbox) -> Detections:
        """Decodes one image.

        Args:
            output: (N, channels) float32 as `ModelSpec` describes it.
            letterbox: the transform that made the network's input.

        Returns:
            Detections in pixels of the source frame, clipped to it, best first, at most `MAX_DETECTIONS`; boxes have
            an area above 0.

        Raises:
            ModelError: `output` has another shape than the description says.
            EngineError: `output` contains NaN or Inf.
        """
        spec = self.spec
        wanted = (spec.num_points or output.shape[0], spec.output_channels)
        if output.shape != wanted:
            raise ModelError(
                f"the model {spec.name!r} does not fit its description: wanted a network output of {wanted}, got "
                f"{output.shape}; get the file again, or correct the description"
            )
        if not np.isfinite(output).all():
            raise EngineError(f"the model {spec.name!r} {NOT_FINITE}")
        row_ids, class_ids, best = self._candidates(output)
        if not self._wants_all:
            kept = self.wanted[class_ids]
            row_ids, class_ids, best = row_ids[kept], class_ids[kept], best[kept]
        if not self._is_uniform:
            kept = best > self.thresholds[class_ids]
            row_ids, class_ids, best = row_ids[kept], class_ids[kept], best[kept]
        if not row_ids.size:
            return Detections.empty(spec.labels)
        order = np.argsort(-best, kind="stable")[:MAX_CANDIDATES]
        row_ids, class_ids, best = row_ids[order], class_ids[order], best[order]

        unique_ids, inverse = np.unique(row_ids, return_inverse=True)
        points = self._points[unique_ids] if spec.has_anchors else self._points
        boxes = boxes_of(output[unique_ids], points, spec)[inverse]
        shown = letterbox.to_source(boxes)  # a box in the padding has no area left here
        has_area = (shown[:, 2:] > shown[:, :2]).all(axis=1)
        shown, boxes, best, class_ids = shown[has_area], boxes[has_area], best[has_area], class_ids[has_area]
        if spec.suppresses:
            groups = np.zeros_like(class_ids) if spec.class_agnostic else class_ids
            keep = nms(boxes, groups, self.iou, MAX_DETECTIONS, distance=spec.nms == "diou")
        else:
            keep = np.arange(min(len(best), MAX_DETECTIONS))
        found = Detections(shown[keep], best[keep], class_ids[keep], labels=spec.labels)
        return found if self._keep is None else self._keep(found, letterbox.source_wh)

    def select(self, detections: Detections, letterbox: Letterbox) -> Detections:
        """Returns which of the detections that another decoder found above `conf`, the lowest score, are kept."""
        if not self._is_uniform:
            detections = detections.where(detections.scores > self.thresholds[detections.class_ids])
        return detections if self._keep is None else self._keep(detections, letterbox.source_wh)

    def _candidates(
        self, output: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Returns row, class and score of each pair above the threshold.

        Raises:
            ModelError: a detection from the graph has a class that the description lacks.
        """
        spec = self.spec
        if spec.output == "detections":
            beyond = output[(output[:, 4] > self.conf) & (output[:, 5] >= spec.num_classes), 5]
            if beyond.size:
                raise ModelError(
                    f"the model {spec.name!r} detects class {beyond[0]:g}, but its description has "
                    f"{counted(spec.num_classes, 'label')}: correct them"
                )
        scores = scores_of(output, spec)
        if self._family.best_class:
            row_ids = np.flatnonzero(scores.max(axis=1) > self.conf)
            class_ids = scores[row_ids].argmax(axis=1)
        else:
            row_ids, class_ids = np.divmod(np.flatnonzero(scores > self.conf), spec.num_classes)
        return row_ids, class_ids, scores[row_ids, class_ids]


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
        distance: subtract from the IoU the squared distance of the centres over the squared diagonal of the enclosing
            box (DIoU-NMS, arXiv:1911.08287, section 3.4).

    Returns:
        Indices of the kept boxes, best first, (K,) int64.
    """
    left, top, right, bottom = np.ascontiguousarray(boxes_xyxy.T)
    areas = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    rest = np.arange(len(boxes_xyxy))
    classes = class_ids
    keep: list[int] = []
    while rest.size:
        keep.append(int(rest[0]))
        if len(keep) == limit:
            break
        width = np.minimum(right[1:], right[0]) - np.maximum(left[1:], left[0])
        height = np.minimum(bottom[1:], bottom[0]) - np.maximum(top[1:], top[0])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[0] + areas[1:] - overlap
        least = iou * union
        if distance:
            wide = np.maximum(right[1:], right[0]) - np.minimum(left[1:], left[0])
            high = np.maximum(bottom[1:], bottom[0]) - np.minimum(top[1:], top[0])
            across = (left[0] + right[0] - left[1:] - right[1:]) / 2
            along = (top[0] + bottom[0] - top[1:] - bottom[1:]) / 2
            least = least + union * (across**2 + along**2) / np.maximum(wide**2 + high**2, 1e-9)
        stays = np.flatnonzero((overlap <= least) | (classes[1:] != classes[0])) + 1
        rest, classes, areas = rest[stays], classes[stays], areas[stays]
        left, top, right, bottom = left[stays], top[stays], right[stays], bottom[stays]
    return np.array(keep, np.int64)
