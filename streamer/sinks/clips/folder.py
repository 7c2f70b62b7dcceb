"""A folder that one run writes clips into: its lock, its index, and what is to be done now and then."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, SinkError
from streamer.sinks.clips.clip import BESIDE, VIDEO_ENDINGS
from streamer.sinks.clips.mend import mend_at_start
from streamer.sinks.files import reason
from streamer.sinks.paths import OutputPaths, PathLock
from streamer.sinks.retention import SegmentRetention

log = logging.getLogger(__name__)

_TICK_S = 1.0
_COMPARE_S = 60.0


class Ticking(Protocol):
    """What has something to do now and then."""

    def tick(self) -> None:
        """Does what has become due, on any thread."""


class ClipFolder(Closeable):
    """Shared by all sources of a run that have their clips in one folder; a second run is refused.

    What an earlier run left half-done there is mended at the start.

    Attributes:
        path: the folder.
        index: its clips.
        retention: deletes old ones; None keeps all.
        paths: the paths of the run.
    """

    def __init__(self, path: Path, *, retention: SegmentRetention | None = None, paths: OutputPaths) -> None:
        """Makes the folder, if there is none, and opens its index.

        Raises:
            ConfigError: if another run writes clips there.
            SinkError: if it can't be made or written into.
        """
        self.path, self.retention, self.paths = path, retention, paths
        _make(path)
        try:
            self._lock = folder_lock(path)
        except ConfigError:
            raise ConfigError(f"another run writes clips into {path}: choose another folder") from None
        try:
            self.index = mend_at_start(path)
        except BaseException:
            self._lock.close()
            raise
        self._compared_s = time.monotonic()
        self._ticking: list[Ticking] = []
        self._changed = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"clips {path.name}", daemon=True)
        self._thread.start()

    def add(self, sink: Ticking) -> None:
        """Has a sink do what is due, about once a second."""
        with self._changed:
            self._ticking.append(sink)

    def remove(self, sink: Ticking) -> None:
        """Forgets a sink."""
        with self._changed:
            self._ticking = [other for other in self._ticking if other is not sink]

    def close(self) -> None:
        """Commits what waits for the index, and lets other runs write here. Safe to call twice.

        Raises:
            WriteError: if the index can't be written.
        """
        self._stopping.set()
        self._thread.join()
        try:
            self._prune()
            self.index.close()
        finally:
            self._lock.close()

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_S):
            with self._changed:
                due: list[Callable[[], None]] = [sink.tick for sink in self._ticking]
            for tick in due:
                try:
                    tick()
                except SinkError as error:
                    log.warning("%s", error)
            self._prune(rate_limited=True)

    def _prune(self, *, rate_limited: bool = False) -> None:
        """Deletes old clips, and now and then the rows of those that are gone."""
        if self.retention is None:
            return
        self.retention.prune(rate_limited=rate_limited)
        if not rate_limited or time.monotonic() - self._compared_s >= _COMPARE_S:
            self._compared_s = time.monotonic()
            self.forget_deleted()

    def forget_deleted(self) -> None:
        """Deletes the rows of clips whose video is gone, and what is left beside it; failures are logged."""
        try:
            known = self.index.ids()  # first: a clip that is begun meanwhile isn't gone
            names = {path.name for path in self.path.iterdir()}
            for clip_id in known:
                if any(f"{clip_id}{ending}" in names for ending in VIDEO_ENDINGS):
                    continue
                for ending in BESIDE:
                    if f"{clip_id}{ending}" in names:
                        (self.path / f"{clip_id}{ending}").unlink(missing_ok=True)
                self.index.remove(clip_id)
        except (OSError, SinkError) as error:
            log.warning("can't compare %s with its index: %s", self.path, reason(error))


def folder_lock(path: Path) -> PathLock:
    """Keeps a folder of clips to one run, or to what mends it; raises ConfigError if another has it."""
    return PathLock(path, "clips")


def _make(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        why = f"there is no folder {str(path.parent)!r}" if not path.parent.is_dir() else reason(error)
        raise SinkError(f"can't make the folder {path} for clips: {why}; choose another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise SinkError(f"can't write clips into {path}: permission denied; choose another folder")
