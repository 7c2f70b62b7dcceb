"""Writes results and pictures as TensorBoard events.

tensorboardX (MIT, needs protobuf only) writes them where it is installed. Its `EventsWriter` is used, which writes on
the calling thread: `SummaryWriter` has a thread of its own, and blocks forever once that has ended on a full disk.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import cv2

from calibration.run_folder.folder import reason_and_remedy
from calibration.run_folder.results_table import EpochResult
from streamer.common.closeable import Closeable

log = logging.getLogger(__name__)

_GROUPS = {
    "val": ("AP", "AP50", "AP75", "int8_AP", "int8_AP50"),
    "speed": ("images_per_s", "data_wait_share", "gpu_memory_mb"),
}
_TAGS = {name: f"{group}/{name}" for group, names in _GROUPS.items() for name in names}


class EventWriter(Closeable):
    """Writes one run's events; does nothing where tensorboardX isn't installed or the disk is full, which is logged."""

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        """Starts a new file of events.

        Args:
            folder: of the event files; made where it is missing.
            first_step: of a resumed run, the step that it continues from: TensorBoard then hides later events of the
                files before.
        """
        self._folder = folder
        self._events: Any = None
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError:
            log.info("no TensorBoard events are written: pip install tensorboardX")
            return
        self._event, self._session, self._summary = event_pb2.Event, event_pb2.SessionLog, summary_pb2.Summary
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(folder / "events"))
        except OSError as error:
            self._give_up(error)
            return
        if first_step:
            self._write(first_step, session_log=self._session(status=self._session.START))

    def add_result(self, result: EpochResult) -> None:
        """Writes the measured figures of one epoch, by optimiser step."""
        if not self._events:
            return
        values = [
            self._summary.Value(tag=_TAGS.get(name, f"train/{name}"), simple_value=value)
            for name, value in result.figures().items()
        ]
        self._write(result.step, summary=self._summary(value=values))

    def add_picture(self, tag: str, path: Path, step: int) -> None:
        """Writes a PNG or JPEG file; a file that can't be read is passed over with a warning.

        Args:
            tag: the picture's name, such as ``curves/PR``.
            path: the file.
            step: optimiser steps done.
        """
        if not self._events:
            return
        pixels = cv2.imread(str(path)) if path.is_file() else None
        if pixels is None:
            log.warning("%s: can't read the picture; it isn't written to TensorBoard's events", path)
            return
        height, width = pixels.shape[:2]
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        self._write(step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def close(self) -> None:
        """Closes the file."""
        if self._events:
            try:
                self._events.close()
            except OSError as error:
                self._give_up(error)
            self._events = None

    def _write(self, step: int, **content: Any) -> None:
        try:
            self._events.write_event(self._event(wall_time=time.time(), step=step, **content))
            self._events.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._events = None
        log.warning("%s: TensorBoard events can't be written: %s", self._folder, reason_and_remedy(error))
