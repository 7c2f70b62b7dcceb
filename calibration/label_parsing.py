"""Parses YOLO, Pascal VOC and COCO labels one by one, for readers that refuse a fault and for those that go on."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from streamer.common.errors import one_line, short

Corners = tuple[float, float, float, float]

_JSON_FAULTS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Label:
    """One label as its file says it, before its box is clipped or refused.

    Attributes:
        place: line of a YOLO file, place of the object in a VOC file, or ``id`` of a COCO annotation.
        category: class id of a YOLO file; name in the others.
        corners_xyxy: left, top, right, bottom relative to the picture; finite, may be outside or in the wrong order.
        box_cxcywh: the same as centre and size, exactly as in a YOLO line.
        source: what the file has, for messages.
        is_crowd: a region to ignore: COCO's crowds, VOC's difficult objects.
        area: of the object relative to the picture, or None.
        overshoot: by how much a number of a YOLO line leaves 0 to 1; 0 in the other formats.
        pixel: the length of one pixel relative to the picture's shorter side, where the file tells it; else 0.
    """

    place: int
    category: int | str
    corners_xyxy: Corners
    box_cxcywh: Corners
    source: object
    is_crowd: bool = False
    area: float | None = None
    overshoot: float = 0.0
    pixel: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelFault:
    """A label, or a whole file, that can't be read.

    Attributes:
        kind: ``unparsable-label``, ``not-a-number``, ``class-out-of-range``, or ``unreadable-labels`` of a file.
        place: as in `Label`; 0 is the file.
        text: what is wrong, without the file's name.
    """

    kind: str
    place: int
    text: str


@dataclass(frozen=True)
class CocoImage:
    """A picture in a COCO file; `size_wh` is None where the file gives no positive size."""

    file_name: str
    size_wh: tuple[float, float] | None


@dataclass(frozen=True)
class CocoFile:
    """What a COCO file holds.

    Attributes:
        names: category names by id.
        images: by id.
        faults: of categories and images.
        annotations: as they are, see `labels`.
    """

    names: dict[int, str]
    images: dict[int, CocoImage]
    faults: list[LabelFault]
    annotations: list[Any] = field(repr=False)

    def labels(self) -> Iterator[tuple[int, Label] | LabelFault]:
        """Yields the picture's id and the label of every annotation, in order."""
        for number, each in enumerate(self.annotations, start=1):
            yield self._label(number, each)

    def _label(self, number: int, each: Any) -> tuple[int, Label] | LabelFault:
        try:
            place = int(each.get("id", number))
            image_id, category_id = int(each["image_id"]), int(each["category_id"])
            x, y, w, h = (float(value) for value in each["bbox"])
            area = float(each["area"]) if each.get("area") is not None else math.nan
            is_crowd = bool(each.get("iscrowd", 0))
        except _JSON_FAULTS as error:
            return LabelFault("unparsable-label", number, f"annotation {number}: {_said(error)}")
        image = self.images.get(image_id)
        if image is None:
            return LabelFault(
                "label-without-picture", place, f"annotation {short(place)}: no image has the id {short(image_id)}"
            )
        if image.size_wh is None:
            return LabelFault(
                "unparsable-label", place, f"annotation {short(place)}: its image has no width and height"
            )
        if category_id not in self.names:
            return LabelFault(
                "class-out-of-range", place, f"annotation {short(place)}: no category has the id {short(category_id)}"
            )
        width, height = image.size_wh
        corners = (x / width, y / height, (x + w) / width, (y + h) / height)
        if not all(map(math.isfinite, corners)):
            return LabelFault("not-a-number", place, f"annotation {short(place)}: bbox {short(each['bbox'])}")
        area /= width * height
        known_area = area if math.isfinite(area) and area >= 0 else None
        pixel = 1 / min(width, height)
        source = each["bbox"]
        name, box = self.names[category_id], centred(corners)
        return image_id, Label(place, name, corners, box, source, is_crowd, known_area, 0.0, pixel)


def centred(corners_xyxy: Corners) -> Corners:
    """Returns centre x, centre y, width and height of a box given as left, top, right, bottom."""
    x1, y1, x2, y2 = corners_xyxy
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def parse_yolo(text: str, num_classes: int) -> Iterator[Label | LabelFault]:
    """Yields the label of each line ``class cx cy w h``, or of a polygon ``class x1 y1 x2 y2 x3 y3 ...``."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words:
            yield _yolo_label(number, words, line.strip(), num_classes)


def _yolo_label(number: int, words: list[str], line: str, num_classes: int) -> Label | LabelFault:
    try:
        class_id, *values = map(float, words)
    except ValueError:
        return LabelFault("unparsable-label", number, line)
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        return LabelFault("unparsable-label", number, line)
    if not (math.isfinite(class_id) and all(map(math.isfinite, values))):
        return LabelFault("not-a-number", number, line)
    if not (class_id.is_integer() and 0 <= class_id < num_classes):
        return LabelFault("class-out-of-range", number, line)
    if is_polygon:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        box = centred(corners)
    else:
        box = cx, cy, w, h = (values[0], values[1], values[2], values[3])
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    overshoot = max(0.0, -min(values), max(values) - 1)
    return Label(number, int(class_id), corners, box, line, overshoot=overshoot)


def parse_voc(text: str) -> tuple[tuple[float, float] | None, list[Label | LabelFault]]:
    """Returns the picture's width and height, and the labels of a Pascal VOC file.

    Its boxes are pixel corners counted from 1. Where the file can't be used at all, the size is None and the one fault
    has the place 0.
    """
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        fault = LabelFault("unreadable-labels", 0, f"not a Pascal VOC file: {one_line(str(error))}")
        return None, [fault]
    size = [_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
    if not all(math.isfinite(side) and side >= 1 for side in size):
        missing = "its <size> has no width and height, which its boxes are relative to"
        return None, [LabelFault("unreadable-labels", 0, missing)]
    width, height = size
    found = [_voc_label(number, each, width, height) for number, each in enumerate(root.iter("object"), start=1)]
    return (width, height), found


def _voc_label(number: int, element: ElementTree.Element, width: float, height: float) -> Label | LabelFault:
    name = element.findtext("name", "").strip()
    box = [_number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = box
    corners = ((x1 - 1) / width, (y1 - 1) / height, x2 / width, y2 / height)
    if not all(map(math.isfinite, corners)):
        return LabelFault("not-a-number", number, f"an object {short(name)} has no box of four numbers")
    is_difficult = element.findtext("difficult", "0").strip() == "1"
    return Label(number, name, corners, centred(corners), box, is_difficult, None, 0.0, 1 / min(width, height))


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def parse_coco(text: str) -> CocoFile:
    """Reads a COCO file of boxes.

    Raises:
        ValueError: it isn't JSON with lists of images, categories and annotations; the text says why.
    """
    try:
        content = json.loads(text)
        lists = [content[key] for key in ("categories", "images", "annotations")]
    except _JSON_FAULTS as error:
        raise ValueError(_said(error)) from None
    if not all(isinstance(each, list) for each in lists):
        raise ValueError("images, categories and annotations should be lists")
    categories, images, annotations = lists
    faults: list[LabelFault] = []
    names: dict[int, str] = {}
    for number, each in enumerate(categories, start=1):
        try:
            key, name = int(each["id"]), str(each["name"])
        except _JSON_FAULTS as error:
            faults.append(LabelFault("unparsable-entry", number, f"category {number}: {_said(error)}"))
            continue
        names[key] = name
    known: dict[int, CocoImage] = {}
    for number, each in enumerate(images, start=1):
        try:
            key, image = int(each["id"]), CocoImage(str(each["file_name"]), _coco_size(each))
        except _JSON_FAULTS as error:
            faults.append(LabelFault("unparsable-entry", number, f"image {number}: {_said(error)}"))
            continue
        if key in known:
            faults.append(
                LabelFault("unparsable-entry", number, f"image {number}: another has the id {short(key)} too")
            )
        known.setdefault(key, image)
    return CocoFile(names, known, faults, annotations)


def _coco_size(each: Any) -> tuple[float, float] | None:
    width, height = (_number(str(each.get(side))) for side in ("width", "height"))
    usable = all(math.isfinite(side) and side >= 1 for side in (width, height))
    return (width, height) if usable else None


def _said(error: BaseException) -> str:
    return short(f"{type(error).__name__}: {error}")
