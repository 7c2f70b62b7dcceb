"""The pictures of one split of a data.yaml, with the class ids of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.labels import EVERY_CLASS, ClassNames, Sample
from streamer.common.errors import ConfigError, counted
from streamer.common.terminal import say


def read_split(path: Path, split: str, labels: Sequence[str]) -> list[Sample]:
    """Reads the pictures of a split; what was left out while reading is counted in a line.

    Args:
        path: the data.yaml.
        split: ``train``, ``val`` or ``test``.
        labels: the model's, by class id.

    Raises:
        ConfigError: the file is wrong, the split is empty, or it has no object of the model's classes.
    """
    from calibration.data import read_data

    data = read_data(path)
    left_out = [finding for finding in data.findings if finding.severity != "info"]
    if left_out:
        kinds = counted(len(left_out), "kind")
        say(f"{path}: {kinds} of findings while reading, such as: {left_out[0].text} (see the verb check)")
    samples = data.splits.get(split, ())
    if not samples:
        others = ", ".join(f"{name} ({len(each)})" for name, each in data.splits.items() if each) or "none"
        raise ConfigError(f"{path}: the split {split!r} has no pictures; splits with pictures: {others}")
    return of_model(samples, data.names, labels, path)


def of_model(samples: Sequence[Sample], names: Sequence[str], labels: Sequence[str], where: Path) -> list[Sample]:
    """Returns the samples with the model's class ids; objects of classes that it lacks are left out with a warning.

    Args:
        samples: their class ids are places in `names`, or `EVERY_CLASS`.
        names: the data's classes.
        labels: the model's classes, matched by name in any case.
        where: for messages.

    Raises:
        ConfigError: there are no objects, or none of the model's classes.
    """
    known = ClassNames(labels)
    ids = {EVERY_CLASS: EVERY_CLASS} | {class_id: known.find(name) for class_id, name in enumerate(names)}
    known.unknown.clear()  # only those of objects count
    placed = []
    for sample in samples:
        found = [ids[class_id] for class_id in sample.class_ids.tolist()]
        known.unknown.update(
            names[class_id] for class_id, own in zip(sample.class_ids.tolist(), found, strict=True) if own is None
        )
        kept = np.array([own is not None for own in found], bool)
        placed.append(
            replace(
                sample,
                class_ids=np.array([own for own in found if own is not None], np.int64),
                boxes_cxcywh=sample.boxes_cxcywh[kept],
                is_crowd=None if sample.is_crowd is None else sample.is_crowd[kept],
                areas=None if sample.areas is None else sample.areas[kept],
            )
        )
    count = sum(int(sample.is_object.sum()) for sample in placed)
    known.report(where, count)
    if not count:
        raise ConfigError(f"{where}: no object in its {counted(len(placed), 'picture')}: there is nothing to measure")
    return placed
