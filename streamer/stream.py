"""One source's way through the pipeline: its threads' state, hand-overs, counts and outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from streamer.detections import Detections
from streamer.draw import Annotator
from streamer.frame import Frame
from streamer.policy import Closed, Handover, Policy
from streamer.sinks.base import Sink
from streamer.sources.base import Source
from streamer.stats import StageTimes, StreamStats

_T = TypeVar("_T")
_OVERLAY_REFRESH_S = 0.25


@dataclass(eq=False)
class Delivery:
    """One frame with its detections on its way to all sinks of a stream."""

    frame: Frame
    drawn: Frame
    detections: Detections
    waiting: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arrived(self) -> bool:
        """Says that one more sink has it; returns True for the last of them."""
        with self._lock:
            self.waiting -= 1
            return self.waiting == 0


@dataclass(eq=False)
class Outlet:
    """A sink, its name in the report, and the hand-over that feeds it."""

    name: str
    sink: Sink
    inbox: Handover[Delivery]


class Stream:
    """A source with its policy, counts and outlets; each `run_*` method is the body of one thread."""

    def __init__(
        self,
        source: Source,
        sinks: list[tuple[str, Sink]],
        policy: Policy,
        times: StageTimes,
        annotator: Annotator,
        captured_changed: threading.Condition,
        *,
        prepare: Callable[[Frame], None],
        paced: bool,
        max_frames: int | None,
        overlay_head: str | None,
    ) -> None:
        """Lays the hand-overs.

        Args:
            source: where frames come from.
            sinks: outputs by name.
            policy: what happens to frames that detection has no time for.
            times: shared stage times.
            annotator: draws boxes.
            captured_changed: shared by all streams' captured frames, so that detection can wait for any of them.
            prepare: what the detector wants done with a frame by the thread that captured it.
            paced: whether frames wait for their own time.
            max_frames: frames to process, then stop.
            overlay_head: engine and precision for the overlay; None draws no overlay.
        """
        room = 1 if policy is Policy.FRESHEST else 2
        self.source = source
        self.stats = StreamStats()
        self.captured: Handover[Frame] = Handover(room, policy, captured_changed)
        self.detected: Handover[tuple[Frame, Detections]] = Handover(room, Policy.EVERY_FRAME)
        self.outlets = [Outlet(name, sink, Handover(room, Policy.EVERY_FRAME)) for name, sink in sinks]
        self._times = times
        self._annotator = annotator
        self._prepare = prepare
        self._paced = paced
        self._max_frames = max_frames
        self._overlay_head = overlay_head
        self._overlay: tuple[str, ...] = ()
        self._overlay_made_s = float("-inf")

    def run_capture(self, stop: threading.Event) -> None:
        """Reads the source to its end and hands frames to detection."""
        try:
            frames = iter(self.source)
            paced = _Pacer() if self._paced else None
            while not stop.is_set():
                began = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                self._times.add("capture", (time.perf_counter() - began) * 1e3)
                if paced is not None:
                    frame = paced.wait(frame, stop)
                self._prepare(frame)
                self.captured.put(frame)
                self.stats.count_captured(frame.captured_at_s)
                if self._max_frames and self.stats.captured - self.captured.dropped >= self._max_frames:
                    break
        except Closed:
            pass
        finally:
            self.source.close()
            self.captured.close()

    def run_draw(self) -> None:
        """Draws what sinks want to see and hands each frame to every sink."""
        wants_pixels = any(outlet.sink.needs_pixels for outlet in self.outlets)
        for frame, detections in _taken(self.detected):
            drawn = frame
            if wants_pixels:
                began = time.perf_counter()
                drawn = self._annotator.annotate(frame, detections, self._overlay_lines())
                self._times.add("draw", (time.perf_counter() - began) * 1e3)
            delivery = Delivery(frame, drawn, detections, len(self.outlets))
            for outlet in self.outlets:
                outlet.inbox.put(delivery)
        for outlet in self.outlets:
            outlet.inbox.close()

    def run_outlet(self, outlet: Outlet) -> None:
        """Writes every frame that comes to one sink, and closes the sink at the end."""
        with outlet.sink:
            for delivery in _taken(outlet.inbox):
                self.deliver(outlet, delivery)

    def deliver(self, outlet: Outlet, delivery: Delivery) -> None:
        """Writes one frame to one sink and counts it when it was the last sink."""
        began = time.perf_counter()
        sink = outlet.sink
        sink.write(delivery.drawn if sink.needs_pixels else delivery.frame, delivery.detections)
        self._times.add(f"write {outlet.name}", (time.perf_counter() - began) * 1e3)
        if delivery.arrived():
            self.stats.count_processed(delivery.frame.captured_at_s)

    def abort(self) -> None:
        """Ends all hand-overs at once; what is in them is thrown away."""
        self.captured.abort()
        self.detected.abort()
        for outlet in self.outlets:
            outlet.inbox.abort()

    def _overlay_lines(self) -> tuple[str, ...]:
        """Returns the live figures, worked out a few times a second so that they can be read."""
        now = time.perf_counter()
        if self._overlay_head is None or now - self._overlay_made_s < _OVERLAY_REFRESH_S:
            return self._overlay
        self._overlay_made_s = now
        rate = self.stats.rate.per_second()
        figures = f"{rate:.1f} FPS" if rate else "starting"
        latency = self.stats.latency_ms.percentiles(50, 95)
        if latency:
            figures += f"  {latency[0]:.0f} / {latency[1]:.0f} ms p50 / p95"
        self._overlay = (figures, f"{self.captured.dropped} dropped  {self._overlay_head}")
        return self._overlay


def _taken(inbox: Handover[_T]) -> Iterator[_T]:
    """Yields what comes until the hand-over ends."""
    while True:
        try:
            item = inbox.get()
        except Closed:
            return
        if item is not None:
            yield item


class _Pacer:
    """Holds frames back until their own time, counted from the first."""

    def __init__(self) -> None:
        self._began_s: float | None = None

    def wait(self, frame: Frame, stop: threading.Event) -> Frame:
        """Returns the frame, captured now, once its time has come or `stop` is set."""
        if self._began_s is None:
            self._began_s = time.perf_counter() - frame.pts_s
        stop.wait(max(0.0, self._began_s + frame.pts_s - time.perf_counter()))
        return replace(frame, captured_at_s=time.perf_counter())
