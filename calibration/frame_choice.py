"""Which frames of a source are worth labelling."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.agreement import box_overlap
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame

_CONSECUTIVE_S = 1.0
"""Most time between the frames before and after one, so that its neighbours show the same scene."""
_SAME_OBJECT = 0.3
"""Least IoU of an object's boxes in consecutive frames: less than for two models on one frame, as it may move."""


class Reason(enum.Enum):
    """Why a frame was chosen."""

    NEAR_THRESHOLD = "near-threshold"
    FLICKER = "flicker"
    RANDOM = "random"
    EVENLY = "evenly"


@dataclass(frozen=True, eq=False)
class Chosen:
    """A frame worth labelling.

    Attributes:
        image: (H, W, 3) uint8 BGR, full size.
        detections: in it, down to the lowest score that the detector gives.
        index: of the frame in its source.
        time_s: of the frame in its source.
        reasons: at least one.
    """

    image: npt.NDArray[np.uint8]
    detections: Detections
    index: int
    time_s: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class ChoiceRule:
    """How frames are chosen.

    Attributes:
        conf: the score from which detections are shown.
        band: how far from `conf` a score counts as uncertain.
        every_s: least time between two chosen frames of a source.
        all_frames: take the first frame of each `every_s`, whatever is in it.
    """

    conf: float
    band: float
    every_s: float
    all_frames: bool = False

    def closeness(self, detections: Detections) -> float:
        """Returns the sum over detections of 1 at `conf`, down to 0 at `band` from it."""
        away = np.abs(detections.scores.astype(np.float64) - self.conf) / self.band
        return float(np.clip(1 - away, 0, 1).sum())

    def flickers(self, before: Detections, now: Detections, after: Detections) -> int:
        """Returns how many objects are shown before and after but not now, or now alone."""
        shown = [self._shown(each) for each in (before, now, after)]
        gap = ~_has_partner(shown[0], shown[1]) & _has_partner(shown[0], shown[2])
        alone = ~_has_partner(shown[1], shown[0]) & ~_has_partner(shown[1], shown[2])
        return int(gap.sum() + alone.sum())

    def _shown(self, detections: Detections) -> Detections:
        return detections.where(detections.scores >= self.conf)


class FrameChooser:
    """Chooses at most one frame of a source in each `every_s`: the one with the most uncertain detections.

    An uncertain detection scores near the threshold, or flickers. Frames come in order, from one thread.
    """

    def __init__(self, rule: ChoiceRule, random: np.random.Generator, random_is_due: Callable[[], bool]) -> None:
        """`random_is_due` is asked at the end of each `every_s` whether a random frame of it is to be taken instead."""
        self._rule, self._random, self._random_is_due = rule, random, random_is_due
        self._before: tuple[float, Detections] | None = None
        self._pending: tuple[Frame, Detections] | None = None
        self._begin_s: float | None = None
        self._best: Chosen | None = None
        self._best_interest = 0.0
        self._any: Chosen | None = None
        self._count = 0

    def add(self, frame: Frame, detections: Detections) -> Chosen | None:
        """Takes the next frame; returns a chosen one if its time is over."""
        chosen = None
        if self._pending is not None:
            chosen = self._consider(*self._pending, self._flickers(frame.pts_s, detections))
            self._before = (self._pending[0].pts_s, self._pending[1])
        self._pending = (frame, detections)
        return chosen

    def finish(self) -> list[Chosen]:
        """Returns what is left when the source has ended."""
        left = []
        if self._pending is not None:
            left.append(self._consider(*self._pending, 0))
            self._pending = None
        if self._begin_s is not None:
            left.append(self._end(self._begin_s))
        return [each for each in left if each is not None]

    def _flickers(self, after_s: float, after: Detections) -> int:
        if self._before is None or self._pending is None or after_s - self._before[0] > _CONSECUTIVE_S:
            return 0
        return self._rule.flickers(self._before[1], self._pending[1], after)

    def _consider(self, frame: Frame, detections: Detections, flickers: int) -> Chosen | None:
        ended = None
        if self._begin_s is None:
            self._begin_s = frame.pts_s
        if frame.pts_s >= self._begin_s + self._rule.every_s:
            ended = self._end(frame.pts_s)
        if frame.pts_s < self._begin_s:  # less than `every_s` behind the chosen one
            return ended
        if self._rule.all_frames:
            if self._best is None:
                self._best = _copied(frame, detections, (Reason.EVENLY,))
            return ended
        closeness = self._rule.closeness(detections)
        if closeness + flickers > self._best_interest:
            self._best_interest = closeness + flickers
            reasons = [(Reason.NEAR_THRESHOLD, closeness > 0), (Reason.FLICKER, flickers > 0)]
            self._best = _copied(frame, detections, tuple(reason for reason, holds in reasons if holds))
        self._count += 1
        if self._random.random() * self._count < 1:
            self._any = _copied(frame, detections, (Reason.RANDOM,))
        return ended

    def _end(self, now_s: float) -> Chosen | None:
        """Returns the choice of the time that has ended, and begins the next at `now_s` or later."""
        chosen = self._any if self._any is not None and self._random_is_due() else self._best
        self._best, self._best_interest, self._any, self._count = None, 0.0, None, 0
        self._begin_s = now_s if chosen is None else max(now_s, chosen.time_s + self._rule.every_s)
        return chosen


def _copied(frame: Frame, detections: Detections, reasons: tuple[Reason, ...]) -> Chosen:
    """Copies the picture, so that the decoder's buffer isn't held."""
    return Chosen(frame.image.copy(), detections, frame.index, frame.pts_s, reasons)


def _has_partner(detections: Detections, others: Detections) -> npt.NDArray[np.bool_]:
    """Returns (N,): which detections overlap one of the same class among `others`."""
    if not len(detections) or not len(others):
        return np.zeros(len(detections), bool)
    boxes = detections.boxes_xyxy.astype(np.float64)[:, None], others.boxes_xyxy.astype(np.float64)[None]
    is_same = detections.class_ids[:, None] == others.class_ids[None]
    partner: npt.NDArray[np.bool_] = ((box_overlap(*boxes) >= _SAME_OBJECT) & is_same).any(axis=1)
    return partner
