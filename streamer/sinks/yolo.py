"""Detections as YOLO labels: a text file a frame, in a folder that training tools read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.files import reason
from streamer.sinks.folder import FolderSink
from streamer.sinks.frame_files import FrameNames, write_file
from streamer.sinks.paths import OutputPaths

log = logging.getLogger(__name__)


class YoloSink(FolderSink):
    """Writes ``labels/NAME.txt`` for each frame and one ``data.yaml`` that names the classes.

    A line of a label file is ``class_id x y width height``, the box's centre and size as fractions of the picture; the
    score may follow, which tools that show predictions read, and ultralytics refuses to train on. A frame without
    detections has an empty file. Frames that the detector skipped have none. Files are written atomically.

    `FrameNames` names the files. The pictures belong into ``images/`` beside ``labels/``, under the same names.
    """

    needs_pixels = False

    def __init__(
        self, folder: Path, labels: Sequence[str], *, scores: bool = False, paths: OutputPaths | None = None
    ) -> None:
        """Makes the folder if there is none, and its ``data.yaml``.

        Raises:
            ConfigError: if another run is writing there.
            SinkError: if the folder can't be made or written into.
        """
        super().__init__(folder, paths)
        self._labels_folder = self._folder / "labels"
        self._scores = scores
        self._names = FrameNames()
        try:
            self._make(labels)
        except BaseException:
            self._claim.close()
            raise

    def _make(self, labels: Sequence[str]) -> None:
        try:
            self._labels_folder.mkdir(exist_ok=True)
            has_old = any(self._labels_folder.iterdir())
        except OSError as error:
            raise SinkError(f"can't write into {self._folder}: {reason(error)}; choose another output") from error
        if has_old:
            log.warning("%s has labels already: those of other frames stay", self._labels_folder)
        about = {"train": "images", "names": dict(enumerate(labels))}
        write_file(self._folder / "data.yaml", yaml.safe_dump(about, allow_unicode=True, sort_keys=False).encode())

    def write(self, frame: Frame, detections: Detections) -> None:
        if detections.is_reused:
            return
        width, height = frame.size_wh
        boxes = np.clip(detections.boxes_xyxy / np.array([width, height, width, height], np.float64), 0, 1)
        if not (np.isfinite(boxes).all() and np.isfinite(detections.scores).all()):
            raise SinkError(f"frame {frame.index} of {frame.source} has a number that is NaN or Inf")
        centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        lines = []
        for class_id, score, box in zip(detections.class_ids, detections.scores, centred, strict=True):
            numbers = " ".join(f"{value:.6f}" for value in box)
            lines.append(f"{class_id} {numbers} {score:.4f}\n" if self._scores else f"{class_id} {numbers}\n")
        write_file(self._labels_folder / f"{self._names.name(frame)}.txt", "".join(lines).encode())
        self._has_written = True
