"""One connection to a live source, in a process of its own that closing kills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from streamer.frames.frame import Frame
from streamer.sources.base import Source
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers.pool import DecoderPool


class IsolatedSource(Source):
    """Frames of one connection, decoded on the CPU of another process, for a library that hangs and can't be stopped.

    Frames are copied, which takes longer than reading them in this process.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions) -> None:
        """Starts the process, opens the source there and waits for its first frame.

        Raises:
            ConfigError: if no process can be started.
            SourceError: if the source can't be opened, or gives no frame in time.
        """
        self._pool = DecoderPool(1)
        try:
            self._source = self._pool.open(spec, replace(options, reconnect=0, gpu=None))
            self._source.wait_ready()
        except BaseException:
            self._pool.close()
            raise
        self.info = self._source.info

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._source)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
        self._pool.close()

    @property
    def dropped(self) -> int:
        return self._source.dropped

    @property
    def damaged(self) -> int:
        return self._source.damaged
