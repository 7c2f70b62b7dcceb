"""What the HTTP interface of a run consists of, made for one page."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from streamer.common.closeable import Closeable
from streamer.web.api_routes import settings_router, state_router, stream_router
from streamer.web.clip_routes import clip_router
from streamer.web.clips import ClipStore
from streamer.web.control import RunControl
from streamer.web.event_routes import EventLog, FinishedFiles, event_router
from streamer.web.hub import Hub
from streamer.web.recording_routes import recording_router
from streamer.web.recordings import RecordingIndex
from streamer.web.state import StateMonitor


class RunApi(Closeable):
    """Measures the run for as long as it is open, and makes the routes.

    Attributes:
        monitor: the streams' state.
        recordings, clips: what is on disk.
        events: what clients of /api/events are told beside the state; any thread may add some.
    """

    def __init__(self, control: RunControl, hub: Hub, *, has_token: bool = False) -> None:
        """Begins to measure; `hub` is what the page knows of its streams, `has_token` whether it asks for one."""
        self._control = control
        self.monitor = StateMonitor(control, hub, has_token=has_token)
        self.recordings = RecordingIndex(control.recordings)
        self.clips = ClipStore(control.clip_folders)
        self.events = EventLog()

    def routers(self) -> Sequence[APIRouter]:
        """Returns all routes."""
        return (
            state_router(self._control, self.monitor),
            event_router(self.monitor, self.events, FinishedFiles(self.recordings, self.clips, self.events)),
            stream_router(self._control, self.monitor),
            settings_router(self._control),
            recording_router(self.recordings),
            clip_router(self.clips),
        )

    def close(self) -> None:
        """Ends measuring."""
        self.monitor.close()
        self.clips.close()
