"""Detections as a COCO JSON file."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.files import is_special, reason
from streamer.sinks.frame_files import FrameNames, picture_name
from streamer.sinks.paths import OutputPaths
from streamer.sinks.rows import clipped_rows, iso_utc

_EVERY_S, _WORK_SHARE = 10.0, 0.02
_CHUNK_BYTES = 1 << 20
_MOST_DIGITS = 15
# COCO numbers its 80 classes from 1 to 90; these were never published.
_UNUSED_IDS: Final = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class CocoSink(Sink):
    """Writes ``images``, ``categories`` and ``annotations``, as COCO's ground truth has them, with a ``score``.

    So the whole file loads as a data set (pycocotools, CVAT, FiftyOne), and ``annotations`` alone is what COCO calls
    results, for ``loadRes``. Category ids are COCO's own for its 80 classes, else 1 for the first class. An image's
    id is its file name where that is a number, as of COCO's pictures, else the next free one. Boxes are left, top,
    width and height in pixels. Frames that the detector skipped are left out; frames without detections are images.

    What was written so far is put in place as a whole, atomically, at the end and meanwhile every ten seconds, less
    often once the file is large: a killed run leaves the last such state. The rest waits in unnamed files on the same
    disk, so memory doesn't grow.
    """

    needs_pixels = False

    def __init__(
        self,
        path: Path,
        labels: Sequence[str],
        *,
        live: bool = False,
        rounded: bool = True,
        paths: OutputPaths | None = None,
        every_s: float = _EVERY_S,
    ) -> None:
        """Checks that `path` can be written.

        Args:
            path: the file; an existing one is kept until the first state is put in place.
            labels: class names by class id.
            live: whether images have ``captured_at``.
            rounded: whether scores have 4 decimals and boxes 2, or all digits.
            paths: the paths of the run; None for a run of its own.
            every_s: shortest time between two states.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written, or is a pipe or a device.
        """
        if is_special(path):
            raise SinkError(f"can't write {path}: COCO JSON needs a file; choose another output")
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._live, self._rounded, self._every_s = live, rounded, every_s
        self._category_ids = category_ids(labels)
        pairs = zip(self._category_ids, labels, strict=True)
        self._categories = [{"id": number, "name": label, "supercategory": ""} for number, label in pairs]
        self._names = FrameNames()
        self._image_ids = _ImageIds()
        self._annotation_count = 0
        self._due_s = time.monotonic() + every_s
        self._is_open, self._has_written = True, False
        self._images: IO[bytes] | None = None
        self._annotations: IO[bytes] | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        if detections.is_reused:
            return
        width, height = frame.size_wh
        image: dict[str, Any] = {
            "id": self._image_ids.of(frame),
            "file_name": picture_name(frame) or f"{self._names.name(frame)}.jpg",
            "width": width,
            "height": height,
            "source": frame.source,
            "frame_index": frame.index,
            "pts_s": frame.pts_s,
            **({"captured_at": iso_utc(frame)} if self._live else {}),
        }
        found = []
        for class_id, score, (left, top, right, bottom) in clipped_rows(frame, detections, rounded=False):
            box = [left, top, right - left, bottom - top]
            area = box[2] * box[3]
            if self._rounded:
                score, area, box = round(score, 4), round(area, 2), [round(value, 2) for value in box]
            self._annotation_count += 1
            found.append(
                {
                    "id": self._annotation_count,
                    "image_id": image["id"],
                    "category_id": self._category_ids[class_id],
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                    "score": score,
                }
            )
        try:
            texts = [json.dumps(each, allow_nan=False).encode() for each in found]
        except ValueError as error:
            raise SinkError(f"frame {frame.index} of {frame.source} has a number that is NaN or Inf") from error
        try:
            self._images = _append(self._images, [json.dumps(image).encode()], self._path)
            self._annotations = _append(self._annotations, texts, self._path)
        except OSError as error:
            raise self._broken(error) from error
        if time.monotonic() >= self._due_s:
            self._publish()

    def close(self) -> None:
        try:
            if self._is_open and self._images is not None:
                self._publish()
        finally:
            self._is_open = False
            for spool in (self._images, self._annotations):
                if spool is not None:
                    with contextlib.suppress(OSError):
                        spool.close()
            self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once there is a frame."""
        return (self._path,) if self._has_written or self._images is not None else ()

    def _publish(self) -> None:
        """Puts all that was written in place."""
        began_s = time.monotonic()
        head = json.dumps({"info": {"description": "nanodet-stream"}, "licenses": [], "categories": self._categories})
        try:
            with atomic_file(self._path) as partial, partial.open("wb") as file:
                file.write(head[:-1].encode())
                for key, spool in (("images", self._images), ("annotations", self._annotations)):
                    file.write(f',\n"{key}": ['.encode())
                    _copy(spool, file)
                    file.write(b"]")
                file.write(b"}\n")
        except OSError as error:
            raise self._broken(error) from error
        self._has_written = True
        now_s = time.monotonic()
        self._due_s = now_s + max(self._every_s, (now_s - began_s) / _WORK_SHARE)

    def _broken(self, error: OSError) -> SinkError:
        state = "holds what was put in place before" if self._has_written else "was not written"
        return SinkError(f"can't write {self._path}: {reason(error)}; it {state}")


class _ImageIds:
    """Numbers of the images of one source: a picture's file name where that is a number, else the next free one."""

    def __init__(self) -> None:
        self._taken: set[int] = set()  # by pictures; frames of a video are only counted
        self._last = 0

    def of(self, frame: Frame) -> int:
        """Returns a number that no other image has, at least 1."""
        name = picture_name(frame)
        if name is None and not self._taken:
            self._last += 1
            return self._last
        stem = Path(name or "").stem
        number = int(stem) if stem.isascii() and stem.isdecimal() and len(stem) <= _MOST_DIGITS else 0
        if number <= self._last or number in self._taken:
            number = self._last + 1
            while number in self._taken:
                number += 1
            self._last = number
        self._taken.add(number)
        return number


def category_ids(labels: Sequence[str]) -> tuple[int, ...]:
    """Returns the category id of each class: COCO's own for its 80 classes, else from 1 on."""
    if len(labels) == 80 and (labels[0], labels[-1]) == ("person", "toothbrush"):
        return tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)
    return tuple(range(1, len(labels) + 1))


def _append(spool: IO[bytes] | None, texts: Sequence[bytes], beside: Path) -> IO[bytes]:
    """Appends JSON values to an unnamed file, which is made for the first, separated by commas; all of them or none."""
    if spool is None:
        spool = tempfile.TemporaryFile(dir=beside.resolve().parent, buffering=0)  # noqa: SIM115 - closed by `close`
    size = spool.seek(0, 2)
    if texts:
        data = memoryview((b",\n" if size else b"\n") + b",\n".join(texts))
        try:
            while data:
                data = data[spool.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                spool.truncate(size)
            raise
    return spool


def _copy(spool: IO[bytes] | None, file: IO[bytes]) -> None:
    if spool is None:
        return
    spool.seek(0)
    while chunk := spool.read(_CHUNK_BYTES):
        file.write(chunk)
