"""A fake server of live connections that fail, end, hang and return by plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.sources.backoff import Backoff
from streamer.sources.base import Source, SourceInfo
from streamer.sources.live import LiveSource
from streamer.sources.options import SourceOptions

Plan = Callable[[int], None]


class FakeConnection(Source):
    """Yields frames endlessly; before each it calls `plan`, which may raise or wait."""

    dropped = 2  # type: ignore[assignment]
    damaged = 1  # type: ignore[assignment]

    def __init__(self, plan: Plan, *, live: bool = True, count: int = 10**9) -> None:
        self.info = SourceInfo("own name", "fake:", (32, 24), 30.0, live=live)
        self._plan, self._count = plan, count
        self.closed = 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self._plan(index)
            yield Frame(np.zeros((24, 32, 3), np.uint8), "door", index, index / 30, time.perf_counter())

    def close(self) -> None:
        self.closed += 1


class Server:
    """Connects by plan, one per connection; an exception in place of a plan refuses the connection."""

    def __init__(self, *plans: Plan | Exception, live: bool = True, count: int = 10**9) -> None:
        self.plans = list(plans)
        self.live, self.count = live, count
        self.connections: list[FakeConnection] = []
        self.options: list[SourceOptions] = []

    def __call__(self, options: SourceOptions) -> Source:
        self.options.append(options)
        plan = self.plans.pop(0)
        if isinstance(plan, Exception):
            raise plan
        self.connections.append(FakeConnection(plan, live=self.live, count=self.count))
        return self.connections[-1]


def well(_: int) -> None:
    """Never fails."""


def breaks_at(number: int, error: Exception | None = None) -> Plan:
    def plan(index: int) -> None:
        if index == number:
            raise error or SourceError("cut")

    return plan


QUICK = Backoff(first_delay_s=0.025)
SOON = Backoff(first_delay_s=0.0, max_delay_s=0.0, max_long_delay_s=0.0)


def hangs_at(number: int, until: threading.Event) -> Plan:
    return lambda index: until.wait(60) if index == number else None


def live(server: Server, backoff: Backoff = QUICK, **options: object) -> LiveSource:
    wanted = SourceOptions(**{"overflow_policy": OverflowPolicy.BLOCK} | options)  # type: ignore[arg-type]
    return LiveSource(server, name="door", uri="rtsp://door/***", options=wanted, backoff=backoff)
