"""The life of a run: opening, following the configuration file, adding, replacing and removing sources, the end."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.app.config import StreamConfig
from streamer.app.entries import Entry, entries_of
from streamer.app.overrides import FILTER_KEYS
from streamer.app.watched_file import WatchedFile
from streamer.common.closeable import Closeable
from streamer.common.errors import SourceError, StreamerError, one_line
from streamer.common.queues import Closed

if TYPE_CHECKING:
    from streamer.app.stream_factory import StreamFactory
    from streamer.detector.base import Detector
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport
    from streamer.sources.base import Source

log = logging.getLogger(__name__)

POLL_S = 0.5
_SOON_S = 0.02
_FOLLOWED = ("source", "overrides", "policy", "max_fps", "detect_every", *(set(FILTER_KEYS) - {"conf", "classes"}))


def run(config: StreamConfig, on_poll: Callable[[Pipeline], None] | None = None) -> RunReport:
    """Runs a configuration from beginning to end; see `Run` for the arguments and what it raises."""
    with Run.open(config) as opened:
        return opened.execute(on_poll)


class Run(Closeable):
    """One run. `open` it, `execute` it once, close it.

    With a configuration file to follow, sources that are added to the file, changed or removed there start, change and
    stop during the run:

    - A file that is gone, being written, wrong, or names no source changes nothing, and is warned of.
    - Each new source opens on its own thread; one that fails is warned of, counts as a failure of the run, and is tried
      again when the file changes.
    - A changed priority, `max_fps` or `detect_every` applies immediately. Any other change restarts the source. The
      replacement opens first, and the old stream ends only once that gives frames; see `_can_open_beside`.

    Attributes:
        pipeline: None until `execute`.
        report: what the run did, once `execute` has ended, also when it raised.
    """

    def __init__(
        self,
        config: StreamConfig,
        factory: StreamFactory,
        sources: Sequence[Source],
        detectors: Sequence[Detector],
        file: WatchedFile[StreamConfig] | None = None,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        """Takes over all that is open: the sources of `config`, the factory of its streams, the detectors.

        `file` is the configuration to follow, None for none; it is polled every `poll_s` seconds.
        """
        self.report: RunReport | None = None
        self._config = self._found = config
        self._factory, self._sources, self._detectors = factory, sources, detectors
        self._file, self._poll_s = file, poll_s
        self._resources = ExitStack()
        self._unowned = ExitStack()  # what the pipeline hasn't taken over yet
        self.pipeline: Pipeline | None = None
        self._wanted = entries_of(config)
        self._running = dict(self._wanted)  # as each stream was opened
        self._pending: dict[str, _Opening] = {}  # until a stream of that name has ended
        self._opening: dict[str, _Opening] = {}
        self._failed: set[str] = set()  # since the file changed last
        self._lock = threading.Lock()  # guards all of these
        self._closed = threading.Event()
        self._follower: threading.Thread | None = None

    @classmethod
    def open(
        cls, config: StreamConfig, config_file: Path | None = None, reread: Callable[[], StreamConfig] | None = None
    ) -> Run:
        """Opens the sources and the detectors.

        Args:
            config: the run.
            config_file: where it was read from; it is followed, and no output may replace it.
            reread: reads that file again; raises `StreamerError`.

        Raises:
            StreamerError: if the configuration contradicts itself, or a source or the detector can't be opened.
        """
        from streamer.app.stream_factory import StreamFactory
        from streamer.detector import open_detectors

        with ExitStack() as resources, ExitStack() as unowned:
            factory = resources.enter_context(StreamFactory(config, config_file))
            sources = factory.open_sources(unowned)
            is_realtime = any(source.info.pace(paced=factory.paced).is_realtime for source in sources)
            several = len(sources) > 1
            detectors = open_detectors(
                config.model,
                model_config=config.model_config_file,
                engine=config.engine,
                device=config.device,
                precision=config.precision,
                conf=factory.detected.conf,
                iou=config.iou,
                classes=factory.detected.classes,
                depth=config.depth or (1 if is_realtime and not several else None),
                batch=config.batch if several else None,
                streams=len(sources),
                live=is_realtime,
                self_check=config.self_check,
            )
            file = WatchedFile(config_file, reread) if config_file is not None and reread is not None else None
            opened = cls(config, factory, sources, detectors, file)
            opened._resources, opened._unowned = resources.pop_all(), unowned.pop_all()
        return opened

    def execute(self, on_poll: Callable[[Pipeline], None] | None = None) -> RunReport:
        """Opens the outputs and runs to the end.

        Args:
            on_poll: called about fifty times a second on this thread.

        Raises:
            StreamerError: if an output can't be opened, or anything fails; every output is closed by then.
        """
        from streamer.runtime.pipeline import Pipeline

        def poll(pipeline: Pipeline) -> None:
            if on_poll is not None:
                on_poll(pipeline)
            self._keep_following()

        config = self._config
        pipeline = self.pipeline = Pipeline(
            self._factory.open_streams(self._sources, self._detectors[0].labels, self._unowned),
            self._detectors,
            max_frames=config.max_frames,
            batch_timeout_s=config.batch_timeout / 1e3,
            on_poll=poll,
        )
        for info in (detector.info for detector in self._detectors):
            engine = f"engine {info.name}, precision {info.precision}"
            log.info("%s, device %s, model %s", engine, info.device, info.model)
        self._factory.placement.choose = pipeline.least_loaded_gpu
        self._unowned.pop_all()  # the pipeline closes sources and sinks, each on the thread that uses it
        gc.freeze()  # the collection after a lost source then skips all that is there now
        try:
            return pipeline.run(config.duration)
        finally:
            gc.unfreeze()
            self._closed.set()
            self.report = pipeline.report()
            if config.report is not None:
                self.report.write(config.report)

    def close(self) -> None:
        """Stops following and closes what is still open; doesn't wait for a file that hangs."""
        self._closed.set()
        self._unowned.close()
        failed = () if self.pipeline is None else self.pipeline.failed_detectors
        for detector in self._detectors:
            if detector not in failed:  # a GPU that hangs would hang this too
                detector.close()
        self._resources.close()

    def _keep_following(self) -> None:
        """Starts following the file once the pipeline runs, and warns where reading it hangs."""
        if self._file is None:
            return
        if self._follower is None:
            self._follower = threading.Thread(target=self._follow, name="follow", daemon=True)
            self._follower.start()
        self._file.warn_if_it_hangs()

    def _follow(self) -> None:
        polled_s = float("-inf")
        while not self._closed.wait(_SOON_S if self._pending else self._poll_s):
            try:
                if time.monotonic() - polled_s >= self._poll_s:
                    polled_s = time.monotonic()
                    self._reread()
                self._start_pending()
            except Exception as error:
                log.error("the configuration can't be followed: %s", one_line(f"{type(error).__name__}: {error}"))
                log.debug("traceback", exc_info=True)
                self._closed.wait(self._poll_s)

    def _reread(self) -> None:
        assert self._file is not None
        try:
            found = self._file.poll()
            if found is not None:
                self._factory.check_filters(found)
        except StreamerError as error:
            log.warning("%s has changed and can't be followed: %s", self._file.path, error)
            return
        if found is not None:
            with self._lock:
                self._apply(found)

    def _apply(self, found: StreamConfig) -> None:
        """Starts, changes and removes streams as the file says now."""
        self._warn_of_fixed_keys(found)
        self._config = self._config.model_copy(update={key: getattr(found, key) for key in _FOLLOWED})
        before, self._wanted = self._wanted, entries_of(self._config)
        failed, self._failed = self._failed, set()
        for name in before.keys() - self._wanted.keys():
            log.info("source %r is removed", name)
            self._cancel(name)
            self._remove(name)
        active = self._active() | self._pending.keys() | self._opening.keys()
        for name, entry in self._wanted.items():
            old = before.get(name)
            is_again = name in failed or (old is not None and old.needs_restart(entry))
            if old is None or is_again or (old != entry and name not in active):
                self._open(name, entry)
            elif old != entry:
                self._change(name, entry)

    def _warn_of_fixed_keys(self, found: StreamConfig) -> None:
        before, self._found = self._found, found
        changed = [key for key in StreamConfig.model_fields if getattr(found, key) != getattr(before, key)]
        others = ", ".join(sorted(set(changed) - set(_FOLLOWED)))
        if others:
            log.warning("%s can't change during a run: restart it", others)

    def _open(self, name: str, entry: Entry) -> None:
        """Has a new or changed source opened: at once beside the stream of that name, or once that has ended."""
        self._cancel(name)
        running = self._running.get(name) if name in self._active() else None
        if running is not None and not running.needs_restart(entry):  # the file is back at what runs
            self._change(name, entry)
            return
        opening = _Opening(entry, self._config, ExitStack())
        opening.hold.enter_context(self._pipe.expecting())
        if running is None:
            self._pending[name] = opening
            return
        log.info("restarting source %r", name)
        if self._can_open_beside(name, running, entry):
            self._opening[name] = opening
            self._launch(name, opening)
            return
        try:
            self._factory.check_outputs(self._config, name)
        except StreamerError as error:
            opening.hold.close()
            self._note_failure(name, f"source {name!r} can't be restarted: {error}")
            return
        self._remove(name)
        self._pending[name] = opening

    def _can_open_beside(self, name: str, running: Entry, entry: Entry) -> bool:
        """Whether a replacement may open beside the old stream: not of one webcam or URI, nor where the old is lost."""
        cameras = {other.spec.camera for other in self._running.values()} - {None}
        is_lost = any(stream.source.lost_s is not None for stream in self._pipe.streams if stream.name == name)
        return not (entry.spec.camera in cameras or is_lost or running.spec.uri == entry.spec.uri)

    def _change(self, name: str, entry: Entry) -> None:
        log.info("source %r has changed: %s", name, entry.in_place)
        if name in self._active():
            self._running[name] = entry
            self._pipe.change(name, **self._in_place(entry))

    def _in_place(self, entry: Entry) -> dict[str, Any]:
        """Returns the fields of `StreamSpec` that change without a restart."""
        return {**entry.in_place, "keep": self._factory.keep_for(entry.spec.name, entry.overrides)}

    def _cancel(self, name: str) -> None:
        """Drops what is being opened under a name, and the failure noted of it."""
        self._opening.pop(name, None)
        dropped = self._pending.pop(name, None)
        if dropped is not None:
            dropped.hold.close()
        self._pipe.note_unadded(name, None)

    def _remove(self, name: str) -> None:
        self._factory.release_name(name)
        if name in self._active():
            self._pipe.remove(name)

    @property
    def _pipe(self) -> Pipeline:
        assert self.pipeline is not None, "only a run that is executed follows its configuration"
        return self.pipeline

    def _active(self) -> set[str]:
        return {stream.name for stream in self._pipe.streams if not stream.is_removed}

    def _start_pending(self) -> None:
        """Opens the pending sources whose name is free."""
        taken = {stream.name for stream in self._pipe.streams}
        with self._lock:
            for name in self._pending.keys() - taken:
                opening = self._opening[name] = self._pending[name]
                self._launch(name, opening)
                del self._pending[name]  # stays, to be tried again, where the system allows no more threads

    def _launch(self, name: str, opening: _Opening) -> None:
        threading.Thread(target=self._add, args=(name, opening), name=f"open {name}", daemon=True).start()

    def _add(self, name: str, opening: _Opening) -> None:
        """Opens a source, ends the stream that it replaces, if any, and adds it; runs on a thread of its own."""
        replaces = name in self._active()
        with opening.hold, ExitStack() as unowned:
            try:
                source = self._factory.open_source(opening.config, opening.entry.spec, patient=not replaces)
                unowned.callback(source.close)
                if replaces:
                    self._end_replaced(name, opening, source)
                with self._lock:
                    self._require_wanted(name, opening)
                    entry = self._wanted[name]
                    spec = self._factory.open_stream(opening.config, source)
                    for _, sink in spec.sinks:
                        unowned.callback(sink.close_after_error)
                    self._pipe.add(replace(spec, **self._in_place(entry)))
                    unowned.pop_all()
                    self._running[name] = entry
                    del self._opening[name]
            except Closed as error:
                log.info("source %r isn't added: %s", name, str(error) or "the run is ending")
            except Exception as error:
                is_kept = replaces and name in self._active()
                what = "can't be replaced, the old one continues" if is_kept else "can't be added"
                said = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
                with self._lock:
                    if self._is_wanted(name, opening):
                        del self._opening[name]
                        self._note_failure(name, f"source {name!r} {what}: {said}")
            else:
                log.info("source %r is added", name)

    def _end_replaced(self, name: str, opening: _Opening, source: Source) -> None:
        """Ends the stream that a source replaces, once all that can be checked before is, and waits for its end.

        Raises Closed if the source isn't wanted any more, StreamerError if its outputs can't be opened; the old stream
        continues then.
        """
        with self._lock:
            self._require_wanted(name, opening)
            self._factory.check_outputs(opening.config, name, source.info)
            self._remove(name)
        while any(stream.name == name for stream in self._pipe.streams):
            if self._closed.wait(_SOON_S):
                raise Closed

    def _is_wanted(self, name: str, opening: _Opening) -> bool:
        return self._opening.get(name) is opening and not self._closed.is_set()

    def _require_wanted(self, name: str, opening: _Opening) -> None:
        if not self._is_wanted(name, opening):
            raise Closed("" if self._closed.is_set() else "the file has changed again")

    def _note_failure(self, name: str, message: str) -> None:
        log.warning("%s", one_line(message))
        self._failed.add(name)
        self._pipe.note_unadded(name, SourceError(message))


@dataclass(frozen=True, eq=False)
class _Opening:
    """A stream to be added; `hold` keeps the run from ending before."""

    entry: Entry
    config: StreamConfig
    hold: ExitStack
