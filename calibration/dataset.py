"""Reads pictures and labels for calibrating and measuring."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from calibration.labels import ClassNames, Sample, read_coco, read_voc, read_yolo
from streamer.common.errors import ConfigError, SourceError, counted
from streamer.frames.frame import Frame
from streamer.sources.image_decoding import read_image
from streamer.sources.spec import READ_SUFFIXES

MAX_UNREADABLE = 0.05
_LABEL_SUFFIXES = (".txt", ".xml")


def list_images(where: Path) -> list[Path]:
    """Returns the pictures in a folder and its subfolders, sorted, or those of a ``.txt`` list.

    Paths in a list are relative to the list's folder or to the current one.

    Raises:
        ConfigError: the folder, the list or a listed picture is missing, or there are no pictures.
    """
    if where.suffix.lower() == ".txt" and not where.is_dir():
        return _read_list(where)
    if not where.is_dir():
        raise ConfigError(f"no folder {str(where)!r}: --images wants a folder of pictures, or a .txt list of them")
    images = find_images(where)
    if not images:
        raise ConfigError(f"no pictures in {str(where)!r} (known endings: {', '.join(READ_SUFFIXES)})")
    return images


def find_images(folder: Path) -> list[Path]:
    """Returns the pictures in a folder and its subfolders, linked ones too, sorted, without hidden files and folders.

    Raises:
        ConfigError: a folder can't be read.
    """
    images = []
    seen = {None, _identity(folder)}
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        where = Path(parent)
        shown = [name for name in sorted(folders) if not name.startswith(".")]
        identities = {name: _identity(where / name) for name in shown}
        folders[:] = [name for name in shown if identities[name] not in seen]  # a link may lead to a folder above
        seen.update(identities.values())
        images += [where / name for name in files if name.lower().endswith(READ_SUFFIXES) and name[0] != "."]
    return sorted(images)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: can't read the folder: {error.strerror or error}") from error


def listed_images(path: Path) -> list[tuple[int, str]]:
    """Returns line number and text of each line of a list of pictures that isn't empty or a comment.

    Raises:
        ConfigError: the list can't be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8: save the list as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't read the list of pictures: {error.strerror or error}") from None
    return [(number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")]


def read_samples(images: Path, labels: Path, class_names: Sequence[str]) -> list[Sample]:
    """Pairs pictures with their labels; a picture without labels counts as empty.

    Args:
        images: see `list_images`.
        labels: a folder with a YOLO ``NAME.txt`` or Pascal VOC ``NAME.xml`` for each picture, in the same subfolders or
            in one folder; or a COCO ``.json`` file.
        class_names: the model's labels by class id; names in VOC and COCO files are matched in any case.

    Raises:
        ConfigError: files are missing, there are no objects, or a label is invalid; names the file and line.
    """
    files = list_images(images)
    names = ClassNames(class_names)
    if labels.suffix.lower() == ".json" and not labels.is_dir():
        samples = read_coco(labels, names, PictureFinder(images, files))
    else:
        samples = _read_folder(images, files, labels, names)
    count = sum(len(sample.class_ids) for sample in samples)
    names.report(labels, count)
    if not count:
        raise ConfigError(
            f"{labels}: no object in the labels of {counted(len(samples), 'picture')}: there is nothing to measure"
        )
    return samples


def _read_list(path: Path) -> list[Path]:
    images = []
    for number, line in listed_images(path):
        found = next((image for image in (path.parent / line, Path(line)) if image.is_file()), None)
        if found is None:
            raise ConfigError(f"{path}:{number}: no picture {line!r}")
        images.append(found)
    if not images:
        raise ConfigError(f"{path}: lists no pictures")
    return images


class PictureFinder:
    """Finds the picture of a COCO ``file_name`` by relative path, else by unique file name."""

    def __init__(self, images: Path, files: Sequence[Path]) -> None:
        base = images if images.is_dir() else images.parent
        self._by_path = {_relative(file, base).as_posix(): file for file in files}
        counts = Counter(file.name for file in files)
        self._by_name = {file.name: file for file in files if counts[file.name] == 1}

    def __call__(self, name: str) -> Path | None:
        return self._by_path.get(name) or self._by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1])


def _relative(file: Path, base: Path) -> Path:
    return file.relative_to(base) if file.is_relative_to(base) else Path(file.name)


def _read_folder(images: Path, files: Sequence[Path], labels: Path, names: ClassNames) -> list[Sample]:
    if not labels.is_dir():
        raise ConfigError(
            f"no folder {str(labels)!r}: --labels wants a folder of YOLO .txt or Pascal VOC .xml files, or a COCO .json"
        )
    base = images if images.is_dir() else images.parent
    counts = Counter(file.stem for file in files)
    found: list[Path | None] = []
    for file in files:
        places = [labels / _relative(file, base).with_suffix(suffix) for suffix in _LABEL_SUFFIXES]
        if counts[file.stem] == 1:
            places += [labels / f"{file.stem}{suffix}" for suffix in _LABEL_SUFFIXES]
        found.append(next((place for place in places if place.is_file()), None))
    if not any(found):
        raise ConfigError(f"no picture in {str(images)!r} has a label file of its name in {str(labels)!r}")
    samples = []
    for file, label in zip(files, found, strict=True):
        if label is None:
            objects = []
        elif label.suffix == ".xml":
            objects = read_voc(label, names)
        else:
            objects = read_yolo(label, len(names.labels))
        samples.append(Sample.of(file, objects))
    return samples


def read_frame(image: Path, index: int) -> Frame:
    """Reads one picture as a frame; raises SourceError if it can't be read or is too large."""
    try:
        pixels = read_image(image)
    except SourceError as error:
        raise SourceError(f"can't read the picture {str(image)!r}: {error}") from error
    return Frame(pixels, "images", index, float(index), 0.0, image.name)


def check_unreadable(bad: Sequence[Path], count: int, images: Path) -> None:
    """Raises ConfigError if more than one of `count` pictures, and more than 5 %, can't be read."""
    if len(bad) > max(1, MAX_UNREADABLE * count):
        names = ", ".join(file.name for file in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise ConfigError(
            f"{images}: {len(bad)} of {count} pictures can't be read ({names}): at most {MAX_UNREADABLE:.0%} is allowed"
        )
