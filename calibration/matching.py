"""Matches detections with labelled objects, as COCO's evaluation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from calibration.accuracy import Found
from calibration.agreement import box_overlap
from calibration.labels import EVERY_CLASS, Sample
from streamer.frames.detections import Detections

IOUS = np.linspace(0.5, 0.95, 10)
"""At which detections are matched."""
_MOST_DETECTIONS = 100
_TOLERANCE = 1e-10


class LabelledPicture(Protocol):
    """A picture with its labels and its size (width, height) in pixels."""

    @property
    def sample(self) -> Sample: ...

    @property
    def size_wh(self) -> tuple[int, int]: ...


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class in all pictures, best score first.

    Attributes:
        class_id: the class.
        scores: (N,) float32.
        owners: (N,) int64, the place of each detection's picture.
        hits: (N, 10) bool: whether it matches an object at each IoU of `IOUS`.
        ignored: (N, 10) bool: whether it lies in a crowd and counts as neither right nor wrong.
        counts: (pictures,) int64, objects of this class in each picture, without crowds.
    """

    class_id: int
    scores: npt.NDArray[np.float32]
    owners: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SizedSample:
    """A picture's labels, and its size in pixels: what `match_classes` takes."""

    sample: Sample
    size_wh: tuple[int, int]


def match_found(samples: Sequence[Sample], found: Sequence[Found]) -> list[ClassMatches]:
    """Returns `match_classes` of samples and the sizes and detections of their pictures, in the same order."""
    pictures = [SizedSample(sample, size_wh) for sample, (size_wh, _) in zip(samples, found, strict=True)]
    return match_classes(pictures, [detections for _, detections in found])


def match_classes(pictures: Sequence[LabelledPicture], found: Sequence[Detections]) -> list[ClassMatches]:
    """Returns the matches of each class that has labels or detections, in the order of class ids.

    Of one class, the best 100 detections of a picture count. The best one is matched first, with the object that it
    overlaps most; an object is matched once (pycocotools, `COCOeval.evaluateImg`).

    Args:
        pictures: the labelled pictures.
        found: the detections in each, boxes in pixels of the picture.
    """
    rows: dict[int, list[_Rows]] = {}
    for index, (picture, detections) in enumerate(zip(pictures, found, strict=True)):
        for class_id in np.unique(detections.class_ids).tolist():
            rows.setdefault(class_id, []).append(_match(picture, detections, class_id, index))
    labelled = set[int]().union(*(picture.sample.class_ids.tolist() for picture in pictures)) - {EVERY_CLASS}
    counts = {class_id: np.zeros(len(pictures), np.int64) for class_id in sorted(rows.keys() | labelled)}
    for index, picture in enumerate(pictures):
        for class_id in picture.sample.class_ids[picture.sample.is_object].tolist():
            counts[class_id][index] += 1
    return [_ranked(class_id, rows.get(class_id, ()), each) for class_id, each in counts.items()]


def join(classes: Sequence[ClassMatches]) -> ClassMatches:
    """Returns the matches of one class or more as one ranking, whose class id is -1."""
    rows = [_Rows(each.scores, each.owners, each.hits, each.ignored) for each in classes]
    return _ranked(-1, rows, np.sum([each.counts for each in classes], axis=0))


class _Rows(NamedTuple):
    """Some detections of one class; see `ClassMatches`."""

    scores: npt.NDArray[np.float32]
    owners: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]


_NOTHING = _Rows(
    np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, len(IOUS)), bool), np.zeros((0, len(IOUS)), bool)
)


def _ranked(class_id: int, rows: Sequence[_Rows], counts: npt.NDArray[np.int64]) -> ClassMatches:
    """Returns the detections of all rows as one ranking."""
    scores, owners, hits, ignored = (np.concatenate(part) for part in zip(_NOTHING, *rows, strict=True))
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(class_id, scores[order], owners[order], hits[order], ignored[order], counts)


def _match(picture: LabelledPicture, detections: Detections, class_id: int, index: int) -> _Rows:
    """Matches the detections of one class in the picture number `index`."""
    mine, hits, ignored = match_class(picture.sample, picture.size_wh, detections, class_id)
    return _Rows(detections.scores[mine], np.full(len(mine), index, np.int64), hits, ignored)


def match_class(
    sample: Sample,
    size_wh: tuple[int, int],
    detections: Detections,
    class_id: int,
    ious: npt.NDArray[np.float64] = IOUS,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Matches the best 100 detections of one class in one picture.

    Args:
        sample: the picture's labels.
        size_wh: its width and height in pixels.
        detections: in its pixels.
        class_id: the class.
        ious: (K,), the least IoU of a match; COCO's ten by default.

    Returns:
        (M,) the places of these detections, best first; (M, K) whether each matches an object; (M, K) whether it lies
        in a region to ignore and counts as neither right nor wrong.
    """
    mine = np.flatnonzero(detections.class_ids == class_id)
    mine = mine[np.argsort(-detections.scores[mine], kind="stable")][:_MOST_DETECTIONS]
    boxes = detections.boxes_xyxy[mine].astype(np.float64)
    truth, is_counted = sample.boxes_xyxy(size_wh), sample.objects_of(class_id)
    hits = hits_of(boxes, truth[is_counted], ious)
    ignored = (share_inside(boxes, truth[sample.regions_of(class_id)])[:, None] >= ious - _TOLERANCE) & ~hits
    return mine, hits, ignored


def hits_of(
    boxes: npt.NDArray[np.floating], truth: npt.NDArray[np.float64], ious: npt.NDArray[np.float64] = IOUS
) -> npt.NDArray[np.bool_]:
    """Returns (N, K): whether each detection, best first, matches an object at each of K least IoUs, as pycocotools.

    Args:
        boxes: (N, 4) xyxy, detections of one class in one picture.
        truth: (M, 4) xyxy, the objects of this class there.
        ious: (K,), the least IoU of a match; COCO's ten by default.
    """
    hits = np.zeros((len(boxes), len(ious)), bool)
    if not len(boxes) or not len(truth):
        return hits
    overlap = box_overlap(boxes.astype(np.float64)[:, None], truth[None])
    for column, least in enumerate(ious):
        free = overlap.copy()
        for row in range(len(boxes)):
            best = int(np.argmax(free[row]))
            if free[row, best] >= least - _TOLERANCE:
                hits[row, column] = True
                free[:, best] = -1
    return hits


def share_inside(boxes: npt.NDArray[np.floating], regions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the greatest share of each box's area that lies in one of the regions, (N,); 0 without regions.

    Args:
        boxes: (N, 4) xyxy.
        regions: (M, 4) xyxy.
    """
    if not len(boxes) or not len(regions):
        return np.zeros(len(boxes))
    wide = boxes.astype(np.float64)[:, None]
    sides = np.minimum(wide[..., 2:], regions[None, :, 2:]) - np.maximum(wide[..., :2], regions[None, :, :2])
    common = np.prod(np.maximum(sides, 0), axis=-1).max(axis=1)
    areas = np.prod(wide[:, 0, 2:] - wide[:, 0, :2], axis=-1)
    share: npt.NDArray[np.float64] = np.divide(common, areas, out=np.zeros_like(common), where=areas > 0)
    return share
