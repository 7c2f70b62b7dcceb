"""The run: sources, one detector and sinks on their threads, from the first frame to a report."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from streamer.batcher import Batcher, Lane
from streamer.detector.base import Detector, DetectTimes
from streamer.draw import Annotator
from streamer.errors import SinkError, SourceError
from streamer.frame import Frame
from streamer.policy import Closed, Policy
from streamer.report import RunError, RunReport, SourceReport
from streamer.sinks.base import Sink, StopRequested
from streamer.sources.base import Source
from streamer.stats import StageTimes, Window
from streamer.stream import Outlet, Stream

log = logging.getLogger(__name__)

_POLL_S = 0.02
_JOIN_S = 1.5
_MOST_PENDING = 64


@dataclass(frozen=True)
class StreamPlan:
    """One source and what is to become of its frames.

    Attributes:
        source: an open source; the pipeline closes it.
        sinks: open outputs by the name they have in the report; the pipeline closes them.
        policy: what happens to frames that detection has no time for; None is freshest for live sources (and paced
            ones), every-frame for the rest.
        paced: whether frames wait for their own time.
        priority: where not all streams can be served, those of higher priority are served first.
        max_fps: frames to take of the source in a second, by its own time; None takes all.
        detect_every: the detector sees each so-manieth frame taken; the others are given the last one's boxes.
    """

    source: Source
    sinks: Sequence[tuple[str, Sink]]
    policy: Policy | None = None
    paced: bool = False
    priority: int = 0
    max_fps: float | None = None
    detect_every: int = 1

    def chosen_policy(self) -> Policy:
        """Returns the policy in force."""
        live = self.source.info.live or self.paced
        return self.policy or (Policy.FRESHEST if live else Policy.EVERY_FRAME)


@dataclass(frozen=True)
class _Pending:
    """A frame on its way: with the detector, or `held`: it gets the boxes of the frame before it."""

    stream: Stream
    held: Frame | None = None


class Pipeline:
    """Runs streams through one detector. Made, run once with `run`, and done.

    Threads: one captures each source, one detects for all, one draws for each source, one writes each sink; sinks that
    need the main thread are written by the thread that calls `run`.
    """

    def __init__(
        self,
        plans: Sequence[StreamPlan],
        detector: Detector,
        *,
        max_frames: int | None = None,
        overlay: bool = True,
        on_poll: Callable[[Pipeline], None] | None = None,
    ) -> None:
        """Takes over the plans' sources and sinks; the detector stays the caller's.

        Args:
            plans: at least one stream.
            detector: finds objects for all streams.
            max_frames: frames to process of each source, then stop.
            overlay: whether to draw live figures onto frames.
            on_poll: called about fifty times a second on the thread that runs the pipeline.
        """
        self._detector = detector
        self._times = StageTimes()
        captured_changed = threading.Condition()
        self._batcher: Batcher[Frame] = Batcher(1, 0.0, captured_changed)
        self._stop = threading.Event()
        self._aborted = False
        self._began_s = time.perf_counter()
        self._ended_s: float | None = None
        self._error: BaseException | None = None
        self._error_lock = threading.Lock()
        self._on_poll = on_poll
        self._in_bulk = all(plan.chosen_policy() is Policy.EVERY_FRAME for plan in plans)
        head = f"{detector.info.name} {detector.info.precision}" if overlay else None
        annotator = Annotator(detector.labels)
        self.streams = tuple(
            Stream(
                plan.source,
                list(plan.sinks),
                plan.chosen_policy(),
                self._times,
                annotator,
                captured_changed,
                prepare=detector.prepare,
                paced=plan.paced,
                max_frames=max_frames,
                overlay_head=head,
                max_fps=plan.max_fps,
                detect_every=plan.detect_every,
            )
            for plan in plans
        )
        self._stream_of = {
            Lane(stream.captured, plan.priority): stream for stream, plan in zip(self.streams, plans, strict=True)
        }
        for lane in self._stream_of:
            self._batcher.add(lane)

    def stop(self) -> None:
        """Ends the run in good order, from any thread: frames already captured still reach the sinks."""
        self._stop.set()

    def run(self, duration_s: float | None = None) -> RunReport:
        """Runs to the end of all sources, to `stop`, to `duration_s`, or until nothing can go on.

        A source or an output that fails ends alone: the others go on, and the failure is raised at the end. With the
        last output of a source, or the last source, the run ends. Any other failure ends the run at once.

        Raises:
            StreamerError: the first failure of any stage, after every output was closed; see `report`.
            SourceError: if a source ended before its first frame.
        """
        began = self._began_s = time.perf_counter()
        threads = self._start_threads()
        deadline = began + duration_s if duration_s is not None else None
        mains = [(s, o) for s in self.streams for o in s.outlets if o.sink.main_thread]
        try:
            self._serve_main(threads, mains, deadline)
        except BaseException as error:
            self._fail(error)
        finally:
            self._close_main(mains)
            stuck = _join(threads)
        if stuck:
            log.warning("left behind, as it doesn't answer: %s", ", ".join(stuck))
        self._ended_s = time.perf_counter()
        if self._error is not None:
            raise self._error
        for stream in self.streams:
            is_unseen = not self._stop.is_set() or stream.source.lost_s is not None
            if stream.error is None and not stream.stats.captured and is_unseen:
                stream.error = SourceError(f"source {stream.source.info.name!r} ended before its first frame")
        failures = self._failures()
        if failures:
            raise failures[0][1]
        return self.report()

    def report(self) -> RunReport:
        """Returns what the run did so far, or did: also when `run` raised."""
        ended_s = self._ended_s if self._ended_s is not None else time.perf_counter()
        wall_s = ended_s - self._began_s
        sources = tuple(_source_report(stream) for stream in self.streams)
        return RunReport(
            engine=self._detector.info,
            sources=sources,
            fps=sum(source.frames_processed for source in sources) / wall_s if wall_s > 0 else 0.0,
            wall_s=wall_s,
            stages_ms=self._times.summary(),
            latency_ms=_latency([stream.stats.latency_ms for stream in self.streams]),
            errors=tuple(RunError(where, str(error)) for where, error in self._failures()),
            files=tuple(path for s in self.streams for outlet in s.outlets for path in outlet.sink.written),
            skipped=tuple(what for stream in self.streams for what in stream.source.skipped),
        )

    def _failures(self) -> list[tuple[str, BaseException]]:
        """Returns where something failed, and with what: the failure that ended the run first."""
        found: list[tuple[str, BaseException]] = [] if self._error is None else [("run", self._error)]
        for stream in self.streams:
            if stream.error is not None:
                found.append((stream.source.info.name, stream.error))
            found += [(outlet.name, outlet.error) for outlet in stream.outlets if outlet.error is not None]
        return found

    def _start_threads(self) -> list[threading.Thread]:
        bodies: list[tuple[str, Callable[[], None]]] = []
        for stream in self.streams:
            name = stream.source.info.name
            bodies.append((f"capture {name}", lambda stream=stream: stream.run_capture(self._stop)))  # type: ignore[misc]
            bodies.append((f"draw {name}", stream.run_draw))
            for outlet in stream.outlets:
                if not outlet.sink.main_thread:
                    body = lambda stream=stream, outlet=outlet: stream.run_outlet(outlet)  # type: ignore[misc]  # noqa: E731
                    bodies.append((f"write {outlet.name}", body))
        bodies.append(("detect", self._run_detect))
        threads = [
            threading.Thread(target=self._guarded, args=(body,), name=name, daemon=True) for name, body in bodies
        ]
        for thread in threads:
            thread.start()
        return threads

    def _guarded(self, body: Callable[[], None]) -> None:
        if self._in_bulk:
            _work_in_bulk()
        try:
            body()
        except Closed:
            pass  # another thread ended the run
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Keeps the first failure and ends every thread; the window's close button counts as no failure."""
        if not isinstance(error, StopRequested):
            with self._error_lock:
                self._error = self._error or error
        self._aborted = True
        self.stop()
        for stream in self.streams:
            stream.abort()

    def _run_detect(self) -> None:
        """Keeps the detector busy with frames of all streams, and hands on what it finds, in each stream's order."""
        detector = self._detector
        pending: deque[_Pending] = deque()
        while True:
            if detector.in_flight < detector.depth and len(pending) < _MOST_PENDING:
                taken = self._batcher.take(wait=not pending)
                for lane, frame in taken or ():
                    stream = self._stream_of[lane]
                    if stream.is_detected(frame):
                        detector.submit(frame)
                        pending.append(_Pending(stream))
                    else:
                        pending.append(_Pending(stream, frame))
                if taken is None and not pending:
                    break
                if not pending:
                    self._close_ended(())
                    continue
                if taken and pending[0].held is None and detector.in_flight < detector.depth:
                    continue
            first = pending.popleft()
            if first.held is not None:
                first.stream.hold(first.held)
            else:
                frame, detections, times = detector.collect()
                self._note(times)
                first.stream.hand_on(frame, detections)
            self._close_ended(pending)
        self._close_ended(())

    def _close_ended(self, pending: Collection[_Pending]) -> None:
        """Lets the outputs of streams that have ended be finished, while others go on."""
        busy = {each.stream for each in pending}
        for stream in self.streams:
            if stream.captured.ended and stream not in busy:
                stream.detected.close()

    def _note(self, times: DetectTimes) -> None:
        self._times.add("preprocess", times.preprocess_ms)
        self._times.add("inference", times.inference_ms)
        self._times.add("postprocess", times.postprocess_ms)

    def _serve_main(
        self, threads: list[threading.Thread], mains: list[tuple[Stream, Outlet]], deadline: float | None
    ) -> None:
        """Writes the sinks that need this thread, and watches the clock, until the run is over or aborted."""
        waiting = list(mains)
        closing = False
        while not self._aborted and (waiting or any(thread.is_alive() for thread in threads)):
            if deadline is not None and time.perf_counter() >= deadline:
                self.stop()
            if self._stop.is_set() and not closing:
                closing = True
                for stream in self.streams:
                    stream.captured.close()
                    stream.source.interrupt()
            for stream, outlet in list(waiting):
                try:
                    delivery = outlet.inbox.get(timeout_s=_POLL_S / len(waiting))
                except Closed:
                    if closing or not outlet.sink.lingers:
                        waiting.remove((stream, outlet))
                        continue
                    self._stop.wait(_POLL_S)
                    delivery = None
                try:
                    if delivery is not None:
                        stream.deliver(outlet, delivery)
                    outlet.sink.poll()
                except SinkError as error:
                    waiting.remove((stream, outlet))
                    self._close(stream, outlet)
                    stream.give_up(outlet, error)
            if not waiting:
                _join_one(threads, _POLL_S)
                if self._only_captures(threads):
                    return  # a source that says nothing would otherwise hold the run up
            if self._on_poll is not None:
                self._on_poll(self)

    def _only_captures(self, threads: list[threading.Thread]) -> bool:
        """Whether nobody waits for a frame any more."""
        alive = [thread.name for thread in threads if thread.is_alive()]
        return all(s.captured.ended for s in self.streams) and all(name.startswith("capture ") for name in alive)

    def _close_main(self, mains: list[tuple[Stream, Outlet]]) -> None:
        for stream, outlet in mains:
            self._close(stream, outlet)

    def _close(self, stream: Stream, outlet: Outlet) -> None:
        try:
            outlet.sink.close()
        except SinkError as error:
            if outlet.error is None:
                stream.give_up(outlet, error)


def _work_in_bulk() -> None:
    """Tells Linux that this thread wants throughput, not quick wake-ups: fewer preemptions, some more frames."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _latency(windows: list[Window]) -> dict[str, float] | None:
    summary = Window.merged(windows).summary()
    if summary is None:
        return None
    del summary["mean"]
    return summary


def _source_report(stream: Stream) -> SourceReport:
    stats, info = stream.stats, stream.source.info
    span_s = (stats.last_captured_s or 0.0) - (stats.first_captured_s or 0.0)

    def rate(frames: int) -> float:
        return (frames - 1) / span_s if frames > 1 and span_s > 0 else 0.0

    return SourceReport(
        name=info.name,
        uri=info.uri,
        frames_captured=stats.captured + stream.source.passed_over,
        frames_processed=stats.processed,
        frames_dropped=stats.captured + stream.source.passed_over - stats.processed,
        reconnects=stream.source.reconnects,
        fps_captured=rate(stats.captured),
        fps_processed=rate(stats.processed),
    )


def _join_one(threads: list[threading.Thread], timeout_s: float) -> None:
    """Waits a little for the first thread that still runs."""
    for thread in threads:
        if thread.is_alive():
            thread.join(timeout_s)
            return


def _join(threads: list[threading.Thread]) -> list[str]:
    """Waits for all threads, not for ever; returns the names of those that didn't end."""
    deadline = time.perf_counter() + _JOIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.perf_counter()))
    return [thread.name for thread in threads if thread.is_alive()]
