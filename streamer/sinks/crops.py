"""What is in each box as a picture of its own, in a folder for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.scaling import resized
from streamer.sinks.files import reason, safe_name
from streamer.sinks.folder import FolderSink
from streamer.sinks.frame_files import class_folders, encode_picture, write_file
from streamer.sinks.paths import OutputPaths


class CropsSink(FolderSink):
    """Writes ``CLASS/NAME_000123_1.jpg``: the frame's index, and 1 for its best detection; nothing is drawn on them.

    NAME is the picture's name, else the source's. Frames that the detector skipped give none, as their boxes are an
    earlier frame's. Pictures with non-square pixels are scaled to their true shape. Files are written atomically.
    """

    needs_pixels = False

    def __init__(self, folder: Path, labels: Sequence[str], *, paths: OutputPaths | None = None) -> None:
        """Makes the folder if there is none; those of classes are made when they are needed.

        Raises:
            ConfigError: if another run is writing there.
            SinkError: if the folder can't be made or written into.
        """
        super().__init__(folder, paths)
        self._class_folders = class_folders(tuple(labels))

    def write(self, frame: Frame, detections: Detections) -> None:
        if detections.is_reused or not len(detections):
            return
        if not np.isfinite(detections.boxes_xyxy).all():
            raise SinkError(f"frame {frame.index} of {frame.source} has a number that is NaN or Inf")
        image = resized(frame, frame.shown_wh)
        height, width = image.shape[:2]
        scale = np.divide(frame.shown_wh, frame.size_wh)
        name = safe_name(frame.source if frame.name is None else Path(frame.name).stem)
        rows = zip(detections.class_ids.tolist(), (detections.boxes_xyxy * np.tile(scale, 2)).tolist(), strict=True)
        for number, (class_id, (left, top, right, bottom)) in enumerate(rows, start=1):
            x1, y1 = max(0, math.floor(left)), max(0, math.floor(top))
            crop = image[y1 : min(height, math.ceil(bottom)), x1 : min(width, math.ceil(right))]
            if not crop.size:
                continue
            folder = self._folder / self._class_folders[class_id]
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise SinkError(
                    f"can't make the folder {folder}: {reason(error)}; the pictures before are complete"
                ) from error
            path = folder / f"{name}_{frame.index:06d}_{number}.jpg"
            write_file(path, encode_picture(np.ascontiguousarray(crop), path), what="pictures")
            self._has_written = True
