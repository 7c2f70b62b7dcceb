"""Starting decoding processes, and giving them sources."""

from __future__ import annotations

import logging
import os
import selectors
import sys
import threading
import time
from dataclasses import replace

from streamer.closing import Closing
from streamer.errors import ConfigError
from streamer.sources.base import Source
from streamer.sources.options import SourceOptions
from streamer.sources.processes.process import LONGEST_REST_S, Process, Successor

log = logging.getLogger(__name__)

_LEAST, _SOURCES_EACH = 2, 16
_WORTH_IT = 4
_PATIENCE_S = 2.0
_LEAST_BETWEEN_S = 0.002
_LOOK_S = 1.0


def processes_for(videos: int, cores: int) -> int:
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


class DecodingProcesses(Closing):
    """Some processes that read and decode sources for this one, and the thread that hears what they say.

    One that is gone is followed by another, which reaches its live sources again. Where that is soon gone too, each
    half of them gets its own, so that a source that kills whatever decodes it is before long alone.
    """

    def __init__(self, count: int) -> None:
        """Starts them, and returns at once.

        Raises:
            ConfigError: if this system can't have them.
        """
        if not is_possible():
            raise ConfigError(f"decoding processes need Linux, this is {sys.platform}: use --decode-processes 0")
        self._processes: list[Process] = []
        self._awaited: list[Successor] = []
        self._is_closing = False
        self._lock = threading.Lock()  # no process may be started once they are being ended
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._hear, name="hear", daemon=True)
        try:
            for _ in range(count):
                self._start()
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def open(self, uri: str, *, name: str | None = None, options: SourceOptions) -> Source:
        """Opens a source in the process that has the fewest, and returns at once; see `Source.wait_ready`."""
        processes = self._processes
        alive = [process for process in processes if process.is_alive]
        return min(alive or processes, key=lambda process: process.load).open(uri, name, options)

    def close(self) -> None:
        """Ends them, and the sources that are still open. Safe to call twice."""
        with self._lock:
            self._is_closing = True
            processes = list(self._processes)
        for process in processes:
            process.end()
        for process in processes:
            process.wait()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_S)
        self._selector.close()
        for process in processes:
            process.let_go()

    def _hear(self) -> None:
        """Hands on what they say until all are ended. Not at once where much is said: waking costs more than it."""
        looked_s = time.perf_counter()
        while self._selector.get_map() or not self._is_closing:
            woken_s = time.perf_counter()
            timeout_s = min([_LOOK_S, *(each.due_s - woken_s for each in self._awaited)])
            for key, _ in self._selector.select(timeout_s):
                process = key.fileobj
                assert isinstance(process, Process)
                if not process.hear():
                    self._selector.unregister(process)
                    process.let_go()
                    self._awaited += process.successors()
            for successor in [each for each in self._awaited if each.due_s <= time.perf_counter()]:
                self._awaited.remove(successor)
                self._follow(successor)
            if woken_s - looked_s > _LOOK_S:
                looked_s = woken_s
                for process in self._processes:
                    process.look()
            rest_s = _LEAST_BETWEEN_S - (time.perf_counter() - woken_s)
            if rest_s > 0:
                time.sleep(rest_s)
        for successor in self._awaited:
            successor.end()

    def _start(self, follows: Process | None = None, deaths: int = 0) -> Process | None:
        """Starts a process, in place of one that is gone, unless all are being ended.

        Raises:
            OSError: if the system has no room for it.
        """
        with self._lock:
            if self._is_closing:
                return None
            process = Process(deaths)
            self._processes = [*(each for each in self._processes if each is not follows), process]
            self._selector.register(process, selectors.EVENT_READ)
            return process

    def _follow(self, successor: Successor) -> None:
        """Starts a process in place of one that is gone; without room for it, again later."""
        try:
            process = self._start(successor.follows, successor.deaths)
        except OSError as error:
            log.warning("no decoding process can be started (%s); trying again", error)
            self._awaited.append(replace(successor, due_s=time.perf_counter() + LONGEST_REST_S))
            return
        if process is None:
            successor.end()
            return
        for source in successor.sources:
            process.adopt(source)
