"""A folder of chosen frames: pictures, labels to correct, a data.yaml, and an index to go on from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from calibration.collection_folder import check_folder
from calibration.files import to_json, write_whole
from calibration.frame_choice import Chosen, Reason
from calibration.picture_hash import hash_distance, picture_hash
from streamer.common.errors import ConfigError, SinkError, StreamerError, counted
from streamer.frames.detections import Detections
from streamer.sinks.files import safe_name
from streamer.sources.base import SourceInfo

log = logging.getLogger(__name__)

_ALIKE = 0.02
"""Greatest share of differing bits of near-duplicates. Of a fixed camera, an empty road differs from itself seconds
later by up to 1.8 % (the exposure changes), from itself with a car by 2.6 % or more; a mere strip of a car may count as
alike."""
_JPEG_QUALITY = 95
_ELSEWHERE = "give another folder"
_HEAD = """\
# Frames chosen by `python -m calibration collect`, labelled by the model itself: correct the labels before training.
# Add a `val:` of other pictures: with frames of the same scene in both it would be no test.
"""


@dataclass(frozen=True)
class CollectionLimits:
    """What a collection may hold.

    Attributes:
        count: pictures, those of earlier runs included.
        size_bytes: of pictures and labels, likewise.
        random_share: of pictures that are chosen at random, 0 to 1.
        every_s: least time between two frames of one file, also where it is read again.
    """

    count: int
    size_bytes: int
    random_share: float
    every_s: float = 0.0


class Collection:
    """Writes chosen frames into a folder; a second run on the same folder goes on. Any thread may call it.

    Attributes:
        added: pictures of this run.
        reasons: why they were chosen; one may have two reasons.
        duplicates: frames of this run that looked like a picture that is there, or were next to it in a file.
        failure: why writing has stopped; None where it hasn't.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        limits: CollectionLimits,
        *,
        model: str,
        label_conf: float | None,
        seed: int = 0,
    ) -> None:
        """Opens or makes the folder.

        Args:
            folder: is made if it isn't there.
            names: the model's classes.
            limits: what it may hold.
            model: the model's name, for the index.
            label_conf: least score of a detection that becomes a label; None writes no labels.
            seed: of the choice of random frames.

        Raises:
            ConfigError: the folder can't be written, holds something else, lies in training data, or has frames of
                a model with other classes.
        """
        self._folder, self._names, self._limits = folder, tuple(names), limits
        self._model, self._label_conf = model, label_conf
        self._lock = threading.Lock()
        self.reasons: Counter[Reason] = Counter()
        self.added = self.duplicates = 0
        self.failure: SinkError | None = None
        self._random_count = self._bytes = self._number = 0
        self._hashes: list[bytes] = []
        self._times_s: dict[str, list[float]] = {}  # of each file's frames, by its address
        self._index = folder / "index.jsonl"
        self._make()
        self._read_index()
        self._random = np.random.default_rng([seed, len(self._hashes)])

    @property
    def count(self) -> int:
        """Pictures in the folder."""
        return len(self._hashes)

    @property
    def is_full(self) -> bool:
        """Whether a limit is reached."""
        return self.count >= self._limits.count or self._bytes >= self._limits.size_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the pictures and labels."""
        return self._bytes

    def random_is_due(self) -> bool:
        """Whether the next picture is to be a random one: by chance, and while these don't exceed their share."""
        with self._lock:
            most = max(1.0, self._limits.random_share * (self.count + 1))
            return self._random.random() < self._limits.random_share and self._random_count + 1 <= most

    def add(self, chosen: Chosen, source: SourceInfo) -> bool:
        """Writes a frame; returns False where it looks like one that is there, a limit is reached, or writing fails.

        A failure is kept in `failure`; of the frame that failed nothing stays.
        """
        looks = picture_hash(chosen.image)
        with self._lock:
            if self.is_full or self.failure is not None:
                return False
            if self._is_near(chosen, source) or any(hash_distance(looks, other) <= _ALIKE for other in self._hashes):
                self.duplicates += 1
                return False
            try:
                self._write(chosen, source, looks)
            except StreamerError as error:
                self.failure = SinkError(f"{error}; kept {counted(self.count, 'picture')}")
                return False
            self.added += 1
            self.reasons.update(chosen.reasons)
            return True

    def summary(self) -> str:
        """Returns a line: what this run added, and what is there."""
        reasons = ", ".join(f"{count} {reason.value}" for reason, count in self.reasons.most_common())
        return (
            f"{self._folder}: {counted(self.count, 'picture')}, {self._bytes / 1e6:.1f} MB; {self.added} of them new"
            f"{f' ({reasons})' if reasons else ''}, {counted(self.duplicates, 'near-duplicate')} left out"
        )

    def _make(self) -> None:
        data, is_collection = self._folder / "data.yaml", self._index.exists()
        try:
            there = yaml.safe_load(data.read_text(encoding="utf-8")) if data.exists() else None
            names = dict(enumerate(self._names))
            if there is not None and not is_collection:
                raise ConfigError(f"{data}: is of training data that wasn't collected here; {_ELSEWHERE}")
            if there is not None and not (isinstance(there, dict) and there.get("names") == names):
                raise ConfigError(f"{data}: is of other classes than those of the model {self._model}; {_ELSEWHERE}")
            check_folder(self._folder, is_collection=is_collection)
            for name in ("images", "labels"):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            self._index.touch()
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or "not YAML"
            raise ConfigError(f"{self._folder}: can't collect there: {reason}; {_ELSEWHERE}") from None
        if there is None:
            text = yaml.safe_dump({"names": names}, allow_unicode=True, sort_keys=False)
            write_whole(data, f"{_HEAD}path: .\ntrain: images\n{text}".encode())

    def _read_index(self) -> None:
        """Reads what earlier runs wrote. A line that a power cut left unfinished doesn't count; its picture stays."""
        try:
            lines = self._index.read_bytes().splitlines() if self._index.exists() else []
            numbers = [file.stem.rpartition("-")[2] for file in (self._folder / "images").iterdir()]
        except OSError as error:
            raise ConfigError(f"{self._index}: can't be read: {error.strerror or error}") from None
        self._number = max((int(number) for number in numbers if number.isdecimal()), default=0)
        for line in lines:
            try:
                entry = json.loads(line)
                looks, size = bytes.fromhex(entry["hash"]), int(entry["bytes"])
                is_random = Reason.RANDOM.value in entry["why"]
                times_s = self._times_s.setdefault(str(entry["uri"]), [])
                times_s.append(float(entry["time_s"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                log.warning("%s: a line of it is damaged and doesn't count", self._index)
                continue
            self._hashes.append(looks)
            self._bytes += size
            self._random_count += is_random

    def _is_near(self, chosen: Chosen, source: SourceInfo) -> bool:
        """Whether a frame of the same file is there that is less than `every_s` away."""
        times_s = () if source.path is None else self._times_s.get(source.uri, ())
        return any(abs(chosen.time_s - time_s) < self._limits.every_s - 1e-3 for time_s in times_s)

    def _write(self, chosen: Chosen, source: SourceInfo, looks: bytes) -> None:
        name = f"{safe_name(source.name)}-{self._number + 1:06}"
        image, label = self._folder / "images" / f"{name}.jpg", self._folder / "labels" / f"{name}.txt"
        done, encoded = cv2.imencode(".jpg", chosen.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not done:
            raise ConfigError(f"{image}: a frame of {source.name!r} can't be written as JPEG")
        text = None if self._label_conf is None else self._yolo(chosen)
        size = len(encoded) + len(text or b"")
        try:
            write_whole(image, encoded.tobytes())
            if text is not None:
                write_whole(label, text)
            self._append(self._entry(chosen, source, looks, image, size))
        except StreamerError:
            for file in (image, label):
                with contextlib.suppress(OSError):
                    file.unlink()
            raise
        self._number += 1
        self._hashes.append(looks)
        self._bytes += size
        self._random_count += Reason.RANDOM in chosen.reasons
        self._times_s.setdefault(source.uri, []).append(chosen.time_s)

    def _entry(self, chosen: Chosen, source: SourceInfo, looks: bytes, image: Path, size: int) -> dict[str, Any]:
        """Returns the index's line of a picture. The source's URI comes redacted."""
        found = chosen.detections
        entry = {
            "file": image.relative_to(self._folder).as_posix(),
            "source": source.name,
            "uri": source.uri,
            "frame": chosen.index,
            "time_s": round(chosen.time_s, 3),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "why": [reason.value for reason in chosen.reasons],
            "detections": [
                {"class": self._names[class_id], "score": round(float(score), 4)}
                for class_id, score in zip(found.class_ids, found.scores, strict=True)
            ],
        }
        return entry | {"model": self._model, "bytes": size, "hash": looks.hex()}

    def _yolo(self, chosen: Chosen) -> bytes:
        """Returns a line of ``class cx cy w h``, relative to the picture, for each detection that becomes a label."""
        height, width = chosen.image.shape[:2]
        return yolo_text(chosen.detections, (width, height), self._label_conf or 0.0).encode()

    def _append(self, entry: dict[str, Any]) -> None:
        """Adds a line to the index, or leaves it as it was."""
        try:
            with self._index.open("ab") as file:
                before = file.tell()
                begun = b"\n" if before and not self._ends_line() else b""
                try:
                    file.write(begun + to_json(entry).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        os.truncate(self._index, before)
                    raise
        except OSError as error:
            raise ConfigError(f"{self._index}: can't be written: {error.strerror or error}") from error

    def _ends_line(self) -> bool:
        with self._index.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def yolo_text(found: Detections, size_wh: tuple[int, int], conf: float) -> str:
    """Returns YOLO's label file of the detections that score at least `conf`, clipped to the picture.

    Args:
        found: boxes in pixels of the picture.
        size_wh: of the picture, in pixels.
        conf: the least score.
    """
    scale = np.tile(np.array(size_wh, np.float64), 2)
    boxes = np.clip(found.boxes_xyxy.astype(np.float64) / scale, 0, 1)
    lines = []
    for class_id, (x1, y1, x2, y2), score in zip(found.class_ids, boxes.tolist(), found.scores, strict=True):
        if score >= conf and x2 > x1 and y2 > y1:
            lines.append(f"{class_id} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    return "".join(lines)
