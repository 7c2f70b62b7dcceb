"""Index and time of a source's frames across connections that each count anew."""

from __future__ import annotations

from dataclasses import replace

from streamer.frames.frame import Frame


class ContinuousTimeline:
    """Lets `index` and `pts_s` go on across the connections to one source, `pts_s` by the time between them."""

    def __init__(self) -> None:
        """Takes a source that hasn't given a frame yet."""
        self._base_index, self._base_pts_s = 0, 0.0
        self._next_index, self._last_pts_s = 0, 0.0
        self._first_seen_s: float | None = None

    @property
    def is_started(self) -> bool:
        """Whether `begin` was called."""
        return self._first_seen_s is not None

    def begin(self, first: Frame) -> None:
        """Lays the axes through a connection's first frame, by when it was captured."""
        if self._first_seen_s is None:
            self._first_seen_s = first.captured_at_s
            return
        elapsed_s = first.captured_at_s - self._first_seen_s
        self._base_index = self._next_index - first.index
        self._base_pts_s = max(elapsed_s, self._last_pts_s) - first.pts_s

    def place(self, frame: Frame) -> Frame:
        """Returns a frame of the connection that began last with its index and time over all of them."""
        index, pts_s = self._base_index + frame.index, self._base_pts_s + frame.pts_s
        self._next_index, self._last_pts_s = index + 1, pts_s
        if index == frame.index and pts_s == frame.pts_s:
            return frame
        return replace(frame, index=index, pts_s=pts_s)
