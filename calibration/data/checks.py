"""Checks of data that was read and whose pictures were opened; each adds its findings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calibration.data.duplicates import first_of_each, nearest_earlier
from calibration.data.exif import TURNED
from calibration.data.findings import Finding, Findings
from calibration.data.reading import TrainingData
from calibration.data.scan import MISSING, ScannedPicture
from calibration.data.summary import SplitSummary, boxes_px
from calibration.labels import plain_name
from streamer.common.errors import counted, short

TINY_PX = 3.0
"""Width or height, in pixels at the training size, under which an object is hardly learnt."""
_TINY_SHARE = 0.05
_RARE_OBJECTS = 10
_RARE_SHARE = 0.01
_LONGEST_NAME = 40


def check_data(
    data: TrainingData,
    scans: Mapping[Path, ScannedPicture],
    summaries: Mapping[str, SplitSummary],
    input_wh: tuple[int, int],
) -> tuple[Finding, ...]:
    """Returns what is wrong beyond the findings of reading.

    Args:
        data: what was read.
        scans: all its pictures.
        summaries: by split.
        input_wh: width and height of the network's input that is trained.
    """
    findings = Findings()
    check_splits(data, summaries, findings)
    check_names(data, findings)
    check_classes(data, summaries, findings)
    check_pictures(data, scans, findings)
    check_tiny_boxes(data, scans, input_wh, findings)
    check_duplicates(data, scans, findings)
    return findings.all()


def check_splits(data: TrainingData, summaries: Mapping[str, SplitSummary], findings: Findings) -> None:
    """Finds splits that are missing, empty, of one picture, or without an object."""
    if "train" not in summaries:
        findings.add("no-train", str(data.path))
    if "val" not in summaries:
        findings.add("missing-val", str(data.path))
    for split, summary in summaries.items():
        if not summary.pictures:
            findings.add("empty-split", split)
        elif summary.pictures == 1:
            findings.add("one-picture", f"{split}: {data.splits[split][0].image}")
        if summary.pictures and not summary.objects:
            findings.add("all-background", f"{split}: {counted(summary.pictures, 'picture')}")


def check_names(data: TrainingData, findings: Findings) -> None:
    """Finds names that are empty, numbers, very long or have odd characters."""
    for number, name in enumerate(data.names):
        reason = (
            "empty" if not name.strip()
            else "spaces around it" if name != name.strip()
            else "characters that can't be printed" if not name.isprintable()
            else "a number" if plain_name(name).replace(".", "").isdecimal()
            else f"over {_LONGEST_NAME} letters" if len(name) > _LONGEST_NAME
            else ""
        )  # fmt: skip
        if reason:
            findings.add("odd-name", f"class {number}: {short(name)}: {reason}")


def check_classes(data: TrainingData, summaries: Mapping[str, SplitSummary], findings: Findings) -> None:
    """Finds classes that a split lacks, or that are rare."""
    none = np.zeros(len(data.names), np.int64)
    counts = {
        split: summaries[split].class_counts if split in summaries else none for split in ("train", "val", "test")
    }
    commonest = int(counts["train"].max(initial=0))
    for number, name in enumerate(data.names):
        train, val, test = (int(counts[split][number]) for split in ("train", "val", "test"))
        if not train + val + test:
            findings.add("class-never-seen", name)
        elif not train:
            findings.add("class-not-in-train", f"{name}: {counted(val, 'object')} in val, {test} in test")
        else:
            if not val and "val" in summaries:
                findings.add("class-not-in-val", f"{name}: {counted(train, 'object')} in train")
            if train < max(_RARE_OBJECTS, _RARE_SHARE * commonest):
                findings.add(
                    "rare-class", f"{name}: {counted(train, 'object')} in train, the commonest has {commonest}"
                )


def check_pictures(data: TrainingData, scans: Mapping[Path, ScannedPicture], findings: Findings) -> None:
    """Finds pictures that are missing, unreadable, rotated by EXIF, or of another size than their labels say."""
    for image, scanned in scans.items():
        if scanned.problem == MISSING:
            findings.add("missing-picture", str(image))
            continue
        if scanned.problem:
            findings.add("unreadable-picture", f"{image}: {scanned.problem}")
            continue
        labelled = data.label_sizes_wh.get(image)
        is_stored = labelled == scanned.stored_wh and labelled != scanned.size_wh
        width, height = scanned.size_wh
        if is_stored and scanned.orientation in TURNED:
            findings.add("unturned-labels", f"{image}: shown as {width}x{height}, labelled as {height}x{width}")
        elif labelled is not None and labelled != scanned.size_wh:
            findings.add("size-mismatch", f"{image}: {width}x{height}, labelled as {labelled[0]:g}x{labelled[1]:g}")
        elif scanned.orientation != 1 and not (labelled and scanned.orientation in TURNED and width != height):
            findings.add("exif-rotated", f"{image}: orientation {scanned.orientation}")


def check_tiny_boxes(
    data: TrainingData, scans: Mapping[Path, ScannedPicture], input_wh: tuple[int, int], findings: Findings
) -> None:
    """Finds objects under `TINY_PX` at the training size."""
    tiny: list[str] = []
    objects = 0
    for samples in data.splits.values():
        for sample in samples:
            scanned = scans[sample.image]
            if scanned.problem:
                continue
            is_object = sample.is_object
            sizes = boxes_px(sample, scanned.size_wh, input_wh)[is_object]
            objects += len(sizes)
            for place in np.flatnonzero((sizes < TINY_PX).any(1)):
                name = data.names[sample.class_ids[is_object][place]]
                tiny.append(f"{sample.image}: {name} of {sizes[place, 0]:.3g}x{sizes[place, 1]:.3g} px")
    kind = "tiny-boxes" if len(tiny) > _TINY_SHARE * objects else "few-tiny-boxes"
    for each in tiny:
        findings.add(kind, each)


def check_duplicates(data: TrainingData, scans: Mapping[Path, ScannedPicture], findings: Findings) -> None:
    """Finds pictures that are in a split twice, or in two splits, or look like another."""
    splits = list(data.splits)
    places = [
        (group, image)
        for group, split in enumerate(splits)
        for image in dict.fromkeys(sample.image for sample in data.splits[split])
        if not scans[image].problem
    ]
    groups = np.array([group for group, _ in places], np.int64)
    same = first_of_each([scans[image].digest for _, image in places], groups, len(splits))
    hashed = np.array([index for index, (_, image) in enumerate(places) if scans[image].hashes is not None], np.int64)
    hashes = np.array([scans[places[index][1]].hashes for index in hashed], np.uint64).reshape(-1, 2)
    alike = np.full((len(places), len(splits)), len(places), np.int64)
    if len(hashed):
        near = nearest_earlier(hashes, groups[hashed], len(splits))
        alike[hashed] = np.append(hashed, len(places))[near]
    for index, (group, image) in enumerate(places):
        for table, across, within in (
            (same, "same-file-in-splits", "same-file"),
            (alike, "similar-in-splits", "similar-picture"),
        ):
            earlier = [place for place in table[index, :group] if place < index]
            if earlier:
                findings.add(
                    across, f"{splits[group]}: {image} = {splits[places[earlier[0]][0]]}: {places[earlier[0]][1]}"
                )
            if table[index, group] < index:
                findings.add(within, f"{splits[group]}: {image} = {places[table[index, group]][1]}")
            if earlier or table[index, group] < index:
                break
