"""One source's way through the pipeline: its threads' state, hand-overs, counts and outputs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from streamer.detections import Detections
from streamer.draw import Annotator
from streamer.errors import SinkError, SourceError
from streamer.frame import Frame
from streamer.policy import Closed, Handover, Policy
from streamer.sinks.base import Sink
from streamer.sources.base import Source
from streamer.stats import StageTimes, StreamStats

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_OVERLAY_REFRESH_S = 0.25
_SAME_TIME_S = 1e-6
_RECORDER_ROOM = 8  # frames a live source's file may be behind by: encoders and disks have their moments
_NO_PICTURE = np.full((720, 1280, 3), 32, np.uint8)


@dataclass(eq=False)
class Delivery:
    """One frame with its detections on its way to all sinks of a stream.

    Attributes:
        waiting: how many sinks don't have it yet.
        is_new: False for a frame that is shown again, with the word that its source is lost.
    """

    frame: Frame
    drawn: Frame
    detections: Detections
    waiting: int
    is_new: bool = True
    _reached: int = 0
    _is_late: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, *, reached: bool) -> bool:
        """Says that one more sink has it, or failed; returns True when every sink that works has it now."""
        with self._lock:
            self.waiting -= 1
            self._reached += reached
            return self.waiting == 0 and self._reached > 0 and self.is_new and not self._is_late

    def be_late(self) -> bool:
        """Says that a sink had no time for it; returns True for the first that hadn't."""
        with self._lock:
            self.waiting -= 1
            first, self._is_late = not self._is_late, True
            return first and self.is_new


@dataclass(eq=False)
class Outlet:
    """A sink, its name in the report, the hand-over that feeds it, and why it failed."""

    name: str
    sink: Sink
    inbox: Handover[Delivery]
    error: SinkError | None = None


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
        max_fps: float | None = None,
        detect_every: int = 1,
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
            max_fps: frames to take in a second, by the source's own time; None takes all.
            detect_every: the detector sees each so-manieth frame; the others are given the last one's boxes.
        """
        fresh = policy is Policy.FRESHEST
        room = 1 if fresh else 2
        self.source = source
        self.stats = StreamStats()
        self.captured: Handover[Frame] = Handover(room, policy, captured_changed)
        self.detected: Handover[tuple[Frame, Detections]] = Handover(room, Policy.EVERY_FRAME)
        # A slow output of a live source loses frames of its own, rather than holding up detection and the others.
        # An exact number of frames can't be promised that way, so a run with one waits.
        late = policy if not max_frames else Policy.EVERY_FRAME
        self.outlets = [
            Outlet(name, sink, Handover(room if sink.live_view or not fresh else _RECORDER_ROOM, late))
            for name, sink in sinks
        ]
        self.error: SourceError | None = None
        self._times = times
        self._annotator = annotator
        self._prepare = prepare
        self._paced = paced
        self._max_frames = max_frames
        self._overlay_head = overlay_head
        self._budget = Budget(max_fps) if max_fps is not None else None
        self._detect_every = detect_every
        self._offered = 0
        self._found = Detections.empty()
        self._overlay: tuple[str, ...] = ()
        self._overlay_made_s, self._overlay_is_lost = float("-inf"), False

    @property
    def dropped(self) -> int:
        """Frames that didn't reach every sink: passed over, beyond the budget, not detected, or too late for a sink."""
        early = self.captured.dropped + self.stats.dropped_early
        return early + self.stats.dropped_late + self.source.passed_over

    def run_capture(self, stop: threading.Event) -> None:
        """Reads the source to its end, or until it fails (see `error`), and hands frames to detection."""
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
                if self._budget is not None and not self._budget.allows(frame.pts_s):
                    self.stats.count_captured(frame.captured_at_s)
                    self.stats.dropped_early += 1
                    continue
                self._prepare(frame)
                self.captured.put(frame)
                self.stats.count_captured(frame.captured_at_s)
                if (
                    self._max_frames
                    and self.stats.captured - self.stats.dropped_early - self.captured.dropped >= self._max_frames
                ):
                    break
        except Closed:
            pass
        except SourceError as error:
            self.error = error
        finally:
            self.source.close()
            self.captured.close()

    def is_detected(self, frame: Frame) -> bool:
        """Whether the detector is to see the next frame in order, rather than have it `hold` the last boxes."""
        self._offered += 1
        return (self._offered - 1) % self._detect_every == 0

    def hand_on(self, frame: Frame, detections: Detections) -> None:
        """Hands a frame and what was found in it to the draw thread.

        Raises:
            Closed: if the run was aborted.
        """
        self._found = detections
        self.detected.put((frame, detections))

    def hold(self, frame: Frame) -> None:
        """Hands on a frame that the detector hasn't seen, with the boxes of the last one that it has.

        Raises:
            Closed: if the run was aborted.
        """
        self.detected.put((frame, self._found.held()))

    def run_draw(self) -> None:
        """Draws what sinks want to see and hands each frame to every sink that works."""
        last: tuple[Frame, Detections] | None = None
        while True:
            try:
                taken = self.detected.get(_OVERLAY_REFRESH_S)
            except Closed:
                break
            if taken is None:
                self._show_outage(last)
                continue
            last = frame, detections = taken
            outlets = [outlet for outlet in self.outlets if outlet.error is None]
            drawn = frame
            if any(outlet.sink.needs_pixels for outlet in outlets):
                began = time.perf_counter()
                drawn = self._annotator.annotate(frame, detections, self._overlay_lines())
                self._times.add("draw", (time.perf_counter() - began) * 1e3)
            self._hand_out(Delivery(frame, drawn, detections, len(outlets)), outlets)
        for outlet in self.outlets:
            outlet.inbox.close()

    def run_outlet(self, outlet: Outlet) -> None:
        """Writes every frame that comes to one sink, and closes the sink at the end, or when it fails."""
        try:
            with outlet.sink:
                for delivery in _taken(outlet.inbox):
                    self.deliver(outlet, delivery)
        except SinkError as error:
            self.give_up(outlet, error)

    def deliver(self, outlet: Outlet, delivery: Delivery) -> None:
        """Writes one frame to one sink and counts it when it was the last sink.

        Raises:
            SinkError: if the sink can't take it; the others may.
        """
        began = time.perf_counter()
        sink = outlet.sink
        try:
            sink.write(delivery.drawn if sink.needs_pixels else delivery.frame, delivery.detections)
        except SinkError:
            self._settle(delivery, reached=False)
            raise
        self._times.add(f"write {outlet.name}", (time.perf_counter() - began) * 1e3)
        self._settle(delivery, reached=True)

    def give_up(self, outlet: Outlet, error: SinkError) -> None:
        """Goes on without a sink that failed; without any, the source is stopped."""
        outlet.error = error
        for delivery in outlet.inbox.abort():
            self._settle(delivery, reached=False)
        if all(other.error is not None for other in self.outlets):
            self.captured.close()
            self.source.interrupt()
        else:
            log.warning("%s; the other outputs go on", error)

    def _hand_out(self, delivery: Delivery, outlets: Sequence[Outlet]) -> None:
        for outlet in outlets:
            try:
                dropped = outlet.inbox.put(delivery)
            except Closed:  # the sink failed meanwhile, or the run is being aborted
                self._settle(delivery, reached=False)
                continue
            if dropped is not None and dropped.be_late():
                self.stats.dropped_late += 1

    def _settle(self, delivery: Delivery, *, reached: bool) -> None:
        """Notes that one more sink has the frame, or never will."""
        if delivery.settle(reached=reached):
            self.stats.count_processed(delivery.frame.captured_at_s)

    def _show_outage(self, last: tuple[Frame, Detections] | None) -> None:
        """Shows people who look on that the source is lost, on its last frame."""
        viewers = [outlet for outlet in self.outlets if outlet.sink.live_view and outlet.error is None]
        if not viewers or self._overlay_head is None or self.source.lost_s is None:
            return
        name = self.source.info.name
        frame, detections = last or (Frame(_NO_PICTURE, name, 0, 0.0, time.perf_counter()), Detections.empty())
        drawn = self._annotator.annotate(frame, detections, self._overlay_lines())
        self._hand_out(Delivery(frame, drawn, detections, len(viewers), is_new=False), viewers)

    def abort(self) -> None:
        """Ends all hand-overs at once; what is in them is thrown away."""
        self.source.interrupt()
        self.captured.abort()
        self.detected.abort()
        for outlet in self.outlets:
            outlet.inbox.abort()

    def _overlay_lines(self) -> tuple[str, ...]:
        """Returns the live figures, worked out a few times a second so that they can be read."""
        now, lost_s = time.perf_counter(), self.source.lost_s
        is_news = (lost_s is None) == self._overlay_is_lost
        if self._overlay_head is None or (now - self._overlay_made_s < _OVERLAY_REFRESH_S and not is_news):
            return self._overlay
        self._overlay_made_s, self._overlay_is_lost = now, lost_s is not None
        rate = self.stats.rate.per_second()
        figures = f"{rate:.1f} FPS" if rate else "starting"
        latency = self.stats.latency_ms.percentiles(50, 95)
        if latency:
            figures += f"  {latency[0]:.0f} / {latency[1]:.0f} ms p50 / p95"
        if lost_s is not None:
            figures = f"{'reconnecting' if self.stats.captured else 'connecting'} ({lost_s:.0f} s)"
        self._overlay = (figures, f"{self.dropped} dropped  {self._overlay_head}")
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


class Budget:
    """Lets so many frames a second through, by their own times."""

    def __init__(self, max_fps: float) -> None:
        self._period_s = 1.0 / max_fps
        self._due_s = float("-inf")

    def allows(self, pts_s: float) -> bool:
        """Whether the frame at `pts_s` is within the budget; frames come in order of time."""
        if pts_s < self._due_s - _SAME_TIME_S:
            return False
        is_late = pts_s - self._due_s > self._period_s  # after a pause, or it is the first
        self._due_s = (pts_s if is_late else self._due_s) + self._period_s
        return True


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
