"""Reads labels: YOLO text files, Pascal VOC XML files, or one COCO JSON file."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.label_parsing import Label, LabelFault, centred, parse_coco, parse_voc, parse_yolo
from streamer.common.errors import ConfigError, counted, short

log = logging.getLogger(__name__)

EVERY_CLASS = -1
"""Class id of a region to ignore that is one for all classes."""
_ROUNDING = 1e-3
"""Tolerance of relative coordinates: tools write 1.0000001."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and its labels.

    Attributes:
        image: the picture's file.
        class_ids: (N,) int64; `EVERY_CLASS` for a region where detections of all classes are ignored.
        boxes_cxcywh: (N, 4) float64, centre and size relative to the picture, 0 to 1.
        is_crowd: (N,) bool, regions that are ignored; None for none.
        areas: (N,) float64, areas of the objects relative to the picture, which COCO's sizes refer to; or None.
        image_id: of a COCO file, or None.
    """

    image: Path
    class_ids: npt.NDArray[np.int64]
    boxes_cxcywh: npt.NDArray[np.float64]
    is_crowd: npt.NDArray[np.bool_] | None = None
    areas: npt.NDArray[np.float64] | None = None
    image_id: int | None = None

    @property
    def is_object(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which labels are objects, not regions to ignore."""
        return np.ones(len(self.class_ids), bool) if self.is_crowd is None else ~self.is_crowd

    def objects_of(self, class_id: int) -> npt.NDArray[np.bool_]:
        """Returns which objects are of a class and no crowds, (N,) bool."""
        return (self.class_ids == class_id) & self.is_object

    def regions_of(self, class_id: int) -> npt.NDArray[np.bool_]:
        """Returns in which regions detections of a class are ignored, (N,) bool."""
        return ((self.class_ids == class_id) | (self.class_ids == EVERY_CLASS)) & ~self.is_object

    def boxes_xyxy(self, size_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Returns the boxes' left, top, right and bottom, (N, 4), in pixels of a picture of that size."""
        half = self.boxes_cxcywh[:, 2:] / 2
        corners = np.concatenate([self.boxes_cxcywh[:, :2] - half, self.boxes_cxcywh[:, :2] + half], axis=1)
        return np.asarray(corners * np.tile(size_wh, 2), np.float64)

    @classmethod
    def of(cls, image: Path, objects: Sequence[LabelledObject], image_id: int | None = None) -> Sample:
        """Returns the sample of a picture with these objects in it."""
        areas = [math.nan if each.area is None else each.area for each in objects]
        boxes = np.array([each.box_cxcywh for each in objects], np.float64).reshape(-1, 4)
        return cls(
            image,
            np.array([each.class_id for each in objects], np.int64),
            boxes,
            np.array([each.is_crowd for each in objects], bool),
            np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas) if objects else np.zeros(0),
            image_id,
        )


@dataclass(frozen=True)
class LabelledObject:
    """An object or a region to ignore; its box and area are relative to the picture's width and height."""

    class_id: int
    box_cxcywh: tuple[float, float, float, float]
    is_crowd: bool = False
    area: float | None = None


@dataclass
class ClassNames:
    """The model's classes, and unknown names in labels.

    Attributes:
        labels: the model's labels, by class id.
        unknown: names that the model lacks, with their number of objects.
    """

    labels: Sequence[str]
    unknown: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._ids = {plain_name(label): index for index, label in enumerate(self.labels)}

    def find(self, name: str) -> int | None:
        """Returns the class id of a name in any case; counts an unknown one and returns None."""
        class_id = self._ids.get(plain_name(name))
        if class_id is None:
            self.unknown[name] += 1
        return class_id

    def report(self, where: Path, found: int) -> None:
        """Warns of objects of unknown classes; raises ConfigError if all are."""
        if not self.unknown:
            return
        names = ", ".join(short(name) for name, _ in self.unknown.most_common(5))
        names += ", ..." if len(self.unknown) > 5 else ""
        if not found:
            raise ConfigError(
                f"{where}: the model has none of its classes ({names}); it has {short(list(self.labels))}"
            )
        count = sum(self.unknown.values())
        log.warning(
            "%s: left out %s of classes that the model doesn't have (%s)", where, counted(count, "object"), names
        )


def plain_name(name: str) -> str:
    """Returns a class name as it is compared: in lower case, with single spaces, underscores as spaces."""
    return " ".join(name.replace("_", " ").casefold().split())


def read_yolo(path: Path, num_classes: int) -> list[LabelledObject]:
    """Reads lines of ``class cx cy w h``, or of a polygon ``class x1 y1 x2 y2 x3 y3 ...``, relative to the picture.

    Raises:
        ConfigError: a line is invalid; names the file and line.
    """
    objects = []
    for label in parse_yolo(read_text(path), num_classes):
        if isinstance(label, LabelFault) or label.overshoot > _ROUNDING:
            line = label.text if isinstance(label, LabelFault) else str(label.source)
            raise ConfigError(
                f"{path}:{label.place}: wanted 'class cx cy w h' with class 0 to {num_classes - 1} and sizes 0 to 1, "
                f"got {short(line)}"
            )
        cx, cy, w, h = (_clip(value) for value in label.box_cxcywh)
        objects.append(LabelledObject(int(label.category), (cx, cy, w, h)))
    return objects


def read_voc(path: Path, names: ClassNames) -> list[LabelledObject]:
    """Reads a Pascal VOC file: pixel corners counted from 1; difficult objects count as crowds.

    Raises:
        ConfigError: the file is invalid, or lacks the picture's size.
    """
    objects = []
    for label in parse_voc(read_text(path))[1]:
        if isinstance(label, LabelFault):
            raise ConfigError(f"{path}: {label.text}")
        class_id = names.find(str(label.category))
        if class_id is not None:
            objects.append(_clipped(label, class_id))
    return objects


def read_coco(path: Path, names: ClassNames, find: Callable[[str], Path | None]) -> list[Sample]:
    """Reads a COCO file of boxes.

    Args:
        path: the JSON file.
        names: the model's classes, matched by name.
        find: returns the picture of a ``file_name``, or None.

    Returns:
        A sample for each picture found, also without objects, in the file's order.

    Raises:
        ConfigError: the file is invalid, or none of its pictures was found.
    """
    try:
        content = parse_coco(read_text(path))
    except ValueError as error:
        raise _not_coco(path, str(error)) from None
    if content.faults:
        raise _not_coco(path, content.faults[0].text)
    objects: dict[int, list[LabelledObject]] = {number: [] for number in content.images}
    for each in content.labels():
        if isinstance(each, LabelFault):
            raise _not_coco(path, each.text)
        image_id, label = each
        class_id = names.find(str(label.category))
        if class_id is not None:
            objects[image_id].append(_clipped(label, class_id))
    files = {number: find(image.file_name) for number, image in content.images.items()}
    samples = [Sample.of(file, objects[number], number) for number, file in files.items() if file is not None]
    count = len(content.images)
    if not samples:
        raise ConfigError(f"{path}: none of its {counted(count, 'picture')} is among the --images")
    if len(samples) < count:
        log.warning("%s: the --images lack %d of its %s", path, count - len(samples), counted(count, "picture"))
    return samples


def coco_categories(path: Path, labels: Sequence[str]) -> dict[int, int]:
    """Returns the category ids in a COCO file by class id; raises ConfigError if it is invalid."""
    names = ClassNames(labels)
    try:
        numbers = {names.find(str(each["name"])): int(each["id"]) for each in json.loads(read_text(path))["categories"]}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path}: not a COCO file with categories ({short(str(error))})") from None
    return {class_id: number for class_id, number in numbers.items() if class_id is not None}


def read_text(path: Path) -> str:
    """Returns a UTF-8 file's text; raises ConfigError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(f"{path}: can't read it: {reason or error}") from None


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _clipped(label: Label, class_id: int) -> LabelledObject:
    """Returns the object of a label, clipped to the picture."""
    x1, y1, x2, y2 = (_clip(value) for value in label.corners_xyxy)
    return LabelledObject(class_id, centred((x1, y1, x2, y2)), label.is_crowd, label.area)


def _not_coco(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path}: not a COCO file with images, categories and boxes ({reason})")
