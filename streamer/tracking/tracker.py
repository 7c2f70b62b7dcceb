"""Gives the objects of one stream ids that stay."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamer.detector.detection_filter import thresholds_by_id
from streamer.detector.filter_options import DEFAULT_CONF, ClassThresholds
from streamer.frames.detections import NO_TRACK, Detections
from streamer.frames.frame import Frame
from streamer.tracking.options import TrackerName, chosen_tracker, continuing, require_trackers

if TYPE_CHECKING:
    from streamer.tracking.library import CameraMotion, TrackerOfClass

log = logging.getLogger(__name__)

_SOONEST_S = 1e-3  # after the frame before, where two have the same time


class Tracker:
    """Follows the objects of one stream from frame to frame; one thread at a time.

    Each class has a tracker of its own, so an id never changes its class. Time is the frames' `pts_s`: frames may be
    dropped or skipped. Ids count from 1 and are never used again, also not after the stream was interrupted.

    Example::

        tracker = Tracker(conf=0.4)
        with open_detector(conf=tracker.lowest_conf) as detector, open_source("rtsp://camera/1") as source:
            for frame, detections in detector.stream(source):
                for one in tracker.update(frame, detections):
                    print(one.label, one.track_id)

    Attributes:
        name: ``bytetrack``, ``ocsort`` or ``botsort``.
        lowest_conf: the lowest score that the detector should report to it.
    """

    def __init__(
        self,
        name: str = "auto",
        *,
        conf: float | ClassThresholds = DEFAULT_CONF,
        classes: Sequence[str] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        """Begins without a track.

        Args:
            name: ``auto``, ``bytetrack``, ``ocsort`` or ``botsort``.
            conf: boxes with a higher score are returned and begin tracks; lower ones only continue them.
            classes: labels to follow; None for all.
            labels: class names by class id, needed where `classes` or a class in `conf` is named.

        Raises:
            ConfigError: if the package `trackers` is missing, or a name is unknown.
        """
        chosen = chosen_tracker(name)
        if chosen is None:
            raise ValueError("wanted a tracker, got 'off'")
        require_trackers()
        self.name: TrackerName = chosen
        self._conf = ClassThresholds.parse(conf)
        self.lowest_conf = continuing(self._conf)
        self._begin_scores: npt.NDArray[np.float32] | None = None
        if labels:
            self.set_begin_scores(thresholds_by_id(self._conf, classes, labels))
        self._next_id = 1
        self._last_pts_s = self._time_s = float("-inf")
        self._by_class: dict[int, TrackerOfClass] = {}
        self._motion: CameraMotion | None = None

    def set_begin_scores(self, scores: npt.NDArray[np.float32]) -> None:
        """Sets the score that each class must exceed, (classes,) float32; above 1 none is. From any thread."""
        self._begin_scores = scores

    def update(self, frame: Frame, detections: Detections) -> Detections:
        """Returns the detections of the next frame that are above `conf`, with `Detections.track_ids`.

        A box has `NO_TRACK` in the first frame of its object.

        Args:
            frame: later than the one before by its `pts_s`; a frame that is earlier ends all tracks.
            detections: all that the detector reports, with scores down to `lowest_conf`.
        """
        if frame.pts_s < self._last_pts_s:
            self._begin_anew()
        self._last_pts_s = frame.pts_s
        self._time_s = max(frame.pts_s, self._time_s + _SOONEST_S)
        begin = self._scores_of(detections.class_ids)
        ids = np.full(len(detections), NO_TRACK, np.int64)
        try:
            self._assign(frame, detections, begin, ids)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError, IndexError, KeyError) as error:
            log.warning("%s: tracks end at %.2f s, as %s fails: %s", frame.source, frame.pts_s, self.name, error)
            self._begin_anew()
            ids[:] = NO_TRACK
        kept = detections.scores > begin
        return replace(detections, track_ids=ids)[kept]

    def _assign(
        self, frame: Frame, detections: Detections, begin: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]
    ) -> None:
        from streamer.tracking.library import CameraMotion, TrackerOfClass, scaled

        if self.name == "botsort":
            self._motion = self._motion or CameraMotion()
            self._motion.observe(frame)
        scores = scaled(detections.scores, begin)
        class_ids = detections.class_ids
        beginning = set(class_ids[detections.scores > begin].tolist())
        for class_id in sorted(self._by_class.keys() | beginning):
            of_class = self._by_class.get(class_id)
            if of_class is None:
                of_class = self._by_class[class_id] = TrackerOfClass(self.name, self._motion, self._take_id)
            rows = np.flatnonzero((class_ids == class_id) & (begin <= 1))
            ids[rows] = of_class.update(detections.boxes_xyxy[rows], scores[rows], self._time_s)
            if of_class.is_idle:
                del self._by_class[class_id]

    def _scores_of(self, class_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if self._begin_scores is None:
            return np.full(len(class_ids), self._conf.default, np.float32)
        return self._begin_scores[class_ids]

    def _take_id(self) -> int:
        taken = self._next_id
        self._next_id += 1
        return taken

    def _begin_anew(self) -> None:
        self._by_class.clear()
        self._motion = None
        self._time_s = float("-inf")
