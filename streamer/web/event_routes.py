"""The state each second and what has just been finished, as Server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from streamer.common.errors import SinkError
from streamer.web.clips import ClipStore
from streamer.web.problems import REFUSALS, Problem, problems
from streamer.web.recordings import RecordingIndex
from streamer.web.state import TICK_S, StateMonitor

log = logging.getLogger(__name__)

MOST_LISTENERS = 64
_MOST_KEPT = 256
_FINISHED_S = 5.0


@dataclass(frozen=True)
class PageEvent:
    """Something that has happened: its kind, such as ``clip``, and the JSON that tells it."""

    number: int
    kind: str
    data: Any


class EventLog:
    """The last events, in order. Any thread may add some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[PageEvent] = deque(maxlen=_MOST_KEPT)
        self._count = 0

    @property
    def count(self) -> int:
        """How many there have been."""
        return self._count

    def add(self, kind: str, data: Any) -> None:
        """Adds an event, whose `data` can be written as JSON."""
        with self._lock:
            self._count += 1
            self._events.append(PageEvent(self._count, kind, data))

    def since(self, number: int) -> Sequence[PageEvent]:
        """Returns the events that followed the one of a number, those that are kept."""
        with self._lock:
            return [event for event in self._events if event.number > number]


class FinishedFiles:
    """Adds an event for each recording and clip that has been finished since the last call of `look`."""

    def __init__(self, recordings: RecordingIndex, clips: ClipStore, events: EventLog) -> None:
        """Knows none yet."""
        self._recordings, self._clips, self._events = recordings, clips, events
        self._open: set[str] = set()
        self._known_clips: set[str] | None = None

    def look(self) -> None:
        """Looks at the disk."""
        files = {file.id: file for file in self._recordings.files()}
        now_open = {each.id for each in files.values() if each.is_open}
        for recording_id in sorted(self._open - now_open):
            if recording_id in files:
                self._events.add("recording", self._recordings.describe(files[recording_id]).model_dump(mode="json"))
        self._open = now_open
        clips = [clip for clip in self._clips.find(limit=_MOST_KEPT) if not clip.is_open]
        for clip in reversed(clips):
            if self._known_clips is not None and clip.id not in self._known_clips:
                self._events.add("clip", clip.model_dump(mode="json"))
        self._known_clips = {clip.id for clip in clips}


def event_router(monitor: StateMonitor, events: EventLog, finished: FinishedFiles) -> APIRouter:
    """Returns the route of events; `finished` is asked for more while anybody listens."""
    router = APIRouter(tags=["state"], responses=REFUSALS)
    listeners: set[object] = set()

    async def watch_disk() -> None:
        while listeners:
            try:
                await asyncio.to_thread(finished.look)
            except SinkError as error:
                log.debug("%s", error)
            await asyncio.sleep(_FINISHED_S)

    async def told(me: object, most: int | None) -> AsyncIterator[bytes]:
        number, sent, shown = events.count, 0, None
        try:
            yield b"retry: 2000\n\n"
            while most is None or sent < most:
                if monitor.state is not shown:
                    shown = monitor.state
                    sent += 1
                    yield _message("state", shown.model_dump_json())
                for event in events.since(number):
                    number = event.number
                    yield _message(event.kind, json.dumps(event.data))
                await asyncio.sleep(TICK_S / 4)
        finally:
            listeners.discard(me)

    @router.get(
        "/api/events",
        summary="The state each second; clips and recordings that are finished",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **problems(503)},
    )
    async def listen(
        request: Request,
        most: Annotated[int | None, Query(ge=1, le=1_000_000, description="ends after so many states")] = None,
    ) -> Response:
        if len(listeners) >= MOST_LISTENERS:
            raise Problem(503, "too many listen already", {"Retry-After": "10"})
        me = object()
        listeners.add(me)
        if not watchers:
            background = asyncio.create_task(watch_disk())
            watchers.add(background)
            background.add_done_callback(watchers.discard)
        return _EventResponse(told(me, most), lambda: listeners.discard(me))

    watchers: set[asyncio.Task[None]] = set()
    return router


class _EventResponse(StreamingResponse):
    """Ends listening also where the client leaves before the first event."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], on_end: Callable[[], None]) -> None:
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        """Sends events until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def _message(kind: str, data: str) -> bytes:
    return f"event: {kind}\ndata: {data}\n\n".encode()
