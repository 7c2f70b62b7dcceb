"""A run that follows its configuration file: sources that are added, changed or removed there come, change and go."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.config import SourceWishes, StreamConfig
from streamer.errors import ConfigError, StreamerError
from streamer.policy import Closed
from streamer.sources.uri import name_of

if TYPE_CHECKING:
    from streamer.pipeline import Pipeline, StreamPlan

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_IN_PLACE = ("priority", "max_fps", "detect_every")

Open = Callable[[StreamConfig, str], "StreamPlan"]


@dataclass(frozen=True)
class _Wanted:
    """A source as the configuration has it."""

    argument: str
    wishes: SourceWishes

    def restarts(self, other: _Wanted) -> bool:
        """Whether going over to `other` means to begin anew, and not only another share of the machine."""
        return self.argument != other.argument or any(
            getattr(self.wishes, key) != getattr(other.wishes, key)
            for key in SourceWishes.model_fields
            if key not in _IN_PLACE
        )


class Watcher:
    """Looks at the file twice a second, and brings the pipeline's streams to what it says.

    A file that is being written is left alone until it has stayed the same from one look to the next. One that can't be
    read or is wrong changes nothing, and is warned of. Sources are opened on threads of their own, so that nobody waits
    for a slow one; one that can't be opened is warned of, and tried again when its entry changes. A source whose URI,
    policy or outputs change is ended and begun anew; a change of priority or budget takes hold at once.
    """

    def __init__(
        self,
        path: Path,
        config: StreamConfig,
        read: Callable[[], StreamConfig],
        open_plan: Open,
        forget: Callable[[str], None],
    ) -> None:
        """Begins with what is running.

        Args:
            path: the file to look at.
            config: what the run began with.
            read: reads the file again; raises `StreamerError`.
            open_plan: opens a source, written as in `StreamConfig.source`, and its outputs; raises `StreamerError`.
                Called on several threads.
            forget: told the name of a source that is removed.
        """
        self._path, self._read, self._open, self._forget = path, read, open_plan, forget
        self._config = config
        self._begun = _wanted(config)
        self._awaited: dict[str, ExitStack] = {}  # what holds the run until the stream is there
        self._lock = threading.Lock()  # between the file's word on a stream and the stream's beginning
        self._seen = self._applied = _state(path)
        self._looked_s = time.monotonic()

    def poll(self, pipeline: Pipeline) -> None:
        """Looks, when it is time, and does what is to be done; returns at once. Always called on the same thread."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            before, self._seen = self._seen, _state(self._path)
            if self._seen == before and self._seen not in (None, self._applied):
                self._applied = self._seen
                with self._lock:
                    self._apply(pipeline)
        if self._awaited:
            self._begin_awaited(pipeline)

    def _apply(self, pipeline: Pipeline) -> None:
        """Removes and changes streams as the file now says, and notes which are to come."""
        try:
            config = self._read()
            wanted = _wanted(config)
        except StreamerError as error:
            log.warning("%s has changed and can't be followed: %s", self._path, error)
            return
        others = sorted(
            key
            for key in StreamConfig.model_fields
            if key not in ("source", "wishes") and getattr(config, key) != getattr(self._config, key)
        )
        if others:
            log.warning("%s: %s can't change while the run goes on; start it again", self._path, ", ".join(others))
        running = {stream.name for stream in pipeline.streams}
        gone = [name for name, old in self._begun.items() if name not in wanted or old.restarts(wanted[name])]
        for name in wanted:
            if (name not in self._begun or name in gone) and name not in self._awaited:
                self._awaited[name] = ExitStack()
                self._awaited[name].enter_context(pipeline.expecting())
        for name in [name for name in self._awaited if name not in wanted]:
            self._awaited.pop(name).close()
        for name in gone:
            log.warning("source %r is %s", name, "begun anew" if name in wanted else "removed")
            self._forget(name)
            if name in running:
                pipeline.remove(name)
        for name in running - set(gone):
            if name in wanted and self._begun[name] != wanted[name]:
                wishes = wanted[name].wishes
                log.warning("source %r has changed: %s", name, wishes.model_dump(include=set(_IN_PLACE)))
                pipeline.change(
                    name,
                    priority=wishes.priority,
                    max_fps=wishes.max_fps,
                    detect_every=wishes.detect_every or 1,
                )
        self._begun, self._config = wanted, config

    def _begin_awaited(self, pipeline: Pipeline) -> None:
        """Begins those streams whose name is free."""
        running = {stream.name for stream in pipeline.streams}
        for name in [name for name in self._awaited if name not in running]:
            job = (pipeline, name, self._begun[name], self._config, self._awaited.pop(name))
            threading.Thread(target=self._add, args=job, name=f"open {name}", daemon=True).start()

    def _add(self, pipeline: Pipeline, name: str, wanted: _Wanted, config: StreamConfig, held: ExitStack) -> None:
        with held:
            try:
                plan = self._open(config, wanted.argument)
            except StreamerError as error:
                log.warning("source %r can't be added: %s", name, error)
                return
            try:
                with self._lock:
                    if self._begun.get(name) != wanted:
                        raise Closed("the file has changed again")
                    pipeline.add(plan)
            except (StreamerError, Closed) as error:
                log.warning("source %r isn't added: %s", name, str(error) or "the run is ending")
                plan.source.close()
                for _, sink in plan.sinks:
                    with contextlib.suppress(StreamerError):
                        sink.close()
                return
            log.warning("source %r is added", name)


def _wanted(config: StreamConfig) -> dict[str, _Wanted]:
    """Returns what each source is to be, by name.

    Raises:
        ConfigError: if two have one name.
    """
    found: dict[str, _Wanted] = {}
    for argument in config.source:
        name = name_of(argument)
        if name in found:
            raise ConfigError(f"two sources are named {name!r}: name them, as in door={argument}")
        found[name] = _Wanted(argument, config.wishes_of(name))
    return found


def _state(path: Path) -> tuple[int, int, int] | None:
    """Returns what tells one state of a file from another; None where it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
