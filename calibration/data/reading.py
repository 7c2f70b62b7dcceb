"""Reads labelled pictures: splits of samples, and findings about all that was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.data.classes import IGNORE, LEFT_OUT, ClassMap
from calibration.data.data_file import SPLITS, open_data
from calibration.data.findings import Finding, Findings
from calibration.data.folders import Folders, report_unused_labels
from calibration.data.sources import CocoSource, FolderSource, LabelledPicture, open_source
from calibration.label_parsing import Corners, Label, LabelFault, centred
from calibration.labels import LabelledObject, Sample, plain_name
from streamer.common.errors import ConfigError, short

_ROUNDING = 1e-3
"""How far a box may leave its picture without being reported; one pixel where the picture's size is known."""
_MOST_OVERSHOOT = 1.0
"""A number further than this from 0 to 1 counts as pixels."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Labelled pictures to train on.

    Attributes:
        path: the data.yaml, or the COCO file.
        names: the classes, by class id of the samples.
        splits: ``train``, ``val`` and ``test``, of those that the data has; a split may be empty.
        findings: what was left out or clipped while reading, and what else is known without opening a picture.
        label_sizes_wh: width and height in pixels by picture, where labels of COCO or VOC say them.
    """

    path: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    findings: tuple[Finding, ...]
    label_sizes_wh: Mapping[Path, tuple[float, float]]


def read_data(
    path: Path, *, classes: Sequence[str] | None = None, rename: Mapping[str, str] | None = None
) -> TrainingData:
    """Reads a data.yaml, a folder with one in it, or a COCO .json file; opens no picture.

    A label that can't be used is left out, or clipped, and counted in the findings. Crowds, difficult objects, and
    boxes of a class named ``ignore`` become regions to ignore (`Sample.is_crowd`), the last for all classes.

    Args:
        path: the file or folder.
        classes: names of the classes to keep, in the order of their ids; None keeps all.
        rename: new names by old ones, before `classes` chooses; classes of one new name are merged.

    Raises:
        ConfigError: a file can't be read at all, no split has a picture's path that exists, or a name to choose or to
            rename is unknown.
    """
    findings = Findings()
    data = open_data(path, findings)
    folders = Folders()
    sources = {
        split: [open_source(place, folders, findings) for place in places] for split, places in data.splits.items()
    }
    labelled = data.names
    if labelled is None:
        every = [name for group in sources.values() for source in group for name in source.category_names()]
        labelled = tuple(dict.fromkeys(every)) or tuple(f"class_{number}" for number in range(data.count or 0))
        if not labelled:
            raise ConfigError(f"{data.path}: has no 'names': list the classes, as in 'names: [cat, dog]'")
    _report_repeated(labelled, findings)
    reader = _Reader(ClassMap(labelled, classes, rename), len(labelled), findings)
    splits = {split: reader.read_all(sources[split]) for split in SPLITS if split in sources}
    _report_unused(sources, folders, findings)
    return TrainingData(data.path, reader.classes.names, splits, findings.all(), reader.sizes_wh)


class _Reader:
    def __init__(self, classes: ClassMap, num_labelled: int, findings: Findings) -> None:
        self.classes = classes
        self.sizes_wh: dict[Path, tuple[float, float]] = {}
        self._num_labelled = num_labelled
        self._findings = findings

    def read_all(self, sources: Iterable[FolderSource | CocoSource]) -> tuple[Sample, ...]:
        """Returns the samples of a split."""
        samples: list[Sample] = []
        seen: set[tuple[Path, Path | None]] = set()
        images: set[Path] = set()
        for source in sources:
            for picture in source.pictures(self._num_labelled):
                if picture.image in images:
                    self._findings.add("repeated-picture", str(picture.image))
                    if (picture.image, picture.file) in seen:
                        continue
                images.add(picture.image)
                seen.add((picture.image, picture.file))
                samples.append(self._read(picture))
        return tuple(samples)

    def _read(self, picture: LabelledPicture) -> Sample:
        objects: list[LabelledObject] = []
        seen: set[tuple[object, ...]] = set()
        faults = 0
        for label in picture.labels:
            found = self._object(label, picture)
            if found is None:
                faults += isinstance(label, LabelFault) or self.classes.find(label.category) != LEFT_OUT
                continue
            key = (found.class_id, found.is_crowd, *(round(value, 6) for value in found.box_cxcywh))
            if key in seen:
                self._leave_out("duplicate-label", picture, label)
                continue
            seen.add(key)
            objects.append(found)
            if found.is_crowd:
                self._findings.add("ignored-region", self._where(picture, label))
        if not objects:
            kind = "emptied-picture" if faults else "background"
            self._findings.add(kind, f"{picture.image}{'' if picture.file else ': no label file'}")
        if picture.size_wh is not None:
            self.sizes_wh[picture.image] = picture.size_wh
        return Sample.of(picture.image, objects, picture.image_id)

    def _object(self, label: Label | LabelFault, picture: LabelledPicture) -> LabelledObject | None:
        """Returns the object of a label, or None after saying why it is left out."""
        if isinstance(label, LabelFault):
            self._leave_out(label.kind, picture, label)
            return None
        class_id = self.classes.find(label.category)
        if class_id is None or class_id == LEFT_OUT:
            self._leave_out("unknown-class" if class_id is None else "class-left-out", picture, label)
            return None
        problem, box = fit_box(label)
        if box is None:
            self._leave_out(problem, picture, label)
            return None
        if problem:
            self._findings.add(problem, self._where(picture, label))
        return LabelledObject(class_id, box, label.is_crowd or class_id == IGNORE, label.area)

    def _leave_out(self, kind: str, picture: LabelledPicture, label: Label | LabelFault) -> None:
        self._findings.add(kind, self._where(picture, label), left_out=1)

    @staticmethod
    def _where(picture: LabelledPicture, label: Label | LabelFault) -> str:
        if isinstance(label, LabelFault):
            said = label.text
        else:
            said = label.source if isinstance(label.source, str) else f"{label.category} {short(label.source)}"
        place = f"annotation {label.place} of {picture.image.name}" if picture.image_id is not None else label.place
        return f"{picture.file}:{place}: {said[:80]}"


def fit_box(label: Label) -> tuple[str, Corners | None]:
    """Returns the kind of finding, empty for none, and the box inside its picture.

    The box is centre and size relative to the picture, as the label has it where nothing is clipped; None where nothing
    remains of it.
    """
    corners = x1, y1, x2, y2 = label.corners_xyxy
    if label.overshoot > _MOST_OVERSHOOT:
        return "pixel-coordinates", None
    if not (x2 > x1 and y2 > y1):
        return "degenerate-box", None
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0))
    if inside == corners:
        return "", label.box_cxcywh
    if not (inside[2] > inside[0] and inside[3] > inside[1]):
        return "outside-box", None
    slack = max(_ROUNDING, 1.01 * label.pixel)
    is_clipped = min(x1, y1) < -slack or max(x2, y2) > 1 + slack
    return ("clipped-box" if is_clipped else ""), centred(inside)


def _report_repeated(names: Sequence[str], findings: Findings) -> None:
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        first = seen.setdefault(plain_name(name), number)
        if first != number:
            findings.add("duplicate-name", f"classes {first} and {number}: {short(name)}")


def _report_unused(
    sources: Mapping[str, Sequence[FolderSource | CocoSource]], folders: Folders, findings: Findings
) -> None:
    of_folders = [source for group in sources.values() for source in group if isinstance(source, FolderSource)]
    used = [file for source in of_folders for file in source.files if file is not None]
    lists = [path for source in of_folders for path in source.lists]
    report_unused_labels([source.finder for source in of_folders], used, lists, folders, findings)
