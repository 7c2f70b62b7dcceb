"""From when to when a clip goes: before, during and after events; those whose clips would overlap share one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from streamer.sinks.clips.trigger import ChangeKind, EventChange


@dataclass
class ClipSpan:
    """What one clip is to show.

    Attributes:
        begin_s: its beginning, as `Frame.pts_s`.
        end_s: its end as far as is known: packets up to there belong to it for certain.
        labels: of its events, in the order in which they begin.
    """

    begin_s: float
    end_s: float
    labels: list[str] = field(default_factory=list)


class ClipSpans:
    """Makes spans of the changes of events; one is open at a time. It has no clock.

    A span lasts until no event goes on and none can begin any more whose clip would touch it. So two clips never show
    the same pictures.

    Attributes:
        open: the span that goes on, if any.
    """

    def __init__(self, before_s: float, after_s: float) -> None:
        """Takes how long before an event's first frame a clip begins, and how long after its last one it ends."""
        self._before_s, self._after_s = before_s, after_s
        self._events: set[int] = set()
        self.open: ClipSpan | None = None

    def update(self, changes: Sequence[EventChange], earliest_s: float) -> list[ClipSpan]:
        """Takes the changes of a frame and returns spans that have ended, the oldest first.

        Args:
            changes: of events.
            earliest_s: no event that begins later will begin before this time; infinite at the end.
        """
        ended = []
        for change in changes:
            event = change.event
            if change.kind is ChangeKind.BEGIN:
                if self.open is not None and not self._events and event.begin_s - self._before_s > self.open.end_s:
                    ended.append(self.open)
                    self.open = None
                if self.open is None:
                    self.open = ClipSpan(event.begin_s - self._before_s, -math.inf)
                self._events.add(event.number)
                if event.label not in self.open.labels:
                    self.open.labels.append(event.label)
            if change.kind is ChangeKind.END:
                self._events.discard(event.number)
            if self.open is not None:
                self.open.end_s = max(self.open.end_s, event.last_s + self._after_s)
        if self.open is not None and not self._events and earliest_s - self._before_s > self.open.end_s:
            ended.append(self.open)
            self.open = None
        return ended
