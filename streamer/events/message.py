"""What is told about a source, as values and as JSON."""

from __future__ import annotations

import json
import secrets
import threading
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

MESSAGE_VERSION: Final = 1
"""Of the JSON; a version that removes, renames or redefines a key increases it."""

_last_ms = 0
_lock = threading.Lock()


def time_ordered_id() -> str:
    """Returns a UUIDv7 (RFC 9562); its time doesn't go back in a process, also where the clock does."""
    global _last_ms
    with _lock:
        _last_ms = max(_last_ms, time.time_ns() // 1_000_000)
        at_ms = _last_ms
    value = (at_ms << 80) | (0x7 << 76) | (secrets.randbits(12) << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=value))


class Phase(Enum):
    """Where an event is in its life."""

    START = "start"
    UPDATE = "update"
    END = "end"


@dataclass(frozen=True)
class Event:
    """An event as it is at one moment.

    Attributes:
        event_id: the same from `Phase.START` to `Phase.END`.
        phase: which of them this is.
        source: the source's name.
        label: class of what is there.
        score: the highest so far, 0 to 1.
        box_xyxy: the best object of that label in the frame, pixels of the frame; None where the frame has none.
        begin_utc: of the first frame with it, ISO 8601 with milliseconds.
        end_utc: of the last frame with it so far.
    """

    event_id: str
    phase: Phase
    source: str
    label: str
    score: float
    box_xyxy: tuple[float, float, float, float] | None
    begin_utc: str
    end_utc: str

    def message(self) -> Message:
        """Returns the event as a message, with an id of its own."""
        box = None if self.box_xyxy is None else [round(value, 2) for value in self.box_xyxy]
        content: dict[str, Any] = {
            "version": MESSAGE_VERSION,
            "message_id": time_ordered_id(),
            "event_id": self.event_id,
            "phase": self.phase.value,
            "source": self.source,
            "label": self.label,
            "score": round(self.score, 4),
            "box_xyxy": box,
            "begin_utc": self.begin_utc,
            "end_utc": self.end_utc,
        }
        return Message(self.source, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


@dataclass(frozen=True)
class Message:
    """What is queued.

    Attributes:
        source: the source's name; order is kept within it.
        body: JSON; its ``message_id`` tells repeated ones apart.
        is_telemetry: whether it may be dropped before any event.
    """

    source: str
    body: str
    is_telemetry: bool = False


@dataclass(frozen=True)
class QueuedMessage:
    """A message on the disk; `sequence` grows with each."""

    sequence: int
    message: Message
