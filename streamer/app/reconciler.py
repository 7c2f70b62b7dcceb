"""Makes the streams of a run those that a configuration asks for, while the run goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamer.app.config import StreamConfig
from streamer.app.entries import Entry, entries_of
from streamer.app.overrides import FILTER_KEYS
from streamer.common.errors import SourceError, StreamerError, one_line
from streamer.common.queues import Closed

if TYPE_CHECKING:
    from streamer.app.stream_factory import StreamFactory
    from streamer.detector.base import Detector
    from streamer.runtime.pipeline import Pipeline
    from streamer.sources.base import Source

log = logging.getLogger(__name__)

SOON_S = 0.02
_FOLLOWED = ("source", "overrides", "policy", "max_fps", "detect_every", "overlay", "track", *FILTER_KEYS)


class StreamReconciler:
    """Starts, changes, replaces and removes the streams of a pipeline. Its methods may be called on any thread.

    - Each new source opens on its own thread; one that fails is warned of, counts as a failure of the run, and is tried
      again when `apply` is told to.
    - What `Entry.in_place` has applies immediately. Any other change restarts the source. The replacement opens first,
      and the old stream ends only once that gives frames; see `_can_open_beside`.
    - Scores and classes that no source wanted before are reported from then on, where the detectors can.
    """

    def __init__(
        self,
        config: StreamConfig,
        factory: StreamFactory,
        pipeline: Pipeline,
        detectors: Sequence[Detector],
        ended: threading.Event,
    ) -> None:
        """Takes over what runs.

        Args:
            config: the run, as it was opened.
            factory: opens streams.
            pipeline: whose streams are changed.
            detectors: all of the run; they stay the caller's.
            ended: set once the run is over.
        """
        self._config = self._found = config
        self._factory, self._pipe, self._detectors, self._ended = factory, pipeline, detectors, ended
        self._wanted = entries_of(config)
        self._running = dict(self._wanted)  # as each stream was opened
        self._pending: dict[str, _Opening] = {}  # until a stream of that name has ended
        self._opening: dict[str, _Opening] = {}
        self._failed: dict[str, str] = {}  # since the configuration was last applied with `retries`
        self._lock = threading.RLock()  # guards all of these

    @property
    def has_pending(self) -> bool:
        """Whether `start_pending` is to be called soon."""
        return bool(self._pending)

    @property
    def config(self) -> StreamConfig:
        """The configuration as it was last applied; keys that can't change are as the run began."""
        return self._config

    def unopened(self) -> Mapping[str, str | None]:
        """Returns the wanted sources that have no stream: why not, None for those that are being opened."""
        with self._lock:
            active = self._active()
            opening = dict.fromkeys((*self._pending, *self._opening))
            return {name: why for name, why in {**self._failed, **opening}.items() if name not in active}

    def apply(self, found: StreamConfig, *, retries: bool = True) -> None:
        """Starts, changes and removes streams as a configuration says now; keys that can't change are warned of.

        Args:
            found: checked by `StreamFilters.check`.
            retries: whether sources that failed to open are tried again.
        """
        with self._lock:
            self._apply(found, retries=retries)

    def _apply(self, found: StreamConfig, *, retries: bool) -> None:
        self._warn_of_fixed_keys(found)
        self._config = self._config.model_copy(update={key: getattr(found, key) for key in _FOLLOWED})
        before, self._wanted = self._wanted, entries_of(self._config)
        failed: Mapping[str, str] = {}
        if retries:
            failed, self._failed = self._failed, {}
        self._report_more()
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

    def _report_more(self) -> None:
        """Has the detectors report scores and classes that only now are wanted, after every stream drops them."""
        missing = self._factory.filters.missing(self._config, self._detectors)
        if missing is None:
            return
        self._factory.filters.detected = missing
        for name in {stream.name for stream in self._pipe.streams} & self._running.keys():
            self._pipe.change(name, **self._in_place(self._running[name]))
        for detector in self._detectors:
            detector.report(missing.conf, missing.classes)

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
        if running is not None and not running.needs_restart(entry):  # it is back at what runs
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
        name = entry.spec.name
        info = next((stream.source.info for stream in self._pipe.streams if stream.name == name), None)
        filters = self._factory.filters
        keep = filters.keep_for(name, entry.overrides, info)
        return {**entry.in_place, "keep": keep, "begin_scores": filters.begin_scores(entry.overrides)}

    def _cancel(self, name: str) -> None:
        """Drops what is being opened under a name, and the failure noted of it."""
        self._opening.pop(name, None)
        self._failed.pop(name, None)
        dropped = self._pending.pop(name, None)
        if dropped is not None:
            dropped.hold.close()
        self._pipe.note_unadded(name, None)

    def _remove(self, name: str) -> None:
        self._factory.release_name(name)
        if name in self._active():
            self._pipe.remove(name)

    def _active(self) -> set[str]:
        return {stream.name for stream in self._pipe.streams if not stream.is_removed}

    def start_pending(self) -> None:
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
            if self._ended.wait(SOON_S):
                raise Closed

    def _is_wanted(self, name: str, opening: _Opening) -> bool:
        return self._opening.get(name) is opening and not self._ended.is_set()

    def _require_wanted(self, name: str, opening: _Opening) -> None:
        if not self._is_wanted(name, opening):
            raise Closed("" if self._ended.is_set() else "it has changed again")

    def _note_failure(self, name: str, message: str) -> None:
        log.warning("%s", one_line(message))
        self._failed[name] = message
        self._pipe.note_unadded(name, SourceError(message))


@dataclass(frozen=True, eq=False)
class _Opening:
    """A stream to be added; `hold` keeps the run from ending before."""

    entry: Entry
    config: StreamConfig
    hold: ExitStack
