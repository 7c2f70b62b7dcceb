"""Measures each stream of a run once a second, and keeps its last ten minutes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from streamer.common.closeable import Closeable
from streamer.common.errors import one_line
from streamer.runtime.stream import Stream
from streamer.sinks.files import utc_text
from streamer.web.control import RunControl, SourceView
from streamer.web.hub import Hub
from streamer.web.live_stream import LiveStatus
from streamer.web.problems import without_places
from streamer.web.state_models import Health, HistoryPoint, Latency, RunState, State, StateWord, StreamState

log = logging.getLogger(__name__)

TICK_S = 1.0
POINT_S = 2.0
KEPT_S = 600.0
_RATES_S = 5.0
_LATENCY_S = 10.0


@dataclass(frozen=True)
class Sample:
    """A stream's counters at one moment."""

    at_s: float
    captured: int
    processed: int


@dataclass
class _Measured:
    """What is remembered of one stream, between two measurements."""

    stream: Stream | None = None
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=round(_LATENCY_S / TICK_S) + 1))
    points: deque[HistoryPoint] = field(default_factory=lambda: deque(maxlen=round(KEPT_S / POINT_S)))
    point_at_s: float = float("-inf")
    dropped: int = 0


class StateMonitor(Closeable):
    """Measures on a thread of its own from construction on. Any thread may read what was measured last."""

    def __init__(
        self,
        control: RunControl,
        hub: Hub,
        *,
        has_token: bool = False,
        clock: Callable[[], float] = time.monotonic,
        ticks: bool = True,
    ) -> None:
        """Begins to measure.

        Args:
            control: the run.
            hub: what the page knows of its streams.
            has_token: whether the page asks for a token.
            clock: monotonic seconds.
            ticks: whether the thread measures each second; else `measure` is to be called.
        """
        self._control, self._hub, self._has_token, self._clock = control, hub, has_token, clock
        self._began_s = clock()
        self._measured: dict[str, _Measured] = {}
        self._history: dict[str, tuple[HistoryPoint, ...]] = {}
        self._lock = threading.Lock()  # of measuring
        self._closed = threading.Event()
        self.state = self._measure()
        self._thread = threading.Thread(target=self._run, name="page state", daemon=True)
        if ticks:
            self._thread.start()

    def history(self, name: str) -> tuple[HistoryPoint, ...] | None:
        """Returns a stream's points of the last ten minutes, oldest first; None where there is no such stream."""
        return self._history.get(name)

    def health(self) -> Health:
        """Returns whether every source gives frames, from what runs at this moment."""
        pipeline = self._control.pipeline
        is_running = pipeline is not None and pipeline.status().is_running
        down = tuple(stream.name for stream in self.state.streams if stream.state not in ("running", "ended"))
        return Health(alive=True, ready=is_running and not down, down=down)

    def measure(self) -> State:
        """Measures now, and returns the state; any thread may have it done, as after a change."""
        with self._lock:
            self.state = self._measure()
            return self.state

    def close(self) -> None:
        """Ends measuring."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(TICK_S):
            try:
                self.measure()
            except Exception as error:  # a source that closes meanwhile is no reason to end
                log.warning("the streams can't be measured: %s", one_line(f"{type(error).__name__}: {error}"))
                log.debug("traceback", exc_info=True)

    def _measure(self) -> State:
        control, now_s = self._control, self._clock()
        pipeline = control.pipeline
        running = {} if pipeline is None else {each.name: each for each in pipeline.streams if not each.is_removed}
        live = {status.name: status for status in self._hub.statuses()}
        sources, unopened = control.sources(), control.unopened()
        self._measured = {name: self._measured.get(name, _Measured()) for name in sources}
        streams = tuple(
            self._stream(name, view, running.get(name), live.get(name), unopened.get(name), now_s)
            for name, view in sources.items()
        )
        time_utc = utc_text(datetime.now(UTC))
        for state in streams:
            self._add_point(state, time_utc, now_s)
        self._history = {name: tuple(measured.points) for name, measured in self._measured.items()}
        engine = control.engine
        run = RunState(
            engine="" if engine is None else engine.name,
            precision="" if engine is None else engine.precision,
            device="" if engine is None else engine.device,
            model="" if engine is None else engine.model,
            fps=round(sum(state.fps_processed for state in streams), 2),
            uptime_s=round(now_s - self._began_s, 1),
            has_token=self._has_token,
        )
        return State(time_utc=time_utc, run=run, streams=streams)

    def _stream(
        self, name: str, view: SourceView, stream: Stream | None, live: LiveStatus | None, failure: str | None,
        now_s: float,
    ) -> StreamState:  # fmt: skip
        measured = self._measured[name]
        if measured.stream is not stream:
            measured.stream, measured.dropped = stream, 0
            measured.samples.clear()
        if stream is not None and not (measured.samples and now_s - measured.samples[-1].at_s < TICK_S / 2):
            stats = stream.stats
            measured.samples.append(Sample(now_s, stats.captured + stream.source.dropped, stats.processed))
        rates = [sample for sample in measured.samples if now_s - sample.at_s <= _RATES_S + TICK_S / 2]
        word, error = ("failed", failure) if failure else _state_of(stream)
        shown = view.settings
        return StreamState(
            name=name,
            state=word,
            lost_s=None if stream is None or stream.source.lost_s is None else round(stream.source.lost_s, 1),
            size_wh=live.size_wh if live is not None else None if stream is None else stream.source.info.size_wh,
            live=stream is not None and stream.source.info.live,
            fps_captured=_rate([(sample.at_s, sample.captured) for sample in rates]),
            fps_processed=_rate([(sample.at_s, sample.processed) for sample in rates]),
            latency_ms=None if stream is None else _latency(stream, measured.samples),
            frames=0 if stream is None else stream.stats.processed,
            dropped=0 if stream is None else stream.dropped,
            reconnects=0 if stream is None else stream.source.reconnects,
            damaged=0 if stream is None else stream.source.damaged,
            counts={} if live is None or word != "running" else live.counts,
            viewers=0 if live is None else live.viewers,
            viewer_skips=0 if live is None else live.viewer_skips,
            codec=None if live is None else live.codec,
            view="packets" if live is not None and live.view == "packets" else "encoded",
            conf=shown.conf,
            classes=shown.classes,
            overlay=shown.overlay,
            error=None if error is None else without_places(error),
        )

    def _add_point(self, state: StreamState, time_utc: str, now_s: float) -> None:
        measured = self._measured[state.name]
        if now_s - measured.point_at_s < POINT_S - TICK_S / 2:
            return
        measured.point_at_s = now_s
        measured.points.append(
            HistoryPoint(
                t_utc=time_utc,
                fps=state.fps_processed,
                latency_p95_ms=None if state.latency_ms is None else state.latency_ms.p95,
                dropped=max(0, state.dropped - measured.dropped),
                counts=state.counts,
            )
        )
        measured.dropped = state.dropped


def _state_of(stream: Stream | None) -> tuple[StateWord, str | None]:
    """Returns a stream's state in a word, and what failed of it."""
    if stream is None:
        return "connecting", None
    errors = stream.failures.errors
    error = "; ".join(str(each) for _, each in errors) or None
    if stream.inference.input.queue.is_closed:
        has_failed = stream.failures.source_error is not None or len(errors) >= len(stream.sinks)
        return ("failed" if has_failed else "ended"), error
    if stream.source.lost_s is not None:
        return ("reconnecting" if stream.stats.captured else "connecting"), error
    return ("running" if stream.stats.captured else "connecting"), error


def _rate(counts: Sequence[tuple[float, int]]) -> float:
    """Returns the increase of a counter a second, from moments and values."""
    if len(counts) < 2 or counts[-1][0] <= counts[0][0]:
        return 0.0
    return round((counts[-1][1] - counts[0][1]) / (counts[-1][0] - counts[0][0]), 2)


def _latency(stream: Stream, samples: Sequence[Sample]) -> Latency | None:
    """Returns the latency of the frames since the first sample; None where there is none."""
    frames = stream.stats.processed - (samples[0].processed if len(samples) > 1 else 0)
    found = stream.stats.latency_ms.percentiles(50, 95, last=frames) if frames > 0 else None
    return None if found is None else Latency(p50=round(found[0], 1), p95=round(found[1], 1))
