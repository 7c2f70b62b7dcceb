"""Tells whether frames may be collected in a folder: it may hold training data, or lie in that of another."""

from __future__ import annotations

import logging
from pathlib import Path

from calibration.data.data_file import open_data
from calibration.data.findings import Findings
from calibration.dataset import find_images
from streamer.common.errors import ConfigError

log = logging.getLogger(__name__)


def check_folder(folder: Path, *, is_collection: bool) -> None:
    """Refuses a folder whose pictures and labels are, or would become, training data that hasn't been corrected.

    Of a folder that already is a collection this is said in a warning: its owner has named it in a data.yaml.

    Args:
        folder: which may not be there yet.
        is_collection: whether an earlier run has collected there.

    Raises:
        ConfigError: it holds pictures or labels of something else, or lies in a folder of training data.
    """
    if not is_collection and folder.is_dir():
        for what, found in (("pictures", find_images(folder)), ("labels", _labels(folder))):
            if found:
                raise ConfigError(f"{folder}: has {what} of something else ({found[0]}); give a new or an empty folder")
    data = _data_that_reads(folder)
    if data is None:
        return
    if not is_collection:
        raise ConfigError(
            f"{folder}: its frames would be training data of {data}, with what the model found as labels; give a folder"
            " elsewhere"
        )
    log.warning("%s: what is collected is training data of %s at once: correct the new labels first", folder, data)


def _labels(folder: Path) -> list[Path]:
    place = folder / "labels"
    return sorted(place.iterdir())[:1] if place.is_dir() else []


def _data_that_reads(folder: Path) -> Path | None:
    """Returns a data.yaml, in the folder above or further up, with a split whose pictures include this folder's."""
    pictures = (folder / "images").resolve()
    for parent in pictures.parents[1:]:
        for file in (*parent.glob("*.yaml"), *parent.glob("*.yml")):
            try:
                splits = open_data(file, Findings()).splits
            except ConfigError:  # another kind of file
                continue
            places = [place.images.resolve() for split in splits.values() for place in split]
            if any(place.is_dir() and pictures.is_relative_to(place) for place in places):
                return file
    return None
