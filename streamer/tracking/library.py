"""The trackers of the package `trackers`, each set so that `HIGH` is the lowest score to report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from streamer.frames.detections import NO_TRACK
from streamer.frames.frame import Frame
from streamer.tracking.options import LOST_S, TrackerName

HIGH: Final = 0.6
"""The score, on the trackers' own scale, that begins a track; see `scaled`."""
_RATE: Final = (
    30.0  # of their filters' unit of time, frames a second: with time stamps it is no assumption about the source
)
_LOST_FRAMES: Final = round(LOST_S * 30)  # counted at 30 fps, whatever their frame rate is
_MOTION_WIDTH: Final = 480


def make_tracker(name: TrackerName) -> Any:
    """Returns a `trackers.core.base.BaseTracker` of one class in one stream, whose ids begin at 0.

    A track has its id with its second box: that is the soonest that all of them can. One box alone may be a mistake.
    """
    from trackers import BoTSORTTracker, ByteTrackTracker, OCSORTTracker

    common: dict[str, Any] = {
        "lost_track_buffer": _LOST_FRAMES,
        "frame_rate": _RATE,
        "minimum_consecutive_frames": 1,
        "high_conf_det_threshold": HIGH,
    }
    if name == "bytetrack":
        return ByteTrackTracker(**common, track_activation_threshold=HIGH)
    if name == "ocsort":
        return OCSORTTracker(**common)
    return BoTSORTTracker(**common, track_activation_threshold=HIGH, instant_first_frame_activation=False)


def scaled(scores: npt.NDArray[np.float32], begin: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns scores, (N,) float32, on the trackers' scale: `begin`, (N,), what each must exceed, becomes `HIGH`.

    The trackers know one threshold for all classes, and begin no track below it: a box that is shown would never get
    an id. The order of the scores of one class stays.
    """
    above = HIGH + (1 - HIGH) * (scores - begin) / np.maximum(1 - begin, 1e-6)
    below = HIGH * scores / np.maximum(begin, 1e-6)
    return np.where(scores >= begin, np.clip(above, HIGH, 1), np.minimum(below, HIGH - 1e-3)).astype(np.float32)


class TrackerOfClass:
    """Tracks the objects of one class in one stream."""

    def __init__(self, name: TrackerName, motion: CameraMotion | None, take_id: Callable[[], int]) -> None:
        """Begins without a track; `take_id` returns an id that the stream hasn't used."""
        self._tracker = make_tracker(name)
        if motion is not None:
            self._tracker.cmc = motion
        self._motion, self._take_id = motion, take_id
        self._ids: dict[int, int] = {}  # of the stream, by the tracker's own

    @property
    def is_idle(self) -> bool:
        """Whether it follows nothing."""
        return not self._tracker.tracks

    def update(
        self, boxes_xyxy: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], time_s: float
    ) -> npt.NDArray[np.int64]:
        """Returns the id of each box, (N,) int64, `NO_TRACK` where it has none.

        Args:
            boxes_xyxy: (N, 4) float32 in pixels of the frame.
            scores: (N,) float32 as `scaled` returns them.
            time_s: of the frame, later than the one before.
        """
        import supervision

        rows = np.arange(len(scores))
        # `class_id` is the number of the box, as they come out in another order; the trackers don't look at it.
        boxes = supervision.Detections(boxes_xyxy.astype(np.float64), confidence=scores, class_id=rows)
        picture = None if self._motion is None else _ANY_PICTURE
        tracked = self._tracker.update(boxes, picture, timestamp=time_s)
        found = np.full(len(scores), NO_TRACK, np.int64)
        if len(tracked):  # in another order, and some are missing
            for row, own in zip(tracked.class_id.tolist(), tracked.tracker_id.tolist(), strict=True):
                if own >= 0:
                    if own not in self._ids:
                        self._ids[own] = self._take_id()
                    found[row] = self._ids[own]
        alive = {track.tracker_id for track in self._tracker.tracks}
        self._ids = {own: taken for own, taken in self._ids.items() if own in alive}
        return found


_ANY_PICTURE: Final = np.zeros((1, 1, 3), np.uint8)  # `CameraMotion` has seen the frame


class CameraMotion:
    """How the picture moved from one frame to the next, estimated once for the trackers of all classes."""

    def __init__(self) -> None:
        """Begins without a picture."""
        from trackers import CMC, CMCConfig

        self._estimator = CMC(CMCConfig(method="sparseOptFlow", downscale=1))
        self._motion = np.eye(2, 3)

    def observe(self, frame: Frame) -> None:
        """Takes the next frame; its brightness is copied from the GPU where it is there."""
        pixels = frame.host_pixels
        luma = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY) if isinstance(pixels, np.ndarray) else pixels.y
        width, height = frame.size_wh
        scale = max(1.0, width / _MOTION_WIDTH)
        size_wh = max(1, round(width / scale)), max(1, round(height / scale))
        small = cv2.resize(luma, size_wh, interpolation=cv2.INTER_AREA)
        motion = np.array(self._estimator.estimate(cv2.merge([small, small, small])), np.float64)
        motion[:, 2] *= scale
        self._motion = motion

    def estimate(self, frame: npt.NDArray[np.uint8], boxes: object = None) -> npt.NDArray[np.float64]:
        """Returns the motion, (2, 3) in pixels of the frame: what a tracker asks of its own `cmc`."""
        return self._motion

    def reset(self) -> None:
        """Does nothing: it belongs to the stream, not to one tracker."""
