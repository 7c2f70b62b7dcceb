"""What is wrong with data: kinds of findings by severity, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from streamer.common.errors import one_line

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

MOST_EXAMPLES = 1000
"""Places that a finding names; the others are only counted."""


@dataclass(frozen=True)
class Finding:
    """All occurrences of one kind.

    Attributes:
        severity: ``error``, ``warning`` or ``info``.
        kind: in kebab-case, such as ``degenerate-box``.
        text: what it is, one line without the count.
        count: occurrences: labels, pictures, files or classes.
        left_out: labels among them that aren't in the samples.
        examples: ``file:line: detail`` of the first `MOST_EXAMPLES` of them.
        remedy: what to do.
    """

    severity: Severity
    kind: str
    text: str
    count: int
    left_out: int
    examples: tuple[str, ...]
    remedy: str

    @property
    def where(self) -> str | None:
        """The first place, or None."""
        return self.examples[0] if self.examples else None


# kind: (severity, text, remedy); the most important first
_KINDS: dict[str, tuple[Severity, str, str]] = {
    # what stops a training
    "missing-split": ("error", "splits that can't be read", "correct their paths in the data.yaml"),
    "no-train": ("error", "no split 'train'", "name the folder of the training pictures in the data.yaml"),
    "empty-split": ("error", "splits without a picture", "give the split a folder of pictures, or a list of them"),
    "all-background": (
        "error",
        "splits without a single object",
        "check where the labels are looked for: see the docs",
    ),
    "class-count": ("error", "'nc' differs from the number of names", "leave 'nc' out, or correct it"),
    "missing-picture": ("error", "pictures that don't exist", "correct the list, or copy the pictures there"),
    "unreadable-picture": ("error", "pictures that can't be decoded", "copy them again, or delete them"),
    "unreadable-labels": (
        "error",
        "label files that can't be read; their pictures are left out",
        "mend or delete them",
    ),
    "pixel-coordinates": (
        "error",
        "boxes in pixels where fractions of the picture are due: left out",
        "divide x and w by the picture's width, y and h by its height",
    ),
    "class-out-of-range": (
        "error",
        "labels of a class id that has no name: left out",
        "add the names, or correct the ids",
    ),
    "unknown-class": (
        "error",
        "labels of a class that 'names' doesn't list: left out",
        "add the name, or rename the class",
    ),
    "unparsable-label": (
        "error",
        "labels that can't be read: left out",
        "a YOLO line is 'class cx cy w h', or a polygon 'class x1 y1 x2 y2 x3 y3 ...'",
    ),
    "unparsable-entry": ("error", "images or categories of a COCO file that can't be read", "export the file again"),
    "not-a-number": ("error", "labels with NaN or infinite numbers: left out", "export them again"),
    "size-mismatch": (
        "error",
        "pictures of another size than their labels were made for",
        "use the pictures that were labelled, or export the labels again",
    ),
    "unturned-labels": (
        "error",
        "pictures with an EXIF rotation whose labels were drawn on the picture as stored",
        "rotate the pixels once ('exiftran -ai', 'mogrify -auto-orient') and label again, or remove the tag",
    ),
    "same-file-in-splits": (
        "error",
        "pictures that are also in another split, the same file",
        "keep each picture in one split: accuracy on it is too good otherwise",
    ),
    "duplicate-name": (
        "error",
        "names that two classes share: read as one class",
        "give each class its own name, or merge them by renaming",
    ),
    "class-not-in-train": (
        "error",
        "classes that are labelled in val or test but never in train",
        "add pictures of them to train, or leave the class out",
    ),
    # what costs accuracy
    "missing-val": (
        "warning",
        "no split 'val': the verb train refuses data without one",
        "put a fifth of the pictures aside, of other scenes",
    ),
    "unknown-key": (
        "warning",
        "keys that aren't read and resemble a split that is missing",
        "correct them, or leave them out",
    ),
    "missing-test": ("warning", "'test' can't be read", "correct its path, or leave it out"),
    "one-picture": ("warning", "splits of one picture", "add pictures"),
    "class-never-seen": ("warning", "classes without a single object", "label some, or leave the class out"),
    "class-not-in-val": (
        "warning",
        "classes without an object in val: their accuracy can't be told",
        "add some to val",
    ),
    "rare-class": (
        "warning",
        "classes with fewer than 10 objects in train, or under 1 % of the commonest",
        "add pictures of them, or merge classes by renaming",
    ),
    "odd-name": ("warning", "odd class names", "name the classes as they should be shown"),
    "degenerate-box": ("warning", "boxes without width or height: left out", "delete or redraw them"),
    "outside-box": ("warning", "boxes wholly outside their picture: left out", "delete or redraw them"),
    "clipped-box": ("warning", "boxes that reach outside their picture: clipped", "nothing, or redraw them"),
    "duplicate-label": ("warning", "labels that repeat another of the picture: left out", "nothing, or delete them"),
    "repeated-picture": ("warning", "pictures listed twice in one split", "nothing, or delete the repetition"),
    "emptied-picture": (
        "warning",
        "pictures whose labels are all left out: they count as background",
        "mend the labels, or take the pictures out",
    ),
    "listed-picture-missing": (
        "warning",
        "pictures of a COCO file that aren't in its folder: left out with their labels",
        "copy the pictures there, or take them out of the file",
    ),
    "label-without-picture": ("warning", "labels without a picture", "copy the pictures there, or delete the labels"),
    "shared-labels": ("warning", "pictures that share one label file", "give pictures of a folder names of their own"),
    "second-labels": (
        "warning",
        "label files beside another one of the same picture: not read",
        "keep the .txt or the .xml file of each picture",
    ),
    "unknown-picture-format": ("warning", "pictures of a format that isn't read", "convert them to JPEG or PNG"),
    "similar-in-splits": (
        "warning",
        "pictures that look like one in another split",
        "split by scene or recording, so that similar pictures are in one split",
    ),
    "same-file": ("warning", "pictures whose file is in the split twice", "delete one of them"),
    "exif-rotated": (
        "warning",
        "pictures with an EXIF rotation: read as viewers show them, and so the labels",
        "look whether the labels fit; else rotate the pixels once ('exiftran -ai') and label again",
    ),
    "tiny-boxes": (
        "warning",
        "boxes under 3 px at the training size, more than 5 %",
        "train larger, or cut pictures up",
    ),
    # what is good to know
    "few-tiny-boxes": ("info", "boxes under 3 px at the training size", "nothing; a few are hardly learnt"),
    "similar-picture": ("info", "pictures that look like another in their split", "nothing, or thin out the recording"),
    "background": ("info", "pictures without an object", "nothing: they teach what isn't an object"),
    "ignored-region": ("info", "regions to ignore: crowd, difficult, or of a class such as 'ignore'", "nothing"),
    "class-left-out": ("info", "objects of classes that weren't chosen: left out", "nothing"),
    "picture-not-listed": ("info", "pictures beside a COCO file that it doesn't list: not used", "nothing"),
    "picture-not-chosen": ("info", "pictures of a COCO file that the split's list leaves out", "nothing"),
    "parent-path": ("info", "paths with '../' that were found without it", "nothing, or write them without '../'"),
}
_ORDER = {kind: number for number, kind in enumerate(_KINDS)}


class Findings:
    """Collects what is found, by kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, where: str, *, count: int = 1, left_out: int = 0) -> None:
        """Counts `count` occurrences of a kind, of which `left_out` labels are left out; `where` names the first."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        self._left_out[kind] = self._left_out.get(kind, 0) + left_out
        examples = self._examples.setdefault(kind, [])
        if len(examples) < MOST_EXAMPLES:
            examples.append(one_line(where))

    def all(self) -> tuple[Finding, ...]:
        """Returns the findings, the most important first."""
        found = []
        for kind in sorted(self._counts, key=_ORDER.__getitem__):
            severity, text, remedy = _KINDS[kind]
            examples = tuple(self._examples[kind])
            found.append(Finding(severity, kind, text, self._counts[kind], self._left_out[kind], examples, remedy))
        return tuple(found)


def merge(*groups: Iterable[Finding]) -> tuple[Finding, ...]:
    """Returns the findings of several groups, those of a kind as one, the most important first."""
    found: dict[str, Finding] = {}
    for each in (finding for group in groups for finding in group):
        known = found.get(each.kind)
        if known is not None:
            examples = (*known.examples, *each.examples)[:MOST_EXAMPLES]
            count, left_out = known.count + each.count, known.left_out + each.left_out
            each = replace(known, count=count, left_out=left_out, examples=examples)
        found[each.kind] = each
    return tuple(sorted(found.values(), key=lambda each: _ORDER[each.kind]))
