"""Events of one source, from its detections."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from streamer.events.message import Event, Phase, time_ordered_id
from streamer.events.queue import MessageQueue
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sinks.clips.trigger import ChangeKind, EventChange, Trigger
from streamer.sinks.files import captured_utc, utc_text
from streamer.sources.base import SourceInfo

_PHASES = {ChangeKind.BEGIN: Phase.START, ChangeKind.UPDATE: Phase.UPDATE, ChangeKind.END: Phase.END}


class EventSink(Sink):
    """Queues ``start``, ``update`` and ``end`` of what a trigger reports; never waits for the disk or a receiver."""

    needs_pixels = False

    def __init__(
        self, queue: MessageQueue, source: SourceInfo, labels: Sequence[str], trigger: Trigger, update_s: float = 5.0
    ) -> None:
        """Takes a trigger of its own; an event is updated every `update_s` seconds at most."""
        self._queue, self._source, self._labels = queue, source, tuple(labels)
        self._trigger, self._update_s = trigger, update_s
        self._ids: dict[int, str] = {}
        self._told_s: dict[int, float] = {}
        self._begun: dict[int, datetime] = {}
        self._last: tuple[Frame, Detections] | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        self._last = frame, detections
        for change in self._trigger.update(frame.pts_s, detections):
            self._tell(change, frame, detections)

    def close(self) -> None:
        """Ends the events that go on. Safe to call twice."""
        if self._last is not None:
            for change in self._trigger.finish():
                self._tell(change, *self._last)

    def _tell(self, change: EventChange, frame: Frame, detections: Detections) -> None:
        event = change.event
        if change.kind is ChangeKind.UPDATE and frame.pts_s - self._told_s.get(event.number, 0.0) < self._update_s:
            return
        self._told_s[event.number] = frame.pts_s
        event_id = self._ids.setdefault(event.number, time_ordered_id())
        begin = self._begun.get(event.number)
        if begin is None:
            begin = captured_utc(frame) - timedelta(seconds=frame.pts_s - event.begin_s)
            self._begun[event.number] = begin
        end = begin + timedelta(seconds=event.last_s - event.begin_s)
        if change.kind is ChangeKind.END:
            del self._ids[event.number], self._told_s[event.number], self._begun[event.number]
        box = self._box(event.label, detections)
        phase = _PHASES[change.kind]
        told = Event(event_id, phase, self._source.name, event.label, event.score, box, utc_text(begin), utc_text(end))
        self._queue.put(told.message())

    def _box(self, label: str, detections: Detections) -> tuple[float, float, float, float] | None:
        """Returns the best object's box; detections come best score first."""
        for class_id, box in zip(detections.class_ids.tolist(), detections.boxes_xyxy.tolist(), strict=True):
            if self._labels[class_id] == label:
                return box[0], box[1], box[2], box[3]
        return None
