"""One connection to a live source, in a process of its own that closing kills."""

from __future__ import annotations

from dataclasses import replace

from streamer.sources.base import SourceWrapper
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers.pool import DecoderPool


class IsolatedSource(SourceWrapper):
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
            source = self._pool.open(spec, replace(options, reconnect=0, gpu=None))
            source.wait_ready()
        except BaseException:
            self._pool.close()
            raise
        super().__init__(source)

    def close(self) -> None:
        super().close()
        self._pool.close()
