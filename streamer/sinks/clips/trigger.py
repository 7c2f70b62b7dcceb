"""When an event begins, goes on and ends: pure objects, whose time is the frames' own."""

from __future__ import annotations

import abc
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from streamer.common.errors import ConfigError, nearest
from streamer.frames.detections import Detections
from streamer.sinks.segmented import Boundaries, Boundary

_RELEASE = 0.1  # by how much the score may fall before an object counts as gone
_TOLERATED = 1  # frames in a row in which an object that is to begin an event may be missed


class ChangeKind(enum.Enum):
    """What happens to an event in a frame."""

    BEGIN = enum.auto()
    UPDATE = enum.auto()
    """It is still there."""

    END = enum.auto()


@dataclass(frozen=True)
class Event:
    """Something that is there for a while.

    Attributes:
        number: of the event, counted from 0 by its trigger.
        label: class of what is there.
        begin_s: time of the first frame with it, as `Frame.pts_s`.
        last_s: of the last frame with it so far.
        score: the highest so far, 0 to 1.
    """

    number: int
    label: str
    begin_s: float
    last_s: float
    score: float


@dataclass(frozen=True)
class EventChange:
    """What a frame changes: of which event, as it is then."""

    kind: ChangeKind
    event: Event


class Trigger(abc.ABC):
    """Decides on events frame by frame. It has no clock: what it is given decides alone."""

    @abc.abstractmethod
    def update(self, pts_s: float, detections: Detections) -> Sequence[EventChange]:
        """Returns what the next frame changes; of each event that begins, a BEGIN comes first, and END is the last."""

    @abc.abstractmethod
    def finish(self) -> Sequence[EventChange]:
        """Ends all events, as no more frames come."""

    @abc.abstractmethod
    def relevant(self, detections: Detections) -> Detections:
        """Returns the objects that can be part of an event."""

    @property
    @abc.abstractmethod
    def unreported_s(self) -> float:
        """The earliest time at which an event may begin that hasn't been reported; infinite where there is none."""


@dataclass
class _Watch:
    """One label: frames with it in a row, and the event that they have made."""

    hits: int = 0
    misses: int = 0
    begin_s: float = 0.0
    last_s: float = 0.0
    score: float = 0.0
    event: Event | None = None


@dataclass
class LabelTrigger(Trigger):
    """An event for each label, while objects of it are there.

    It begins once the label has its score in `frames` frames, single frames without it left out of account, and counts
    from the first of them. It goes on while the score is at most 0.1 lower, and ends with the last such frame once the
    label is missed in `frames` frames in a row, at least two, or no frame came for long. Frames that the detector
    skipped change nothing.

    Attributes:
        labels: class names by class id.
        scores: lowest score of each label that begins an event; None for any label that is detected.
        frames: how many frames with it begin an event.
    """

    labels: Sequence[str]
    scores: Mapping[str, float] | None = None
    frames: int = 3
    _watched: dict[str, _Watch] = field(default_factory=dict, init=False, repr=False)
    _begun: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"wanted a number of frames from 1 on, got {self.frames}")
        wanted = [(self.scores or {}).get(label, 0.0 if self.scores is None else math.inf) for label in self.labels]
        self._begin_at = np.array(wanted, np.float32)
        self._stay_at = self._begin_at - np.float32(_RELEASE)
        self._boundaries = Boundaries(math.inf, None)

    def update(self, pts_s: float, detections: Detections) -> Sequence[EventChange]:
        is_outage = self._boundaries.before(pts_s) is Boundary.OUTAGE
        changes = [*self.finish()] if is_outage else []
        if detections.is_reused:
            return changes
        present = self._best_scores(detections)
        for label in [*self._watched, *(label for label in present if label not in self._watched)]:
            changes += self._watch(label, pts_s, present.get(label))
        return changes

    def finish(self) -> Sequence[EventChange]:
        watched, self._watched = self._watched, {}
        return [EventChange(ChangeKind.END, each.event) for each in watched.values() if each.event is not None]

    def relevant(self, detections: Detections) -> Detections:
        return detections[detections.scores >= self._stay_at[detections.class_ids]]

    @property
    def unreported_s(self) -> float:
        return min((each.begin_s for each in self._watched.values() if each.event is None), default=math.inf)

    def _best_scores(self, detections: Detections) -> dict[str, tuple[float, bool]]:
        """Returns each label's best score that lets an event go on, and whether it lets one begin."""
        best: dict[str, tuple[float, bool]] = {}
        for class_id, score in zip(detections.class_ids.tolist(), detections.scores, strict=True):
            label = self.labels[class_id]
            if score >= self._stay_at[class_id] and float(score) >= best.get(label, (-1.0, False))[0]:
                best[label] = float(score), bool(score >= self._begin_at[class_id])
        return best

    def _watch(self, label: str, pts_s: float, found: tuple[float, bool] | None) -> list[EventChange]:
        watch = self._watched.get(label)
        if watch is None:
            if found is None or not found[1]:
                return []
            watch = self._watched[label] = _Watch(begin_s=pts_s)
        is_there = found is not None and (found[1] or watch.event is not None)
        if found is None or not is_there:
            watch.misses += 1
            return self._missed(label, watch)
        watch.hits, watch.misses, watch.last_s = watch.hits + 1, 0, pts_s
        watch.score = max(watch.score, found[0])
        if watch.event is not None:
            watch.event = replace(watch.event, last_s=pts_s, score=watch.score)
            return [EventChange(ChangeKind.UPDATE, watch.event)]
        if watch.hits < self.frames:
            return []
        watch.event = Event(self._begun, label, watch.begin_s, pts_s, watch.score)
        self._begun += 1
        return [EventChange(ChangeKind.BEGIN, watch.event)]

    def _missed(self, label: str, watch: _Watch) -> list[EventChange]:
        if watch.event is None:
            if watch.misses > _TOLERATED:
                del self._watched[label]
            return []
        if watch.misses < max(self.frames, _TOLERATED + 1):
            return []
        del self._watched[label]
        return [EventChange(ChangeKind.END, watch.event)]


def checked_labels(wanted: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Returns scores by the labels' own spelling; a label may be written in any case, or as its number.

    Raises:
        ConfigError: if there is no such label; the nearest is named.
    """
    folded = {label.casefold(): label for label in labels} | {str(number): label for number, label in enumerate(labels)}
    found = {}
    for name, score in wanted.items():
        label = name if name in labels else folded.get(name.casefold())
        if label is None:
            raise ConfigError(f"clip_on: there is no class {name!r}{nearest(name, labels)}")
        found[label] = score
    return found
