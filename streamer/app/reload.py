"""A run that follows its configuration file: sources that are added, changed or removed there come, change and go."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.app.config import SourceOverrides, StreamConfig
from streamer.app.watched_file import WatchedFile
from streamer.common.closeable import Closeable
from streamer.common.errors import SourceError, StreamerError, one_line
from streamer.common.queues import Closed
from streamer.sources.spec import SourceSpec

if TYPE_CHECKING:
    from streamer.runtime.pipeline import Pipeline, StreamSpec

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_BEGIN_S = 0.02
_IN_PLACE = ("priority", "max_fps", "detect_every")
_FOLLOWED = ("source", "overrides", "policy", "max_fps", "detect_every")

Open = Callable[[StreamConfig, SourceSpec, Callable[[], bool]], "StreamSpec"]


@dataclass(frozen=True)
class _Wanted:
    """A source as the configuration has it."""

    spec: SourceSpec
    overrides: SourceOverrides

    def restarts(self, other: _Wanted) -> bool:
        """Whether going over to `other` means to begin anew, and not only another share of the machine."""
        return self.spec != other.spec or any(
            getattr(self.overrides, key) != getattr(other.overrides, key)
            for key in SourceOverrides.model_fields
            if key not in _IN_PLACE
        )


@dataclass(frozen=True, eq=False)
class _Opening:
    """A stream that is to come; `held` keeps the run from ending meanwhile."""

    held: ExitStack


class Watcher(Closeable):
    """Looks at the file twice a second, and brings the pipeline's streams to what it says.

    That happens on a thread of its own, so that a file on a mount that hangs holds up nothing else. A file that is
    being written is left alone until it has stayed the same from one look to the next. One that is gone, names no
    source, can't be read or is wrong changes nothing, and is warned of. Each source is opened on another thread; one
    that can't be opened is warned of, counts as a failure of the run, and is tried again when the file changes. A
    source whose URI, policy or outputs change is ended and begun anew; a change of priority or budget takes hold at
    once.
    """

    def __init__(
        self,
        path: Path,
        config: StreamConfig,
        read: Callable[[], StreamConfig],
        open_plan: Open,
        forget: Callable[[str], None],
    ) -> None:
        """Begins with what is running. The first look reads the file: it may have changed since `config` was read.

        Args:
            path: the file to look at.
            config: what the run began with.
            read: reads the file again; raises `StreamerError`.
            open_plan: opens a source, written as in `StreamConfig.source`, and its outputs; raises `StreamerError`.
                Called on several threads. What it is given last says whether the source is still wanted.
            forget: told the name of a source that is removed.
        """
        self._path, self._open, self._forget = path, open_plan, forget
        self._file = WatchedFile(path, read)
        self._config = self._found = config
        self._begun = _wanted(config)
        self._awaited: dict[str, _Opening] = {}  # until their name is free
        self._opening: dict[str, _Opening] = {}
        self._failed: set[str] = set()  # couldn't be added since the file changed last
        self._lock = threading.Lock()  # between the file's word on a stream and the stream's beginning
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self, pipeline: Pipeline) -> None:
        """Begins to follow the file, and warns where it hangs; returns at once. Always called on the same thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, args=(pipeline,), name="follow", daemon=True)
            self._thread.start()
        self._file.warn_if_it_hangs()

    def close(self) -> None:
        """Stops looking, and doesn't wait for a look that hangs."""
        self._closed.set()

    def _follow(self, pipeline: Pipeline) -> None:
        looked_s = float("-inf")
        while not self._closed.wait(_BEGIN_S if self._awaited else _LOOK_S):
            try:
                if time.monotonic() - looked_s >= _LOOK_S:
                    looked_s = time.monotonic()
                    self._look(pipeline)
                self._begin_awaited(pipeline)
            except Exception as error:
                log.error("%s can't be followed: %s", self._path, one_line(f"{type(error).__name__}: {error}"))
                log.debug("traceback", exc_info=True)
                self._closed.wait(_LOOK_S)

    def _look(self, pipeline: Pipeline) -> None:
        try:
            found = self._file.look()
            if found is not None:
                with self._lock:
                    self._apply(pipeline, found)
        except StreamerError as error:
            log.warning("%s has changed and can't be followed: %s", self._path, error)

    def _apply(self, pipeline: Pipeline, found: StreamConfig) -> None:
        """Removes and changes streams as the file now says, and notes which are to come."""
        config = self._config.model_copy(update={key: getattr(found, key) for key in _FOLLOWED})
        wanted, begun = _wanted(config), self._begun
        self._tell_what_cannot_change(found)
        running = {stream.name for stream in pipeline.streams if not stream.is_removed}
        on_their_way = self._awaited.keys() | self._opening.keys()
        gone = [name for name in begun if name not in wanted]
        anew = [
            name
            for name, old in begun.items()
            if name in wanted
            and (
                name in self._failed
                or old.restarts(wanted[name])
                or (old != wanted[name] and name not in running | on_their_way)
            )
        ]
        changed = [name for name, old in begun.items() if name in wanted and old != wanted[name] and name not in anew]
        self._begun, self._config = wanted, config
        self._failed.clear()
        dropped = [opening for name in gone + anew if (opening := self._awaited.pop(name, None)) is not None]
        for name in [*anew, *(name for name in wanted if name not in begun)]:
            self._awaited[name] = opening = _Opening(ExitStack())
            opening.held.enter_context(pipeline.expecting())
        for opening in dropped:
            opening.held.close()
        for name in gone + anew:
            log.warning("source %r is %s", name, "begun anew" if name in wanted else "removed")
            self._opening.pop(name, None)
            pipeline.note_unadded(name, None)
            self._forget(name)
            if name in running:
                pipeline.remove(name)
        for name in changed:
            overrides = wanted[name].overrides
            log.warning("source %r has changed: %s", name, overrides.model_dump(include=set(_IN_PLACE)))
            if name in running:
                pipeline.change(name, **_in_place(overrides))

    def _tell_what_cannot_change(self, found: StreamConfig) -> None:
        others = sorted(
            key
            for key in StreamConfig.model_fields
            if key not in _FOLLOWED and getattr(found, key) != getattr(self._found, key)
        )
        self._found = found
        if others:
            log.warning("%s: %s can't change while the run goes on; start it again", self._path, ", ".join(others))

    def _begin_awaited(self, pipeline: Pipeline) -> None:
        """Begins to open those streams whose name is free."""
        running = {stream.name for stream in pipeline.streams}
        for name in [name for name in self._awaited if name not in running]:
            opening = self._opening[name] = self._awaited[name]
            job = (pipeline, name, self._begun[name], self._config, opening)
            threading.Thread(target=self._add, args=job, name=f"open {name}", daemon=True).start()
            del self._awaited[name]  # still there, to be tried again, where the system has no room for a thread

    def _add(self, pipeline: Pipeline, name: str, wanted: _Wanted, config: StreamConfig, opening: _Opening) -> None:
        with opening.held:
            try:
                plan = self._open(config, wanted.spec, lambda: self._is_wanted(name, opening))
            except Exception as error:
                said = str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"
                log.warning("source %r can't be added: %s", name, one_line(said))
                self._ends(pipeline, name, opening, said)
                return
            try:
                with self._lock:
                    if not self._is_wanted(name, opening):
                        raise Closed("the file has changed again")
                    pipeline.add(replace(plan, **_in_place(self._begun[name].overrides)))
                    del self._opening[name]
            except (StreamerError, Closed) as error:
                log.warning("source %r isn't added: %s", name, str(error) or "the run is ending")
                self._ends(pipeline, name, opening, str(error))
                plan.source.close()
                for _, sink in plan.sinks:
                    with contextlib.suppress(StreamerError):
                        sink.close()
                return
            log.warning("source %r is added", name)

    def _is_wanted(self, name: str, opening: _Opening) -> bool:
        return self._opening.get(name) is opening and not self._closed.is_set()

    def _ends(self, pipeline: Pipeline, name: str, opening: _Opening, why: str) -> None:
        with self._lock:
            if self._opening.get(name) is opening:
                del self._opening[name]
                self._failed.add(name)
                if not self._closed.is_set():
                    pipeline.note_unadded(name, SourceError(f"source {name!r} can't be added: {why}"))


def _in_place(overrides: SourceOverrides) -> dict[str, Any]:
    return {"priority": overrides.priority, "max_fps": overrides.max_fps, "detect_every": overrides.detect_every or 1}


def _wanted(config: StreamConfig) -> dict[str, _Wanted]:
    """Returns what each source is to be, by name."""
    return {spec.name: _Wanted(spec, config.overrides_for(spec.name)) for spec in config.source}
