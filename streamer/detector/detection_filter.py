"""Keeps the detections that are to be reported, on the host: whatever the engine computed them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from streamer.common.errors import ConfigError
from streamer.detector.filter_options import ClassThresholds, FilterOptions, MaskPicture, Polygon
from streamer.frames.detections import Detections

_Points: TypeAlias = npt.NDArray[np.float64]
_WHITE = 128
_GRID = 64  # points in a row and in a column
_NEVER = 2.0  # no score reaches it


class DetectionFilter:
    """Drops what `FilterOptions` doesn't want; the rest stays in its order, best first.

    In this order: scores and classes, sizes, areas, and then the number.
    """

    def __init__(self, options: FilterOptions, labels: Sequence[str]) -> None:
        """Takes the model's class names by class id, and reads the pictures of `options.ignore`.

        Raises:
            ConfigError: if a class isn't among the labels, or a picture can't be read.
        """
        self._thresholds = thresholds_by_id(options.conf, options.classes, labels)
        self._min_size, self._max_size = options.min_size, options.max_size
        self._areas = [_Mask(area.path) if isinstance(area, MaskPicture) else area for area in options.ignore]
        self._is_centre = options.ignore_at == "centre"
        self._top_k = options.top_k

    def __call__(self, detections: Detections, size_wh: tuple[int, int]) -> Detections:
        """Returns the detections to report of a frame of that width and height."""
        if not len(detections):
            return detections
        kept = detections.scores > self._thresholds[detections.class_ids]
        boxes = detections.boxes_xyxy.astype(np.float64)
        sides = boxes[:, 2:] - boxes[:, :2]
        if self._min_size is not None:
            kept &= (sides >= self._min_size.of(size_wh)).all(axis=1)
        if self._max_size is not None:
            kept &= (sides <= self._max_size.of(size_wh)).all(axis=1)
        if self._areas:
            y = (boxes[:, 1] + boxes[:, 3]) / 2 if self._is_centre else boxes[:, 3]
            points = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, y], axis=1)
            for area in self._areas:
                kept &= ~_inside(area, points, size_wh)
        if self._top_k is not None:
            kept &= np.cumsum(kept) <= self._top_k
        return detections if kept.all() else detections.where(kept)

    def ignored_share(self, size_wh: tuple[int, int]) -> float | None:
        """Returns which share of a frame of that size lies in areas, 0 to 1, by some thousand points; None for none."""
        if not self._areas:
            return None
        x, y = np.meshgrid((np.arange(_GRID) + 0.5) / _GRID, (np.arange(_GRID) + 0.5) / _GRID)
        points = np.stack([x.ravel(), y.ravel()], axis=1) * size_wh
        return float(np.mean(np.any([_inside(area, points, size_wh) for area in self._areas], axis=0)))


def thresholds_by_id(
    conf: ClassThresholds, classes: Sequence[str] | None, labels: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Returns the score that each class must exceed, (len(labels),) float32; above 1 for those not in `classes`.

    Raises:
        ConfigError: if a class isn't among the labels.
    """
    from streamer.detector import class_ids

    thresholds = np.full(len(labels), conf.default, np.float32)
    named: dict[int, float] = {}
    for name, score in conf.by_class:
        for class_id in class_ids((name,), labels) or ():
            named[class_id] = min(score, named.get(class_id, score))
    thresholds[list(named)] = list(named.values())
    wanted = class_ids(classes, labels)
    if wanted is not None:
        thresholds[[class_id for class_id in range(len(labels)) if class_id not in wanted]] = _NEVER
    return thresholds


class _Mask:
    """A mask picture that was read.

    Attributes:
        is_ignored: (H, W) bool.
    """

    def __init__(self, path: Path) -> None:
        try:
            data = np.fromfile(path, np.uint8)
            picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
        except (OSError, cv2.error) as error:
            raise ConfigError(
                f"ignore: can't read {str(path)!r}: {getattr(error, 'strerror', None) or error}"
            ) from None
        if picture is None:
            raise ConfigError(f"ignore: {str(path)!r} is no picture that can be read: white pixels of it are ignored")
        self.is_ignored = np.asarray(picture) >= _WHITE


def _inside(area: Polygon | _Mask, points: _Points, size_wh: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Returns which points, (N, 2) in pixels of a frame of that size, are in an area, its edge included."""
    if isinstance(area, _Mask):
        height, width = area.is_ignored.shape
        places = (points / size_wh * (width, height)).astype(np.int64)
        x, y = np.clip(places[:, 0], 0, width - 1), np.clip(places[:, 1], 0, height - 1)
        return np.asarray(area.is_ignored[y, x], np.bool_)
    corners = np.array(area.points, np.float32)
    points = points / size_wh if area.is_relative else points
    return np.array([cv2.pointPolygonTest(corners, (x, y), False) >= 0 for x, y in points.tolist()], np.bool_)
