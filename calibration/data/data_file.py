"""Reads a data.yaml: where the pictures and labels of each split are, and the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.data.findings import Findings
from streamer.common.errors import ConfigError, counted, nearest, short
from streamer.common.yaml_file import read_mapping

SPLITS = ("train", "val", "test")
_KNOWN_KEYS = ("path", *SPLITS, "names", "nc", "validation")
_PLACE_KEYS = ("images", "labels", "list")
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Place:
    """Where pictures and their labels are.

    Attributes:
        images: a folder, a .txt list of pictures, or a COCO .json file beside its pictures.
        labels: a folder of .txt or .xml files, or a COCO .json file; None looks where YOLO's labels lie.
        chosen: a .txt list of the pictures of `images` that count, by path, name or stem; None for all.
    """

    images: Path
    labels: Path | None = None
    chosen: Path | None = None


@dataclass(frozen=True)
class DataFile:
    """What a data.yaml says.

    Attributes:
        path: the file.
        names: class names by id, or None where it has none.
        count: of classes, as ``nc`` says it, or None.
        splits: the places of each split, of those that it has.
    """

    path: Path
    names: tuple[str, ...] | None
    count: int | None
    splits: dict[str, tuple[Place, ...]]


def open_data(path: Path, findings: Findings) -> DataFile:
    """Reads a data.yaml, a folder that has one, or a COCO .json file as a split ``train``.

    Raises:
        ConfigError: there is no such file, or it has no split or no usable names.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".yaml", ".yml"))
        preferred = [file for file in files if file.stem == "data"] or files
        if len(preferred) != 1:
            reason = f"{len(files)} .yaml files and none is data.yaml" if files else "no data.yaml"
            raise ConfigError(f"{path}: the folder has {reason}: name the file itself")
        path = preferred[0]
    if path.suffix.lower() == ".json":
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        return DataFile(path, None, None, {"train": (Place(path),)})
    return _read(path, findings)


def _read(path: Path, findings: Findings) -> DataFile:
    content = read_mapping(path)
    if "kpt_shape" in content:
        raise ConfigError(f"{path}: has 'kpt_shape': labels of poses aren't read; export boxes ('class cx cy w h')")
    misspelt = _misspelt(content)
    for key, meant in misspelt.items():
        findings.add("unknown-key", f"{path}: {key!r}{meant}")
    if "val" not in content and "validation" in content:
        content["val"] = content["validation"]
    names = _names(path, content.get("names"))
    count = content.get("nc")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= _MOST_CLASSES):
        raise ConfigError(f"{path}: 'nc' should be the number of classes, got {short(count)}")
    if count is not None and names is not None and count != len(names):
        findings.add("class-count", f"{path}: nc is {count}, names has {len(names)}")
    base = _base(path, content.get("path"))
    splits = {}
    for split in SPLITS:
        if content.get(split) is not None:
            entries = content[split] if isinstance(content[split], list) else [content[split]]
            places = [_place(path, split, base, each, findings) for each in entries]
            splits[split] = tuple(place for place in places if place is not None)
    if not splits:
        known = ", ".join(_KNOWN_KEYS[:-1])
        near = "".join(f"; it has {key!r}{meant}" for key, meant in list(misspelt.items())[:1])
        raise ConfigError(f"{path}: has none of train, val and test (known keys: {known}){near}")
    if not any(splits.values()):
        raise ConfigError(
            f"{path}: none of its pictures' paths exists under {str(base)!r}: correct 'path' or the splits"
        )
    return DataFile(path, names, count, splits)


def _misspelt(content: dict[str, Any]) -> dict[str, str]:
    """Returns the keys that aren't read and resemble a split that is missing, each with a question that names it."""
    missing = [split for split in SPLITS if split not in content and not (split == "val" and "validation" in content)]
    unread = {key: nearest(key, missing) for key in content if key not in _KNOWN_KEYS}
    return {key: meant for key, meant in unread.items() if meant}


def _base(path: Path, given: Any) -> Path:
    """Returns the folder that splits are relative to: ``path`` from the file's own folder, else the current one."""
    own = path.parent
    if given is None or given == "":
        return own
    if not isinstance(given, str):
        raise ConfigError(f"{path}: 'path' should be a folder, got {short(given)}")
    folder = Path(given).expanduser() if given.startswith("~/") else Path(given)
    for candidate in (own / folder, folder):
        if _exists(candidate):
            return candidate
    return own / folder


def _place(path: Path, split: str, base: Path, entry: Any, findings: Findings) -> Place | None:
    if isinstance(entry, str):
        entry = {"images": entry}
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{path}: {split!r} should be a folder, a list of pictures, or images: and labels:, got {short(entry)}"
        )
    for key in entry:
        if key not in _PLACE_KEYS:
            near = nearest(str(key), _PLACE_KEYS)
            raise ConfigError(f"{path}: {split!r} has the key {short(key)}, wanted {', '.join(_PLACE_KEYS)}{near}")
    if "images" not in entry:
        raise ConfigError(f"{path}: {split!r} has no 'images': give the folder of its pictures")
    found: dict[str, Path] = {}
    for key, value in entry.items():
        if value is None and key != "images":
            continue
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path}: {key!r} of {split!r} should be a path, got {short(value)}")
        place = _resolve(base, value, split, findings)
        if place is None:
            findings.add("missing-test" if split == "test" else "missing-split", f"{split}: no {base / value}")
            return None
        found[key] = place
    return Place(found["images"], found.get("labels"), found.get("list"))


def _resolve(base: Path, value: str, split: str, findings: Findings) -> Path | None:
    place = base / value
    if _exists(place):
        return place
    inner = value
    while inner.startswith("../"):  # exporters write '../train/images' for a folder beside the data.yaml
        inner = inner[3:]
    if inner != value and _exists(base / inner):
        findings.add("parent-path", f"{split}: {value}")
        return base / inner
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def _names(path: Path, given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, dict):
        given = _by_id(path, given)
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{path}: 'names' should list the classes, or map ids to them, got {short(given)}")
    for name in given:
        if not isinstance(name, str | int | float):
            raise ConfigError(f"{path}: 'names' has {short(name)}, wanted a word; put it in quotes if it is one")
    return tuple(str(name) for name in given)


def _by_id(path: Path, given: dict[Any, Any]) -> list[Any]:
    ids = {}
    for key, name in given.items():
        is_id = not isinstance(key, bool) and (isinstance(key, int) or (isinstance(key, str) and key.isdecimal()))
        if not is_id:
            raise ConfigError(f"{path}: 'names' has the id {short(key)}, wanted 0 to {len(given) - 1}")
        ids[int(key)] = name
    if sorted(ids) != list(range(len(given))):
        missing = next((number for number in range(len(given)) if number not in ids), len(given))
        raise ConfigError(
            f"{path}: 'names' has {counted(len(given), 'class')} but no id {missing}: number them from 0 without gaps"
        )
    return [ids[number] for number in range(len(ids))]
