"""Finds pictures and label files with one listing a folder, never a look at each file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from calibration.data.findings import Findings
from calibration.dataset import listed_images
from streamer.sources.spec import READ_SUFFIXES

LABEL_SUFFIXES = (".txt", ".xml", ".TXT", ".XML")
_OTHER_PICTURES = (
    ".gif",
    ".jfif",
    ".jp2",
    ".dng",
    ".mpo",
    ".ppm",
    ".pgm",
    ".pfm",
    ".tga",
    ".exr",
    ".cr2",
    ".nef",
    ".svg",
)
_NOT_LABELS = ("classes.txt", "labels.txt", "readme")


class Folders:
    """Remembers the names in each folder that was asked about."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Returns the names in a folder, none where it can't be read."""
        known = self._names.get(folder)
        if known is None:
            try:
                with os.scandir(folder) as entries:
                    known = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):
                known = frozenset()
            self._names[folder] = known
        return known

    def has(self, file: Path) -> bool:
        """Whether a file is in its folder."""
        return file.name in self.names(file.parent)


class LabelFiles:
    """Finds the label file of a picture.

    In `labels` where that is given: in the same subfolder, or directly in it. Else as YOLO has it: in the path of the
    picture with the last folder ``images`` replaced by ``labels``, or beside the picture.
    """

    def __init__(self, folders: Folders, images: Path, labels: Path | None) -> None:
        self._folders = folders
        self._images = images if images.is_dir() else images.parent
        self._labels = labels
        self._places: dict[Path, tuple[Path, ...]] = {}

    def find(self, image: Path) -> Path | None:
        """Returns the label file, or None."""
        for folder in self._places_of(image.parent):
            names = self._folders.names(folder)
            for suffix in LABEL_SUFFIXES:
                if image.stem + suffix in names:
                    return folder / (image.stem + suffix)
        return None

    def looked_in(self) -> dict[Path, set[Path]]:
        """Returns the folders that may hold labels, each with the folders of its pictures.

        Subfolders of a folder of labels are among them, those without pictures too.
        """
        found: dict[Path, set[Path]] = {}
        for parent, places in self._places.items():
            for place in places:
                found.setdefault(place, set()).add(parent)
        for place in [each for each in found if not each.is_relative_to(self._images)]:
            for folder, _, _ in os.walk(place):
                found.setdefault(Path(folder), set())
        return found

    def _places_of(self, parent: Path) -> tuple[Path, ...]:
        known = self._places.get(parent)
        if known is None:
            known = self._places[parent] = self._find_places(parent)
        return known

    def _find_places(self, parent: Path) -> tuple[Path, ...]:
        if self._labels is not None:
            if parent.is_relative_to(self._images):
                return (self._labels / parent.relative_to(self._images), self._labels)
            return (self._labels,)
        parts = parent.parts if "images" in parent.parts else parent.absolute().parts
        if "images" not in parts:
            return (parent,)
        last = len(parts) - 1 - parts[::-1].index("images")
        return (Path(*parts[:last], "labels", *parts[last + 1 :]), parent)


def list_pictures(path: Path, folders: Folders, findings: Findings) -> list[Path]:
    """Returns the pictures of a .txt list that exist, each once; lines are relative to it or the current folder."""
    found: dict[Path, None] = {}
    for number, line in listed_images(path):
        candidates = (path.parent / line, Path(line))
        image = next((each for each in candidates if folders.has(each)), None)
        if image is None:
            findings.add("missing-picture", f"{path}:{number}: {line}")
        elif image in found:
            findings.add("repeated-picture", f"{path}:{number}: {line}")
        elif not image.name.lower().endswith(READ_SUFFIXES):
            findings.add("unknown-picture-format", f"{path}:{number}: {line}")
        else:
            found[image] = None
    return list(found)


def report_other_pictures(images: Iterable[Path], folder: Path, folders: Folders, findings: Findings) -> None:
    """Finds pictures in the same folders whose format isn't read."""
    for parent in sorted({folder, *(image.parent for image in images)}):
        for name in sorted(folders.names(parent)):
            if name.lower().endswith(_OTHER_PICTURES):
                findings.add("unknown-picture-format", str(parent / name))


def report_unused_labels(
    finders: Iterable[LabelFiles], used: Iterable[Path], lists: Iterable[Path], folders: Folders, findings: Findings
) -> None:
    """Finds label files that no picture has, in the folders where labels were looked for.

    A label whose picture is there but in no split is none of them.

    Args:
        finders: after all their pictures were looked up.
        used: label files of pictures.
        lists: .txt files that list pictures, which are no labels.
        folders: the listings.
        findings: gets ``label-without-picture`` and ``second-labels``.
    """
    stems: dict[Path, set[str]] = {}
    for finder in finders:
        for place, parents in finder.looked_in().items():
            known = stems.setdefault(place, set())
            for parent in parents:
                names = folders.names(parent)
                pictures = {Path(name).stem for name in names if name.lower().endswith(READ_SUFFIXES)}
                known.update(pictures)
    read = set(used)
    paired = {(file.parent, file.stem) for file in read}
    seen = {*read, *lists}
    for place in sorted(stems):
        for name in sorted(folders.names(place)):
            file = place / name
            is_label = name.lower().endswith(LABEL_SUFFIXES) and not name.lower().startswith(_NOT_LABELS)
            if not is_label or file in seen:
                continue
            if (place, file.stem) in paired:
                findings.add("second-labels", str(file))
            elif file.stem not in stems[place]:
                findings.add("label-without-picture", str(file))
