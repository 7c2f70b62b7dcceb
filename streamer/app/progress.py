"""The progress bar of a run in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from streamer.common.closeable import Closeable
from streamer.common.errors import one_line

if TYPE_CHECKING:
    from streamer.runtime.pipeline import Pipeline

_REFRESH_S = 0.2


class Progress(Closeable):
    """Shows processed frames, rate and, if all sources have a known length, the time left; on standard error."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: tqdm[Any] | None = None
        self._shown_s = 0.0

    def show(self, pipeline: Pipeline, max_frames: int | None) -> None:
        """Updates the bar, at most five times a second."""
        now = time.perf_counter()
        if not self._enabled or now - self._shown_s < _REFRESH_S:
            return
        self._shown_s = now
        if self._bar is None:
            self._bar = tqdm(total=_total(pipeline, max_frames), unit=" frames", dynamic_ncols=True, leave=False)
        lost = ((stream.source.info.name, stream.source.lost_s) for stream in pipeline.streams)
        self._bar.set_postfix_str(
            ", ".join(f"{one_line(n)} lost for {s:.0f} s" for n, s in lost if s is not None), refresh=False
        )
        self._bar.update(pipeline.processed - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _total(pipeline: Pipeline, max_frames: int | None) -> int | None:
    total = 0
    for stream in pipeline.streams:
        counts = [count for count in (stream.source.info.frame_count, max_frames) if count is not None]
        if not counts:
            return None
        total += min(counts)
    return total
