"""Reads pictures with their labels as the files say them: YOLO and VOC files of folders, or a COCO file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.data.data_file import Place
from calibration.data.findings import Findings
from calibration.data.folders import Folders, LabelFiles, list_pictures, report_other_pictures
from calibration.dataset import PictureFinder, find_images, listed_images
from calibration.label_parsing import CocoFile, Label, LabelFault, parse_coco, parse_voc, parse_yolo
from calibration.labels import read_text
from streamer.common.errors import ConfigError, counted


@dataclass(frozen=True)
class LabelledPicture:
    """A picture with its labels as they were read.

    Attributes:
        image: the file.
        labels: what was read, faults included.
        file: where the labels are from, or None where the picture has none.
        size_wh: of the picture in pixels, as the label file says; None where it doesn't.
        image_id: of a COCO file.
    """

    image: Path
    labels: Sequence[Label | LabelFault]
    file: Path | None
    size_wh: tuple[float, float] | None = None
    image_id: int | None = None


class FolderSource:
    """Pictures of a folder or a list, each with a YOLO .txt or VOC .xml file."""

    def __init__(self, place: Place, folders: Folders, findings: Findings) -> None:
        """Lists the pictures; raises ConfigError if the list can't be read."""
        self._findings = findings
        if place.images.is_dir():
            images = find_images(place.images)
            report_other_pictures(images, place.images, folders, findings)
        elif place.images.suffix.lower() == ".txt":
            images = list_pictures(place.images, folders, findings)
        else:
            raise ConfigError(f"{place.images}: wanted a folder of pictures, a .txt list of them, or a COCO .json file")
        self.images = images if place.chosen is None else choose(images, place, findings)
        self.lists = [
            path for path in (place.images, place.chosen) if path is not None and path.suffix.lower() == ".txt"
        ]
        self.finder = LabelFiles(folders, place.images, place.labels)
        self.files = [self.finder.find(image) for image in self.images]
        for file, count in Counter(file for file in self.files if file is not None).items():
            if count > 1:
                findings.add("shared-labels", f"{file}: {count} pictures", count=count)

    def category_names(self) -> list[str]:
        """Returns the names of classes in VOC files, sorted."""
        names = set()
        for file in self.files:
            if file is not None and _is_voc(file):
                try:
                    labels = parse_voc(read_text(file))[1]
                except ConfigError:
                    continue  # `pictures` reports it
                names |= {str(label.category) for label in labels if isinstance(label, Label)}
        return sorted(names)

    def pictures(self, num_classes: int) -> Iterator[LabelledPicture]:
        """Yields the pictures in order; those whose label file can't be read are reported and left out."""
        for image, file in zip(self.images, self.files, strict=True):
            if file is None:
                yield LabelledPicture(image, (), None)
                continue
            try:
                text = read_text(file)
            except ConfigError as error:
                self._findings.add("unreadable-labels", str(error))
                continue
            if not _is_voc(file):
                yield LabelledPicture(image, list(parse_yolo(text, num_classes)), file)
                continue
            size_wh, labels = parse_voc(text)
            if size_wh is None:
                self._findings.add("unreadable-labels", f"{file}: {_text(labels[0])}")
            else:
                yield LabelledPicture(image, labels, file, size_wh)


class CocoSource:
    """Pictures of a COCO file."""

    def __init__(self, place: Place, findings: Findings) -> None:
        """Reads the file and finds its pictures; raises ConfigError if it can't be read or none is found."""
        self._file = place.labels or place.images
        self._findings = findings
        try:
            self._content = parse_coco(read_text(self._file))
        except ValueError as error:
            raise ConfigError(
                f"{self._file}: not a COCO file with images, categories and annotations ({error})"
            ) from None
        for fault in self._content.faults:
            findings.add(fault.kind, f"{self._file}: {fault.text}")
        images = place.images if place.labels is not None else pictures_beside(self._file, self._content)
        files = find_images(images) if images.is_dir() else list_pictures(images, Folders(), findings)
        files = files if place.chosen is None else choose(files, place, findings)
        find = PictureFinder(images, files)
        self._images: dict[int, Path] = {}
        self._ids: dict[Path, int] = {}
        for number, image in self._content.images.items():
            path = find(image.file_name)
            if path is None:
                continue
            self._images[number] = path
            if self._ids.setdefault(path, number) != number:
                findings.add("repeated-picture", f"{self._file}: {image.file_name}: the labels are joined")
        self._missing = "listed-picture-missing" if place.chosen is None and images.is_dir() else "picture-not-chosen"
        for path in files:
            if path not in self._ids:
                findings.add("picture-not-listed", str(path))

    def category_names(self) -> list[str]:
        """Returns the names of the categories, by id."""
        return [name for _, name in sorted(self._content.names.items())]

    def pictures(self, num_classes: int) -> Iterator[LabelledPicture]:
        """Yields the pictures in the file's order; reports those without a file, and labels without a picture."""
        labels: dict[int, list[Label | LabelFault]] = {number: [] for number in self._ids.values()}
        elsewhere: Counter[int] = Counter()
        for each in self._content.labels():
            if isinstance(each, LabelFault):
                self._findings.add(each.kind, f"{self._file}: {each.text}", left_out=1)
            elif each[0] in self._images:
                labels[self._ids[self._images[each[0]]]].append(each[1])
            else:
                elsewhere[each[0]] += 1
        for number, image in self._content.images.items():
            if number not in self._images:
                self._findings.add(self._missing, f"{self._file}: {image.file_name}", left_out=elsewhere[number])
        for path, number in self._ids.items():
            yield LabelledPicture(path, labels[number], self._file, self._content.images[number].size_wh, number)


def open_source(place: Place, folders: Folders, findings: Findings) -> FolderSource | CocoSource:
    """Returns what reads a place; raises ConfigError if it can't be read."""
    labels = place.labels or place.images
    if labels.suffix.lower() == ".json" and not labels.is_dir():
        return CocoSource(place, findings)
    if place.labels is not None and not place.labels.is_dir():
        raise ConfigError(
            f"{place.labels}: wanted a folder of YOLO .txt or Pascal VOC .xml files, or a COCO .json file"
        )
    return FolderSource(place, folders, findings)


def pictures_beside(file: Path, content: CocoFile) -> Path:
    """Returns the folder of a COCO file's pictures.

    Its own folder, ``images`` in or beside it, or a folder that the file's name ends with (``instances_train2017.json``
    and ``train2017``): the first one in which any of the first hundred pictures is.

    Raises:
        ConfigError: none has one.
    """
    names = [image.file_name for image in content.images.values()][:100]
    short_name = file.stem.rsplit("_", 1)[-1]
    folders = []
    for parent in (file.parent, file.parent.parent):
        folders += [parent, parent / "images", *(parent / name for name in (file.stem, short_name))]
        folders += [parent / "images" / name for name in (file.stem, short_name)]
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    raise ConfigError(
        f"{file}: none of its {counted(len(content.images), 'picture')} was found beside it: write in a data.yaml "
        "'train: {images: FOLDER, labels: FILE.json}'"
    )


def choose(images: Sequence[Path], place: Place, findings: Findings) -> list[Path]:
    """Returns the pictures that the place's list names, by path from their folder, by name or without its ending."""
    assert place.chosen is not None
    lines = listed_images(place.chosen)
    base = place.images if place.images.is_dir() else place.images.parent
    known: dict[str, Path] = {}
    for image in images:
        inner = image.relative_to(base) if image.is_relative_to(base) else Path(image.name)
        paths = (image.as_posix(), inner.as_posix(), inner.with_suffix("").as_posix(), image.name, image.stem)
        for name in paths:
            known.setdefault(name, image)
    found: dict[Path, None] = {}
    for number, line in lines:
        chosen = known.get(Path(line).as_posix()) or known.get(
            line.split()[0]
        )  # VOC's lists of one class have a second column
        if chosen is None:
            findings.add("missing-picture", f"{place.chosen}:{number}: {line}")
        elif chosen in found:
            findings.add("repeated-picture", f"{place.chosen}:{number}: {line}")
        else:
            found[chosen] = None
    return list(found)


def _is_voc(file: Path) -> bool:
    return file.suffix.lower() == ".xml"


def _text(fault: Label | LabelFault) -> str:
    return fault.text if isinstance(fault, LabelFault) else str(fault.source)
