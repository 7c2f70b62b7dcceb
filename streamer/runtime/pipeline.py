"""The run: sources, one detector and sinks on their threads, from the first frame to a report."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from streamer.common.errors import ConfigError, SinkError, SourceError, StreamerError
from streamer.common.queues import Closed, OverflowPolicy, QueueSelector
from streamer.common.redaction import redact_text
from streamer.common.stats import StageTimes, latency_summary
from streamer.detector.base import Detector
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.runtime.batcher import Batcher
from streamer.runtime.inference_loop import InferenceLoop
from streamer.runtime.report import RunError, RunReport, SourceReport
from streamer.runtime.sink_executor import SinkExecutor
from streamer.runtime.sink_worker import SinkWorker
from streamer.runtime.stream import Stream
from streamer.runtime.stream_spec import PipelineContext
from streamer.runtime.stream_spec import StreamSpec as StreamSpec
from streamer.runtime.threads import join_all, work_in_bulk
from streamer.sinks.base import StopRequested

log = logging.getLogger(__name__)

DEFAULT_BATCH_TIMEOUT_S = 0.005

_POLL_S = 0.02
_JOIN_S = 1.5
_PAST_KEPT = 256


@dataclass(frozen=True)
class _Past:
    """What is kept of a stream that was removed and has finished."""

    report: SourceReport
    failures: tuple[tuple[str, StreamerError], ...]
    files: tuple[Path, ...]
    skipped: tuple[str, ...]


class Pipeline:
    """Runs streams through one detector. Made, run once with `run`, and done.

    Threads: one captures each source, one detects for all, one draws for each source, one writes each sink; sinks that
    need the main thread are written by the thread that calls `run`. Streams may be added, changed and removed from any
    thread, also while it runs; the others don't notice.
    """

    def __init__(
        self,
        plans: Sequence[StreamSpec],
        detector: Detector,
        *,
        max_frames: int | None = None,
        overlay: bool = True,
        batch_timeout_s: float = DEFAULT_BATCH_TIMEOUT_S,
        on_poll: Callable[[Pipeline], None] | None = None,
    ) -> None:
        """Takes over the plans' sources and sinks; the detector stays the caller's.

        Args:
            plans: at least one stream.
            detector: finds objects for all streams.
            max_frames: frames to process of each source, then stop.
            overlay: whether to draw live figures onto frames.
            batch_timeout_s: longest wait for a batch to become full, where the detector takes batches.
            on_poll: called about fifty times a second on the thread that runs the pipeline.
        """
        self._detector = detector
        self._times = StageTimes()
        captured = QueueSelector()
        self._batcher: Batcher[Frame] = Batcher(detector.batch, batch_timeout_s, captured)
        self._detection = InferenceLoop(detector, self._batcher, self._times)
        self._writers = SinkExecutor(self._launch_writer, self._fail)
        self._shared = PipelineContext(
            self._batcher,
            captured,
            self._times,
            Annotator(detector.labels),
            detector.prepare,
            detector.depth if detector.batch == 1 else min(detector.depth, 2 * detector.batch),
            1 if len(plans) > detector.depth else 2,  # of many, enough wait, and more would not stay in the cache
            max_frames,
            f"{detector.info.name} {detector.info.precision}" if overlay else None,
            self._writers,
        )
        self._stop = threading.Event()
        self._aborted = False
        self._began_s = time.perf_counter()
        self._ended_s: float | None = None
        self._error: BaseException | None = None
        self._on_poll = on_poll
        self._lock = threading.RLock()
        self._is_running = self._is_bulk = False
        self._threads: dict[threading.Thread, Stream | None] = {}
        self._mains: list[tuple[Stream, SinkWorker]] = []
        self._past: deque[_Past] = deque(maxlen=_PAST_KEPT)
        self._past_processed = 0
        self._streams: list[Stream] = []
        self._unadded: dict[str, StreamerError] = {}
        for plan in plans:
            self.add(plan)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of the run, but those that were removed and have finished."""
        with self._lock:
            return tuple(self._streams)

    @property
    def processed(self) -> int:
        """Frames that reached every sink, those of removed streams included."""
        with self._lock:
            return self._past_processed + sum(stream.stats.processed for stream in self._streams)

    @property
    def progress(self) -> tuple[int, int]:
        """A value that changes whenever a frame has reached its sinks, or a thread has ended."""
        return self.processed, len(self._threads)

    def add(self, plan: StreamSpec) -> None:
        """Takes over one more source and its sinks, and begins with it at once where the run has begun.

        Raises:
            ConfigError: if there is a stream of that name; one that was removed may take a moment to finish.
            Closed: if the run is over. In both cases the source and the sinks stay the caller's.
        """
        with self._lock:
            name = plan.source.info.name
            if any(stream.name == name for stream in self._streams):
                raise ConfigError(f"there is a stream named {name!r} already: remove it first, or choose another name")
            if self._stop.is_set():
                raise Closed
            stream = Stream(plan, self._shared)
            self._unadded.pop(name, None)
            self._detection.add(stream)
            self._streams.append(stream)
            if self._is_running:
                self._start(stream)

    def note_unadded(self, name: str, error: StreamerError | None) -> None:
        """Counts a source that couldn't be added as a failure of the run, until it is added, or not wanted any more.

        Args:
            name: of the source.
            error: why; None once it isn't wanted.
        """
        with self._lock:
            self._unadded.pop(name, None)
            if error is not None:
                self._unadded[name] = error

    def change(self, name: str, *, priority: int = 0, max_fps: float | None = None, detect_every: int = 1) -> None:
        """Sets what a source may have of the machine, see `StreamSpec`, without a frame being lost for it.

        Raises:
            ConfigError: if there is no stream of that name.
        """
        self._named(name).change(priority, max_fps, detect_every)

    def remove(self, name: str) -> None:
        """Ends one stream: frames already captured reach its sinks, which are then closed. Returns at once.

        Raises:
            ConfigError: if there is no stream of that name.
        """
        stream = self._named(name)
        stream.is_removed = True
        stream.end()
        stream.interrupt_outputs()

    def expecting(self) -> AbstractContextManager[None]:
        """Within the block a stream is about to be added: the run goes on also when all others end."""
        return self._batcher.expecting()

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
        self._began_s = time.perf_counter()
        deadline_s = self._began_s + duration_s if duration_s is not None else None
        with self._lock:
            self._is_running = True
            self._is_bulk = all(stream.policy is OverflowPolicy.BLOCK for stream in self._streams)
            for stream in self._streams:
                self._start(stream)
            self._launch("detect", self._detection.run, None, bulk=self._is_bulk)
        try:
            self._serve(deadline_s)
        except BaseException as error:
            self._fail(error)
        finally:
            for stream, outlet in self._mains:
                self._close(stream, outlet)
            self._writers.close()
            stuck = join_all(self._alive(), _JOIN_S)
        if stuck:
            log.warning("left behind, as it doesn't answer: %s", ", ".join(stuck))
        self._ended_s = time.perf_counter()
        if self._error is not None:
            raise self._error
        for stream in self._streams:
            is_unseen = not (self._stop.is_set() or stream.is_removed) or stream.source.lost_s is not None
            if stream.error is None and not stream.stats.captured and is_unseen:
                stream.error = SourceError(f"source {stream.name!r} ended before its first frame")
        failures = self._failures()
        if failures:
            raise failures[0][1]
        return self.report()

    def report(self) -> RunReport:
        """Returns what the run did so far, or did: also when `run` raised.

        Of streams that were removed, the last 256 are told of one by one; their latencies don't count.
        """
        wall_s = (self._ended_s or time.perf_counter()) - self._began_s
        with self._lock:
            past, streams, processed = list(self._past), list(self._streams), self.processed
        return RunReport(
            engine=self._detector.info,
            sources=(*(each.report for each in past), *(stream.report() for stream in streams)),
            fps=processed / wall_s if wall_s > 0 else 0.0,
            wall_s=wall_s,
            stages_ms=self._times.summary(),
            latency_ms=latency_summary([stream.stats.latency_ms for stream in streams]),
            errors=tuple(RunError(where, redact_text(str(error))) for where, error in self._failures()),
            files=tuple(dict.fromkeys([*(f for each in past for f in each.files), *_files(streams)])),
            skipped=(*(s for each in past for s in each.skipped), *(s for st in streams for s in st.source.skipped)),
        )

    def _named(self, name: str) -> Stream:
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ConfigError(f"there is no stream named {name!r}")

    def _failures(self) -> list[tuple[str, BaseException]]:
        """Returns where something failed, and with what: the failure that ended the run first."""
        found: list[tuple[str, BaseException]] = [] if self._error is None else [("run", self._error)]
        with self._lock:
            found += [failure for each in self._past for failure in each.failures]
            found += [failure for stream in self._streams for failure in stream.failures()]
            return [*found, *self._unadded.items()]

    def _start(self, stream: Stream) -> None:
        name, bulk = stream.name, stream.policy is OverflowPolicy.BLOCK
        if stream.is_served:
            self._writers.add(stream)
        if not stream.feed():
            self._launch(f"capture {name}", lambda: stream.run_capture(self._stop), stream, bulk=bulk)
        if stream.is_served:
            return
        self._launch(f"draw {name}", stream.run_draw, stream, bulk=bulk)
        for outlet in stream.outlets:
            if outlet.sink.main_thread:
                self._mains.append((stream, outlet))
            else:
                self._launch(f"write {outlet.name}", lambda o=outlet: stream.run_outlet(o), stream, bulk=bulk)  # type: ignore[misc]

    def _launch_writer(self, name: str, body: Callable[[], None]) -> None:
        with self._lock:
            self._launch(name, body, None, bulk=self._is_bulk)

    def _launch(self, name: str, body: Callable[[], None], stream: Stream | None, *, bulk: bool) -> None:
        thread = threading.Thread(target=self._guarded, args=(body, bulk), name=name, daemon=True)
        self._threads[thread] = stream
        thread.start()

    def _guarded(self, body: Callable[[], None], bulk: bool) -> None:
        if bulk:
            work_in_bulk()
        try:
            body()
        except Closed:
            pass  # another thread ended the run
        except BaseException as error:
            self._fail(error)
        finally:
            with self._lock:
                del self._threads[threading.current_thread()]

    def _fail(self, error: BaseException) -> None:
        """Keeps the first failure and ends every thread; the window's close button counts as no failure."""
        with self._lock:
            if not isinstance(error, StopRequested):
                self._error = self._error or error
            self._aborted = True
            self.stop()
            streams = list(self._streams)
        for stream in streams:
            stream.abort()

    def _serve(self, deadline_s: float | None) -> None:
        """Writes the sinks that need this thread, and watches the clock, until the run is over or aborted."""
        closing = False
        while not self._aborted and not self._is_over():
            if deadline_s is not None and time.perf_counter() >= deadline_s:
                self.stop()
            if self._stop.is_set() and not closing:
                closing = True
                for stream in self.streams:
                    stream.end()
                    stream.interrupt_outputs()
            with self._lock:
                mains = list(self._mains)
            for stream, outlet in mains:
                self._serve_one(stream, outlet, _POLL_S / len(mains), closing=closing)
            if not mains:
                for thread in self._alive()[:1]:
                    thread.join(_POLL_S)
            self._writers.ensure_worker()
            self._forget_removed()
            if self._on_poll is not None:
                self._on_poll(self)

    def _serve_one(self, stream: Stream, outlet: SinkWorker, timeout_s: float, *, closing: bool) -> None:
        """Writes what comes to one sink on this thread, for `timeout_s` at most."""
        try:
            delivery = outlet.inbox.get(timeout_s)
        except Closed:
            if closing or stream.is_removed or not outlet.sink.lingers:
                self._leave(stream, outlet)
                return
            self._stop.wait(timeout_s)
            delivery = None
        try:
            if delivery is not None:
                stream.deliver(outlet, delivery)
            outlet.sink.poll()
        except SinkError as error:
            self._leave(stream, outlet)
            stream.give_up(outlet, error)

    def _leave(self, stream: Stream, outlet: SinkWorker) -> None:
        with self._lock:
            self._mains.remove((stream, outlet))
        self._close(stream, outlet)

    def _close(self, stream: Stream, outlet: SinkWorker) -> None:
        try:
            outlet.sink.close()
        except SinkError as error:
            if outlet.error is None:
                stream.give_up(outlet, error)

    def _alive(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads)

    def _is_over(self) -> bool:
        """Whether nobody waits for a frame any more; a source that says nothing would otherwise hold the run up."""
        if self._mains or self._writers.unfinished:
            return False
        only_captures = all(thread.name.startswith(("capture ", "serve ")) for thread in self._alive())
        return only_captures and all(stream.captured.ended for stream in self.streams)

    def _forget_removed(self) -> None:
        """Lets go of streams that were removed and have finished, but for their part of the report."""
        if not any(stream.is_removed for stream in self._streams):
            return
        with self._lock:
            busy = {*self._threads.values(), *(stream for stream, _ in self._mains), *self._writers.unfinished}
            for stream in [stream for stream in self._streams if stream.is_removed and stream not in busy]:
                self._streams.remove(stream)
                self._past_processed += stream.stats.processed
                self._past.append(
                    _Past(stream.report(), tuple(stream.failures()), _files([stream]), stream.source.skipped)
                )


def _files(streams: Sequence[Stream]) -> tuple[Path, ...]:
    return tuple(path for stream in streams for outlet in stream.outlets for path in outlet.sink.written)
