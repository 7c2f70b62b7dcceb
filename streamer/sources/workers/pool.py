"""A pool of decoding workers: it starts them, spreads the sources over them, and respawns those that crash."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, SourceError
from streamer.sources.base import Source
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceKind, SourceSpec
from streamer.sources.workers.remote import RemoteSource
from streamer.sources.workers.worker_process import DEFAULT_LIMITS, WorkerLimits, WorkerProcess, WorkerStatus

log = logging.getLogger(__name__)

_MIN_WORKERS, _SOURCES_PER_WORKER, _MIN_SOURCES = 2, 16, 4


def default_process_count(videos: int, cores: int, gpus: int = 1) -> int:
    """Returns how many workers decode that many video files and streams on a GPU, 0 where the run decodes them itself.

    `cores` are those of the processor that this program may use. With several `gpus` each has workers of its own, also
    for few videos, so that they can move.
    """
    if not is_possible() or videos < (_MIN_SOURCES if gpus == 1 else 1):
        return 0
    count = max(1, min(max(_MIN_WORKERS, -(-videos // _SOURCES_PER_WORKER)), cores // 2))
    return -(-count // gpus) * gpus


def is_possible() -> bool:
    """Whether this system has what decoding workers need."""
    return hasattr(os, "memfd_create")


class DecoderPool(Closeable):
    """Processes that read and decode sources for this one; a thread for each handles its messages.

    A worker that exits is respawned and reconnects its live sources. When that one crashes within a minute too, its
    sources are split between two workers, and so on: a source that crashes its worker is isolated after log2(n) steps.
    """

    def __init__(self, count: int, limits: WorkerLimits = DEFAULT_LIMITS) -> None:
        """Starts the workers; returns before they are ready.

        Raises:
            ConfigError: if this system lacks what they need, or can't start that many.
        """
        if not is_possible():
            raise ConfigError(f"decoding processes need Linux, this is {sys.platform}: use --decode-processes 0")
        self._limits, self._max_workers = limits, count + limits.max_extra_workers
        self._workers: list[WorkerProcess] = []
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards both lists, and starting against closing
        try:
            for _ in range(count):
                self._start_thread(self._supervise, self._start())
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise ConfigError(f"no decoding process can be started ({error}): use --decode-processes 0") from error
            raise

    def open(self, spec: SourceSpec, options: SourceOptions) -> Source:
        """Opens a source in the worker with the fewest; returns at once, see `Source.wait_ready`.

        With several GPUs each has workers of its own, where there are enough.

        Raises:
            ConfigError: if that worker has as many as it can.
        """
        if options.audio and spec.kind is SourceKind.STREAM:
            log.info("source %r is recorded without sound, as it is decoded in another process", spec.name)
        source = RemoteSource(spec, replace(options, audio=False), self._attach)
        self._attach(source)
        return source

    def _attach(self, source: RemoteSource) -> None:
        alive = [worker for worker in self._workers if worker.is_alive]
        if alive:
            gpu = source.gpu
            min(alive, key=lambda worker: (worker.crashes, not worker.serves_only(gpu), worker.load)).attach(source)
            return
        try:
            self._start_thread(self._supervise, self._start([source]))
        except OSError as error:
            reason = f"no process can be started ({error})"
            source.on_ended(SourceError(f"source {source.info.uri!r} can't be opened: {reason}"))

    def status(self) -> list[WorkerStatus]:
        """Returns the state of each worker that hasn't exited."""
        return [worker.status() for worker in self._workers]

    def close(self) -> None:
        """Ends the workers and their sources; kills those that don't exit. Safe to call twice."""
        with self._lock:
            self._closing.set()
            workers, threads = list(self._workers), list(self._threads)
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(3 * self._limits.exit_s)
            if thread.is_alive():
                log.warning("a thread of the decoding processes did not stop")

    def _start(self, sources: Sequence[RemoteSource] = (), crashes: int = 0) -> WorkerProcess | None:
        """Starts a worker for these sources; None, and they end, where the pool is closing.

        Raises:
            OSError: if the system can't start another process.
        """
        with self._lock:
            worker = None if self._closing.is_set() else WorkerProcess(self._limits, crashes)
            if worker is not None:
                self._workers = [*self._workers, worker]
        for source in sources:
            if worker is None:
                source.on_ended(None)
            else:
                worker.attach(source)
        return worker

    def _start_thread(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="decoding worker", daemon=True)
        with self._lock:
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]
            thread.start()

    def _supervise(self, worker: WorkerProcess | None) -> None:
        """Runs a worker, then those that take over its sources, until none is left."""
        while worker is not None:
            worker.run()
            with self._lock:
                self._workers = [each for each in self._workers if each is not worker]
                has_room = sum(thread.is_alive() for thread in self._threads) < self._max_workers
            crashes, sources = worker.crashes + 1, worker.release()
            if crashes > 1 and len(sources) > 1 and has_room:
                self._start_thread(self._respawn_and_supervise, sources[1::2], crashes)
                sources = sources[::2]
            worker = self._respawn(sources, crashes)

    def _respawn_and_supervise(self, sources: Sequence[RemoteSource], crashes: int) -> None:
        self._supervise(self._respawn(sources, crashes))

    def _respawn(self, sources: Sequence[RemoteSource], crashes: int) -> WorkerProcess | None:
        """Starts another worker for these sources: after the first crash at once, then with a growing delay."""
        delay_s = self._limits.backoff_s(crashes)
        while True:
            self._closing.wait(delay_s)
            wanted = [source for source in sources if source.is_wanted]
            try:
                return self._start(wanted, crashes) if wanted else None
            except OSError as error:
                delay_s = self._limits.retry_s
                log.warning("no decoding process can be started (%s); trying again in %g s", error, delay_s)
