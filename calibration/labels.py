"""Reads labels: YOLO text files, Pascal VOC XML files, or one COCO JSON file."""

from __future__ import annotations

import json
import logging
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamer.common.errors import ConfigError, one_line, short

log = logging.getLogger(__name__)

_ROUNDING = 1e-3
"""Tolerance of relative coordinates: tools write 1.0000001."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and its labels.

    Attributes:
        image: the picture's file.
        class_ids: (N,) int64.
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

    def objects_of(self, class_id: int) -> npt.NDArray[np.bool_]:
        """Returns which objects are of a class and no crowds, (N,) bool."""
        mine: npt.NDArray[np.bool_] = self.class_ids == class_id
        return mine if self.is_crowd is None else mine & ~self.is_crowd

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
    """An object in a picture; its box and area are relative to the picture's width and height."""

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
        self._ids = {_plain(label): index for index, label in enumerate(self.labels)}

    def find(self, name: str) -> int | None:
        """Returns the class id of a name in any case; counts an unknown one and returns None."""
        class_id = self._ids.get(_plain(name))
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
        log.warning("%s: %d objects of classes that the model doesn't have are left out (%s)", where, count, names)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def read_yolo(path: Path, num_classes: int) -> list[LabelledObject]:
    """Reads lines of ``class cx cy w h``, or of a polygon ``class x1 y1 x2 y2 x3 y3 ...``, relative to the picture.

    Raises:
        ConfigError: a line is invalid; names the file and line.
    """
    objects = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            class_id, *values = (float(word) for word in line.split())
            inside = all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values)
            is_polygon = len(values) >= 6 and len(values) % 2 == 0
            if not (len(values) == 4 or is_polygon) or not inside or class_id not in range(num_classes):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{path}:{number}: wanted 'class cx cy w h' with class 0 to {num_classes - 1} and sizes 0 to 1, "
                f"got {short(line.strip())}"
            ) from None
        clipped = np.clip(values, 0, 1)
        if is_polygon:
            points = clipped.reshape(-1, 2)
            clipped = _centred(*points.min(0), *points.max(0))
        objects.append(LabelledObject(int(class_id), tuple(clipped.tolist())))
    return objects


def read_voc(path: Path, names: ClassNames) -> list[LabelledObject]:
    """Reads a Pascal VOC file: pixel corners counted from 1; difficult objects count as crowds.

    Raises:
        ConfigError: the file is invalid, or lacks the picture's size.
    """
    try:
        root = ElementTree.fromstring(_text(path))
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path}: not a Pascal VOC file: {one_line(str(error))}") from None
    try:
        width, height = (float(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        if not (width > 0 and height > 0):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{path}: its <size> has no width and height, which its boxes are relative to") from None
    objects = []
    for element in root.iter("object"):
        name = element.findtext("name", "").strip()
        try:
            x1, y1, x2, y2 = (
                float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                raise ValueError
        except ValueError:
            raise ConfigError(f"{path}: an object {short(name)} has no box of four numbers") from None
        class_id = names.find(name)
        if class_id is not None:
            corners = np.clip([(x1 - 1) / width, (y1 - 1) / height, x2 / width, y2 / height], 0, 1)
            box = tuple(_centred(*corners).tolist())
            objects.append(LabelledObject(class_id, box, is_crowd=element.findtext("difficult", "0").strip() == "1"))
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
        content = json.loads(_text(path))
        categories = {int(each["id"]): names.find(str(each["name"])) for each in content["categories"]}
        titles = {int(each["id"]): str(each["name"]) for each in content["categories"]}
        names.unknown.clear()  # only those of objects count
        images = {int(each["id"]): each for each in content["images"]}
        objects: dict[int, list[LabelledObject]] = {number: [] for number in images}
        for each in content["annotations"]:
            size = images[int(each["image_id"])]
            width, height = float(size["width"]), float(size["height"])
            class_id = categories[int(each["category_id"])]
            if class_id is None:
                names.unknown[titles[int(each["category_id"])]] += 1
                continue
            x, y, w, h = (float(value) for value in each["bbox"])
            box = _centred(*np.clip([x / width, y / height, (x + w) / width, (y + h) / height], 0, 1))
            area = float(each["area"]) / (width * height) if "area" in each else None
            is_crowd = bool(each.get("iscrowd", 0))
            if np.isfinite(box).all():
                labelled = LabelledObject(class_id, tuple(box.tolist()), is_crowd, area)
                objects[int(each["image_id"])].append(labelled)
        files = {number: find(str(each["file_name"])) for number, each in images.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: not a COCO file with images, categories and boxes ({short(said)})") from None
    samples = [Sample.of(file, objects[number], number) for number, file in files.items() if file is not None]
    if not samples:
        raise ConfigError(f"{path}: none of its {len(images)} pictures is among the --images")
    if len(samples) < len(images):
        log.warning(
            "%s: %d of its %d pictures are not among the --images", path, len(images) - len(samples), len(images)
        )
    return samples


def coco_categories(path: Path, labels: Sequence[str]) -> dict[int, int]:
    """Returns the category ids in a COCO file by class id; raises ConfigError if it is invalid."""
    names = ClassNames(labels)
    try:
        numbers = {names.find(str(each["name"])): int(each["id"]) for each in json.loads(_text(path))["categories"]}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path}: not a COCO file with categories ({short(str(error))})") from None
    return {class_id: number for class_id, number in numbers.items() if class_id is not None}


def _centred(x1: float, y1: float, x2: float, y2: float) -> npt.NDArray[np.float64]:
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], np.float64)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't read it: {error.strerror or error}") from None
