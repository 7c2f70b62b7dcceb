"""Index and time of a source's frames across several connections."""

from __future__ import annotations

from dataclasses import replace

from streamer.frames.frame import Frame


class ContinuousTimeline:
    """Continues `index` and `pts_s` across the connections to one source; an outage is part of `pts_s`."""

    def __init__(self) -> None:
        self._base_index, self._base_pts_s = 0, 0.0
        self._next_index, self._last_pts_s = 0, 0.0
        self._first_captured_s: float | None = None

    @property
    def is_started(self) -> bool:
        """Whether `rebase` was called."""
        return self._first_captured_s is not None

    @property
    def base_pts_s(self) -> float:
        """Where time 0 of the current connection is."""
        return self._base_pts_s

    @property
    def next_index(self) -> int:
        """One more than the last frame's index."""
        return self._next_index

    def rebase(self, first: Frame) -> None:
        """Aligns a new connection by the time at which its first frame was captured."""
        if self._first_captured_s is None:
            self._first_captured_s = first.captured_at_s
            return
        elapsed_s = first.captured_at_s - self._first_captured_s
        self._base_index = self._next_index - first.index
        self._base_pts_s = max(elapsed_s, self._last_pts_s) - first.pts_s

    def restart(self, first: Frame) -> None:
        """Starts over with a frame of the current connection, as index 0 at 0 s."""
        self._first_captured_s = first.captured_at_s
        self._base_index, self._base_pts_s = -first.index, -first.pts_s
        self._next_index, self._last_pts_s = 0, 0.0

    def apply(self, frame: Frame) -> Frame:
        """Returns a frame of the current connection with its continuous index and time."""
        index, pts_s = self._base_index + frame.index, self._base_pts_s + frame.pts_s
        self._next_index, self._last_pts_s = index + 1, pts_s
        if index == frame.index and pts_s == frame.pts_s:
            return frame
        return replace(frame, index=index, pts_s=pts_s)
