"""The run: sources, detectors and sinks on their threads, from the first frame to a report."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from streamer.common.errors import ConfigError, SourceError, StreamerError
from streamer.common.queues import Closed, OverflowPolicy
from streamer.common.redaction import redact_text
from streamer.common.stats import StageTimes, Window
from streamer.detector.base import Detector
from streamer.frames.draw import Annotator
from streamer.runtime.flow_limits import FlowLimits
from streamer.runtime.lanes import Lane, Lanes
from streamer.runtime.report import RunError, RunReport, StreamRecord
from streamer.runtime.run_clock import RunClock
from streamer.runtime.sink_executor import SinkExecutor
from streamer.runtime.sink_worker import SinkWorker
from streamer.runtime.stream import Stream
from streamer.runtime.stream_spec import PipelineContext, StreamChanges
from streamer.runtime.stream_spec import StreamSpec as StreamSpec
from streamer.runtime.threads import STUCK, ThreadGroup
from streamer.sinks.base import StopRequested

log = logging.getLogger(__name__)

DEFAULT_BATCH_TIMEOUT_S = 0.005
_POLL_S = 0.02
_IDLE_POLL_S = 0.1  # where no sink needs the main thread: each poll wakes a core
_JOIN_S = 1.5
_FINISHED_KEPT = 256


@dataclass(frozen=True)
class PipelineStatus:
    """A pipeline at one moment.

    Attributes:
        is_running: whether `run` was called.
        is_stopping: whether the run was asked to end.
        batch_timeout_s: longest that a frame waits for others of its batch.
        threads: how many run.
        detecting: streams that have frames to come for the detector.
    """

    is_running: bool
    is_stopping: bool
    batch_timeout_s: float
    threads: int
    detecting: int


class Pipeline:
    """Runs streams through one detector, or several of different GPUs; made for one call of `run`.

    Threads: one captures each source, one drives each detector, one draws for each source, one writes each sink; sinks
    that need the main thread are written by the thread that calls `run`. A `PushSource` has no thread here, and streams
    whose only sink needs nothing drawn share a few behind detection. Streams may be added, changed and removed from any
    thread, also while it runs, without disturbing the others. With several detectors, see `Lanes` for which is whose.
    """

    def __init__(
        self,
        specs: Sequence[StreamSpec],
        detector: Detector | Sequence[Detector],
        *,
        max_frames: int | None = None,
        overlay: bool | None = None,
        batch_timeout_s: float = DEFAULT_BATCH_TIMEOUT_S,
        on_poll: Callable[[Pipeline], None] | None = None,
    ) -> None:
        """Takes over the specs' sources and sinks; the detectors stay the caller's.

        Args:
            specs: at least one stream.
            detector: finds objects; several of the same model spread the streams.
            max_frames: frames to process of each source, then stop.
            overlay: `StreamSpec.overlay` of those that have None.
            batch_timeout_s: longest wait for a batch to become full, where the detector takes batches.
            on_poll: called about fifty times a second on the thread that runs the pipeline.
        """
        detectors = [detector] if isinstance(detector, Detector) else list(detector)
        self._detector, self._on_poll = detectors[0], on_poll
        self._times = StageTimes()
        self._threads = ThreadGroup[Stream](self._fail)
        self._executor = SinkExecutor(self._start_for_all, self._fail)
        self._lanes = Lanes(detectors, batch_timeout_s, self._times)
        self._batch_timeout_s = batch_timeout_s
        self._context = PipelineContext(
            limits=FlowLimits.of_run(self._detector, -(-len(specs) // len(detectors))),
            times=self._times,
            annotator=Annotator(self._detector.labels),
            direct_outputs=self._executor.selector,
            max_frames=max_frames,
            clock=RunClock(),
            overlay_head=f"{self._detector.info.name} {self._detector.info.precision}",
            overlay=overlay,
        )
        self._stop = threading.Event()
        self._is_running = self._is_aborted = False
        self._drops_nothing = False
        self._began_s = time.perf_counter()
        self._ended_s: float | None = None
        self._error: BaseException | None = None
        self._lock = threading.RLock()
        self._streams: list[Stream] = []
        self._main_thread_sinks: list[tuple[Stream, SinkWorker]] = []
        self._finished: deque[StreamRecord] = deque(maxlen=_FINISHED_KEPT)
        self._finished_processed = 0
        self._not_added: dict[str, StreamerError] = {}
        for spec in specs:
            self.add(spec)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of the run, without those that were removed and have finished."""
        with self._lock:
            return tuple(self._streams)

    @property
    def processed(self) -> int:
        """Frames that reached every sink, those of removed streams included."""
        with self._lock:
            return self._finished_processed + sum(stream.stats.processed for stream in self._streams)

    @property
    def progress(self) -> tuple[int, int]:
        """A value that changes whenever a frame has reached its sinks, or a thread has ended."""
        return self.processed, len(self._threads.alive)

    def status(self) -> PipelineStatus:
        """Returns what the pipeline is doing."""
        return PipelineStatus(
            self._is_running,
            self._stop.is_set(),
            self._batch_timeout_s,
            len(self._threads.alive),
            sum(lane.inference.streams for lane in self._lanes.working),
        )

    @property
    def failed_detectors(self) -> tuple[Detector, ...]:
        """Those that have failed: what belongs to their GPU can't be freed, and trying may hang."""
        return tuple(lane.detector for lane in self._lanes.all if lane.error is not None)

    def least_loaded_gpu(self, opening: Collection[int]) -> int | None:
        """Returns the GPU for a new stream, None where a CPU detects; `opening` are those of streams not yet added."""
        return self._lanes.choose(opening=opening).detector.gpu

    def add(self, spec: StreamSpec) -> None:
        """Takes over one more source and its sinks, and starts them at once where the run has begun.

        Raises:
            ConfigError: if there is a stream of that name; one that was removed may take a moment to finish.
            Closed: if the run is over. In both cases the source and the sinks stay the caller's.
        """
        with self._lock:
            name = spec.source.info.name
            if any(stream.name == name for stream in self._streams):
                raise ConfigError(f"there is a stream named {name!r} already: remove it first, or choose another name")
            if self._stop.is_set():
                raise Closed
            lane = self._lanes.choose(spec.gpu)
            stream = Stream(spec, self._context, lane)
            self._not_added.pop(name, None)
            try:
                lane.inference.add(stream.inference)
            except BaseException:
                lane.streams.pop(stream, None)
                raise
            self._streams.append(stream)
            if self._is_running:
                self._start(stream)

    def note_unadded(self, name: str, error: StreamerError | None) -> None:
        """Counts a source that couldn't be added as a failure of the run; None takes that back."""
        with self._lock:
            self._not_added.pop(name, None)
            if error is not None:
                self._not_added[name] = error

    def change(self, name: str, **changes: Unpack[StreamChanges]) -> None:
        """Changes fields of a stream's `StreamSpec` without losing a frame; raises ConfigError if there is none."""
        self._named(name).change(**changes)

    def remove(self, name: str) -> None:
        """Ends one stream: frames already captured reach its sinks, which are then closed. Returns at once.

        Raises:
            ConfigError: if there is no stream of that name.
        """
        stream = self._named(name)
        stream.is_removed = True
        stream.stop()
        stream.interrupt_sinks()

    def expecting(self) -> AbstractContextManager[None]:
        """Within the block a stream is about to be added: the run goes on also when all others end."""
        return self._lanes.expecting()

    def stop(self) -> None:
        """Ends the run in good order, from any thread: frames already captured still reach the sinks."""
        self._stop.set()

    def run(self, duration_s: float | None = None) -> RunReport:
        """Runs to the end of all sources, to `stop`, for `duration_s` from its first frame, or until none can go on.

        A source or a sink that fails ends alone: the others go on, and the failure is raised at the end. With the last
        sink of a source, or the last source, the run ends. Any other failure ends the run at once.

        Raises:
            StreamerError: the first failure of any stage, after every sink was closed; see `report`.
            SourceError: if a source ended before its first frame.
        """
        self._began_s = time.perf_counter()
        self._context.clock.start(duration_s)
        with self._lock:
            self._is_running = True
            self._drops_nothing = all(stream.policy is OverflowPolicy.BLOCK for stream in self._streams)
            for stream in self._streams:
                self._start(stream)
            for lane in self._lanes.all:
                self._start_for_all(lane.thread_name, partial(self._detect, lane))
        try:
            self._supervise()
        except BaseException as error:
            self._fail(error)
        finally:
            for _, worker in self._main_thread_sinks:
                worker.close()
            self._executor.close()
            stuck = self._threads.join(_JOIN_S)
        if stuck:
            log.warning("%s %g s: %s", STUCK, _JOIN_S, ", ".join(stuck))
        self._ended_s = time.perf_counter()
        if self._error is not None:
            raise self._error
        for stream in self._streams:
            was_ended = self._stop.is_set() or stream.is_removed
            if not stream.stats.captured and (not was_ended or stream.source.lost_s is not None):
                stream.failures.source_failed(SourceError(f"source {stream.name!r} ended before its first frame"))
        errors = self._errors()
        if errors:
            raise errors[0][1]
        return self.report()

    def report(self) -> RunReport:
        """Returns what the run did so far, also when `run` raised.

        Of streams that were removed, the last 256 are listed; their latencies don't count.
        """
        wall_s = (self._ended_s or time.perf_counter()) - self._began_s
        with self._lock:
            records = [*self._finished, *(stream.record() for stream in self._streams)]
            windows = [stream.stats.latency_ms for stream in self._streams]
            processed = self.processed
        latency_ms = Window.summary_of(windows)
        if latency_ms is not None:
            del latency_ms["mean"]
        return RunReport(
            engine=self._detector.info,
            gpus=self._lanes.report(),
            sources=tuple(record.report for record in records),
            fps=processed / wall_s if wall_s > 0 else 0.0,
            wall_s=wall_s,
            stages_ms=self._times.summary(),
            latency_ms=latency_ms,
            errors=tuple(RunError(where, redact_text(str(error))) for where, error in self._errors()),
            files=tuple(dict.fromkeys(path for record in records for path in record.files)),
            skipped=tuple(phrase for record in records for phrase in record.skipped),
        )

    def _named(self, name: str) -> Stream:
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ConfigError(f"there is no stream named {name!r}")

    def _errors(self) -> list[tuple[str, BaseException]]:
        """Returns where something failed, and with what: the failure that ended the run first."""
        found: list[tuple[str, BaseException]] = [] if self._error is None else [("run", self._error)]
        with self._lock:
            found += [(lane.name, lane.error) for lane in self._lanes.all if lane.error is not None]
            for record in self._finished:
                found += record.errors
            for stream in self._streams:
                found += stream.failures.errors
            return [*found, *self._not_added.items()]

    def _detect(self, lane: Lane) -> None:
        """Drives a lane's detector until all streams have finished; the body of a thread."""
        try:
            lane.inference.run()
        except Exception as error:
            if isinstance(error, Closed) or not self._give_up(lane, error):
                raise

    def _give_up(self, lane: Lane, error: Exception) -> bool:
        """Moves the streams of a lane that has failed; returns False where there is no other, and the run ends."""
        with self._lock:
            return not self._is_aborted and self._lanes.give_up(lane, error)

    def _start_for_all(self, name: str, body: Callable[[], None]) -> None:
        self._threads.start(name, body, throughput=self._drops_nothing)

    def _start(self, stream: Stream) -> None:
        def start(name: str, body: Callable[[], None]) -> None:
            self._threads.start(name, body, stream, throughput=stream.policy is OverflowPolicy.BLOCK)

        if stream.direct is not None:
            self._executor.add(stream.direct)
        if not stream.capture.start_push():
            start(f"capture {stream.name}", lambda: stream.capture.run(self._stop))
        if stream.direct is not None:
            return
        start(f"draw {stream.name}", stream.fan_out.run)
        for worker in stream.sinks:
            if worker.sink.main_thread:
                self._main_thread_sinks.append((stream, worker))
            else:
                start(f"write {worker.name}", worker.run)

    def _fail(self, error: BaseException) -> None:
        """Keeps the first failure and aborts every stream; the window's close button counts as no failure."""
        with self._lock:
            if not isinstance(error, StopRequested):
                self._error = self._error or error
            self._is_aborted = True
            self.stop()
            streams = list(self._streams)
        for stream in streams:
            stream.abort()

    def _supervise(self) -> None:
        """Writes the sinks that need this thread, and watches the clock, until the run is over or aborted."""
        is_stopping = False
        while not self._is_aborted and not self._is_over():
            if self._context.clock.is_over(has_more=any(stream.has_more for stream in self.streams)):
                self.stop()
            if self._stop.is_set() and not is_stopping:
                is_stopping = True
                for stream in self.streams:
                    stream.stop()
                    stream.interrupt_sinks()
            self._write_main_thread_sinks(may_linger=not is_stopping)
            self._executor.ensure_worker()
            for lane, error in self._lanes.stalled():
                self._give_up(lane, error)
            self._forget_removed()
            if self._on_poll is not None:
                self._on_poll(self)

    def _write_main_thread_sinks(self, *, may_linger: bool) -> None:
        """Takes about `_POLL_S`; without such sinks, waits for the end of a thread for `_IDLE_POLL_S`."""
        with self._lock:
            sinks = list(self._main_thread_sinks)
        for stream, worker in sinks:
            if not worker.run_once(_POLL_S / len(sinks), may_linger=may_linger and not stream.is_removed):
                with self._lock:
                    self._main_thread_sinks.remove((stream, worker))
        if not sinks:
            for thread in list(self._threads.alive)[:1]:
                thread.join(_IDLE_POLL_S)

    def _is_over(self) -> bool:
        """Whether no consumer is left; threads that wait for a source or a GPU that hangs don't count."""
        if self._main_thread_sinks or self._executor.unfinished:
            return False
        ignored = ("capture ", "serve ", *(lane.thread_name for lane in self._lanes.all if lane.error is not None))
        if any(not thread.name.startswith(ignored) for thread in self._threads.alive):
            return False
        return all(stream.inference.input.queue.is_finished for stream in self.streams)

    def _forget_removed(self) -> None:
        """Drops streams that were removed and have finished, except for their record."""
        if not any(stream.is_removed for stream in self._streams):
            return
        with self._lock:
            busy = {*self._threads.alive.values(), *(stream for stream, _ in self._main_thread_sinks)}
            writing: tuple[object, ...] = self._executor.unfinished
            for stream in list(self._streams):
                if stream.is_removed and stream not in busy and stream.direct not in writing:
                    self._streams.remove(stream)
                    stream.lane.streams.pop(stream, None)
                    self._finished_processed += stream.stats.processed
                    self._finished.append(stream.record())
