"""Starting decoding processes, and giving them sources."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.closing import Closing
from streamer.errors import ConfigError, StreamerError
from streamer.sources.base import Source, SourceInfo
from streamer.sources.options import SourceOptions
from streamer.sources.processes import messages
from streamer.sources.processes.board import SOURCES, Board
from streamer.sources.processes.remote import RemoteSource, gone
from streamer.sources.uri import default_name, is_stream, redact

if TYPE_CHECKING:
    from streamer.cuda.lending import Borrower

log = logging.getLogger(__name__)

_SOURCES_EACH = 16
_WORTH_IT = 4
_PATIENCE_S = 2.0


def processes_for(videos: int, cores: int) -> int:
    """Returns how many processes are to decode so many videos on a GPU, 0 where this one may do it itself.

    Args:
        videos: how many there are.
        cores: that this program may use.
    """
    if not is_possible() or videos < _WORTH_IT:
        return 0
    return max(1, min(-(-videos // _SOURCES_EACH), cores // 2))


def is_possible() -> bool:
    """Whether this system has what decoding processes need."""
    return hasattr(os, "memfd_create")


class DecodingProcesses(Closing):
    """Some processes that read and decode sources for this one."""

    def __init__(self, count: int) -> None:
        """Starts them, and returns at once.

        Raises:
            ConfigError: if this system can't have them.
        """
        if not is_possible():
            raise ConfigError(f"decoding processes need Linux, this is {sys.platform}: use --decode-processes 0")
        self._processes: list[_Process] = []
        try:
            for _ in range(count):
                self._processes.append(_Process())
        except BaseException:
            self.close()
            raise

    def open(self, uri: str, *, name: str | None = None, options: SourceOptions) -> Source:
        """Opens a source in the process that has the fewest, and returns at once; see `Source.wait_ready`."""
        return min(self._processes, key=lambda process: process.load).open(uri, name, options)

    def close(self) -> None:
        """Ends them. Safe to call twice; sources that are still open break off."""
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.wait()


class _Process:
    """One of them, and the thread that hears what it says."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            descriptor = Board.new()
            stack.callback(os.close, descriptor)
            self._board = Board(descriptor)
            self._connection = Connection(ours.detach())
            path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
            arguments = (theirs.fileno(), descriptor, logging.getLogger().getEffectiveLevel())
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "streamer.sources.processes.child", *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(theirs.fileno(), descriptor),
                stdin=subprocess.DEVNULL,
            )
        self._sources: dict[int, RemoteSource] = {}
        self._lock = threading.Lock()
        self._ending = False
        self._borrower: Borrower | None = None
        self._thread = threading.Thread(target=self._hear, name=f"hear {self._popen.pid}", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """How many sources it has."""
        return len(self._sources)

    def open(self, uri: str, name: str | None, options: SourceOptions) -> RemoteSource:
        name = name or default_name(uri)
        with self._lock:
            number = next((number for number in range(SOURCES) if number not in self._sources), None)
            if number is None:
                raise ConfigError(f"a decoding process has {SOURCES} sources already: use more --decode-processes")
            shown, live = (redact(uri), True) if is_stream(uri) else (uri, False)
            self._board.taken[number] = 0
            source = RemoteSource(number, SourceInfo(name, shown, live=live), self._say, self._board.taken)
            self._sources[number] = source
        if self._popen.poll() is not None:
            source.ended(gone(source.info, self._how_it_ended()))
        self._say(messages.Open(number, uri, name, options))
        return source

    def end(self) -> None:
        """Has it end; returns at once."""
        self._ending = True
        try:
            socket.socket(fileno=os.dup(self._connection.fileno())).shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already

    def wait(self) -> None:
        """Waits for its end, not for ever."""
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._thread.join(_PATIENCE_S)
        with self._lock:
            self._connection.close()
        if self._borrower is not None:
            self._borrower.close()

    def _say(self, message: object) -> None:
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                pass  # it is gone: `_hear` says so

    def _hear(self) -> None:
        error: StreamerError | None = None
        try:
            while True:
                for message in self._connection.recv():
                    self._take(message)
        except (EOFError, OSError):
            pass
        except StreamerError as failed:  # a picture can't be mapped
            error = failed
            self._popen.kill()
        for source in list(self._sources.values()):
            source.ended(None if self._ending else error or gone(source.info, self._how_it_ended()))

    def _take(self, message: object) -> None:
        if isinstance(message, messages.Given):
            self._sources[message.number].lent(message, self._borrowing().borrow(message.slot, message.turn))
        elif isinstance(message, messages.Copied):
            self._sources[message.number].arrive(message.frame)
        elif isinstance(message, messages.Told):
            self._sources[message.number].told(message.info, message.status)
        elif isinstance(message, messages.Lent):
            self._borrowing().add(message.slot, message.handle)
        elif isinstance(message, messages.Freed):
            self._borrowing().drop(message.slot)
        elif isinstance(message, messages.Looks):
            self._sources[message.number].looks(message)
        elif isinstance(message, messages.Opened):
            self._sources[message.number].opened(message.info, message.status)
        elif isinstance(message, messages.Refused):
            self._sources[message.number].refused(message.info, message.error)
        elif isinstance(message, messages.Ended):
            self._sources[message.number].ended(message.error, message.status)
        elif isinstance(message, messages.Gone):
            with self._lock:
                del self._sources[message.number]

    def _borrowing(self) -> Borrower:
        if self._borrower is None:
            from streamer.cuda.lending import Borrower

            self._borrower = Borrower(self._board.returned)
        return self._borrower

    def _how_it_ended(self) -> str:
        try:
            status = self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return "no longer answers"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
