"""Starting decoding processes, and giving them sources."""

from __future__ import annotations

import logging
import os
import selectors
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, SourceError
from streamer.common.redaction import redact
from streamer.sources.base import Source, SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.uri import default_name, is_stream
from streamer.sources.workers.remote import RemoteSource
from streamer.sources.workers.worker_process import Process

log = logging.getLogger(__name__)

_LEAST, _SOURCES_EACH = 2, 16
_WORTH_IT = 4
_PATIENCE_S = 2.0
_LEAST_BETWEEN_S = 0.002
_LOOK_S, _LOOK_SOON_S = 1.0, 0.02
_MORE = 8  # processes above those wanted, to part sources
_LONGEST_REST_S, _AGAIN_S = 60.0, 5.0


def default_process_count(videos: int, cores: int) -> int:
    """Returns how many processes are to decode so many videos on a GPU, 0 where this one may do it itself.

    Args:
        videos: how many there are.
        cores: that this program may use.
    """
    if not is_possible() or videos < _WORTH_IT:
        return 0
    return max(1, min(max(_LEAST, -(-videos // _SOURCES_EACH)), cores // 2))


def is_possible() -> bool:
    """Whether this system has what decoding processes need."""
    return hasattr(os, "memfd_create")


class DecoderPool(Closeable):
    """Some processes that read and decode sources for this one, and the thread that hears what they say.

    One that is gone is followed by another, which reaches its live sources again. Where that is soon gone too, each
    half of them gets its own, so that a source that kills whatever decodes it is before long alone.
    """

    def __init__(self, count: int) -> None:
        """Starts them, and returns at once.

        Raises:
            ConfigError: if this system can't have them, or has no room for them.
        """
        if not is_possible():
            raise ConfigError(f"decoding processes need Linux, this is {sys.platform}: use --decode-processes 0")
        self._most = count + _MORE
        self._processes: list[Process] = []
        self._dying: list[Process] = []
        self._awaited: list[_Successor] = []
        self._is_closing = False
        self._lock = threading.Lock()  # of the processes: none may be started once they are being ended
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._hear_or_fail, name="hear", daemon=True)
        try:
            for _ in range(count):
                self._start()
            self._thread.start()
        except OSError as error:
            self.close()
            raise ConfigError(f"no decoding process can be started ({error}): use --decode-processes 0") from error
        except BaseException:
            self.close()
            raise

    def open(self, uri: str, *, name: str | None = None, options: SourceOptions) -> Source:
        """Opens a source in the process that has the fewest, and returns at once; see `Source.wait_ready`.

        Raises:
            ConfigError: if there is no more room for it.
        """
        shown, live = (redact(uri), True) if is_stream(uri) else (uri, False)
        source = RemoteSource(uri, SourceInfo(name or default_name(uri), shown, live=live), options)
        alive = [process for process in self._processes if process.is_alive]
        if alive:
            min(alive, key=lambda process: (process.deaths, process.load)).adopt(source)
            return source
        try:
            if not self._start(sources=[source]):
                source.ended(None)
        except OSError as error:
            source.ended(SourceError(f"source {shown!r} can't be opened: no process can be started ({error})"))
        return source

    def close(self) -> None:
        """Ends them, and the sources that are still open. Safe to call twice."""
        with self._lock:
            self._is_closing = True
            processes = self._processes
        for process in processes:
            process.end()
        for process in processes:
            process.wait()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)
        self._selector.close()
        for process in processes:
            process.let_go()

    def _hear_or_fail(self) -> None:
        try:
            self._hear()
        except Exception as error:
            failure = SourceError(f"decoding processes can't be heard: {type(error).__name__}: {error}")
            log.error("%s", failure)
            for process in self._processes:
                process.abandon(failure)
        for successor in self._awaited:
            successor.end()

    def _hear(self) -> None:
        """Hands on what they say until all are ended. Not at once where much is said: waking costs more than it."""
        looked_s = time.perf_counter()
        while self._selector.get_map() or self._dying or not self._is_closing:
            woken_s = time.perf_counter()
            for key, _ in self._selector.select(self._timeout_s(woken_s)):
                process = key.fileobj
                assert isinstance(process, Process)
                if not process.hear():
                    self._selector.unregister(process)
                    self._dying.append(process)
            for process in [each for each in self._processes if each.is_deaf]:
                process.flush()
            for process in [each for each in self._dying if each.is_over()]:
                self._dying.remove(process)
                self._bury(process)
            for successor in [each for each in self._awaited if each.due_s <= time.perf_counter()]:
                self._awaited.remove(successor)
                self._follow(successor)
            if woken_s - looked_s > _LOOK_S:
                looked_s = woken_s
                for process in self._processes:
                    process.look()
            rest_s = _LEAST_BETWEEN_S - (time.perf_counter() - woken_s)
            if rest_s > 0 and not any(process.is_receiving for process in self._processes):
                time.sleep(rest_s)

    def _timeout_s(self, now_s: float) -> float:
        is_soon = self._dying or any(process.is_deaf for process in self._processes)
        longest_s = _LOOK_SOON_S if is_soon else _LOOK_S
        return min([longest_s, *(each.due_s - now_s for each in self._awaited)])

    def _start(self, deaths: int = 0, sources: Sequence[RemoteSource] = ()) -> bool:
        """Starts a process, see there; returns False if all are being ended.

        Raises:
            OSError: if the system has no room for it.
        """
        with self._lock:
            if self._is_closing:
                return False
            process = Process(deaths, sources)
            self._processes = [*self._processes, process]
            self._selector.register(process, selectors.EVENT_READ)
            return True

    def _bury(self, process: Process) -> None:
        """Takes leave of a process that is gone, and has its live sources taken by others."""
        deaths = process.deaths + 1
        sources = process.leave()
        with self._lock:
            self._processes = [each for each in self._processes if each is not process]
        is_parted = deaths > 1 and len(sources) > 1 and len(self._processes) + len(self._awaited) + 2 <= self._most
        due_s = time.perf_counter() + (min(_LONGEST_REST_S, 2.0 ** (deaths - 2)) if deaths > 1 else 0.0)
        for part in (sources[::2], sources[1::2]) if is_parted else (sources,):
            self._awaited.append(_Successor(part, deaths, due_s))

    def _follow(self, successor: _Successor) -> None:
        """Starts a process in place of one that is gone; without room for it, again later."""
        sources = [source for source in successor.sources if source.is_wanted]
        if not sources:
            return
        try:
            if not self._start(successor.deaths, sources):
                successor.end()
        except OSError as error:
            log.warning("no decoding process can be started (%s); trying again in %g s", error, _AGAIN_S)
            self._awaited.append(replace(successor, due_s=time.perf_counter() + _AGAIN_S))


@dataclass(frozen=True)
class _Successor:
    """A process that is to be started.

    Attributes:
        sources: that it takes over.
        deaths: see `Process`.
        due_s: when to start it, as by `time.perf_counter`.
    """

    sources: list[RemoteSource]
    deaths: int
    due_s: float

    def end(self) -> None:
        """Ends the sources: it isn't to be."""
        for source in self.sources:
            source.ended(None)
