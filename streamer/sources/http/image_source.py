"""What the sources of JPEG pictures over HTTP share: counters, numbering, and arrival times."""

from __future__ import annotations

import time

from streamer.frames.frame import Frame, Pixels
from streamer.sources.http.client import HttpClient, HttpResponse
from streamer.sources.options import SourceOptions
from streamer.sources.prefetched import PrefetchedSource


class HttpImageSource(PrefetchedSource):
    """Live frames by arrival: `pts_s` is the time since the first one, `index` counts those dropped.

    Attributes:
        damaged: pictures that couldn't be decoded.
        dropped: pictures left undecoded, to stay fresh.
    """

    damaged: int = 0
    dropped: int = 0

    def __init__(
        self, client: HttpClient, response: HttpResponse, shown: str, *, name: str, options: SourceOptions
    ) -> None:
        """Reads the first picture of a response, which is closed here; `shown` is the source in messages.

        Raises:
            SourceError: if no picture comes in time, or it is too large.
        """
        self._client, self._response, self._shown, self._name, self._options = client, response, shown, name, options
        self._count = 0
        self._prefetch()

    def interrupt(self) -> None:
        self._client.interrupt()

    def _frame(self, pixels: Pixels) -> Frame:
        now_s = time.perf_counter()
        if not self._count:
            self._first_s = now_s
        index = self._count + self.dropped
        self._count += 1
        return Frame(pixels, self._name, index, now_s - self._first_s, now_s)
