"""Frames of many streams to the batches of one detector: fresh, fair, and never waiting for anybody in particular."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamer.common.queues import BoundedQueue, Closed, QueueSelector

T = TypeVar("T")

_UNBOUNDED = 1 << 30


@dataclass(eq=False)
class Lane(Generic[T]):
    """One stream's way into batches.

    Attributes:
        inbox: where its items come from; its meeting is the batcher's.
        priority: a lane of higher priority goes first whenever not all can go; may be changed at any time.
        room: most items that may be out: taken, and not yet given back by `Batcher.release`.
        taken, released: how many were, so far; each is counted by one thread.
        turn: when it was last served, counted in items; the batcher's own.
        passed_by: how often an item of its waited while lanes of higher priority filled the batch.
    """

    inbox: BoundedQueue[T]
    priority: int = 0
    room: int = _UNBOUNDED
    taken: int = 0
    released: int = 0
    turn: int = 0
    passed_by: int = 0

    @property
    def out(self) -> int:
        """Items on their way."""
        return self.taken - self.released


class Batcher(Generic[T]):
    """Forms batches of what several hand-overs offer. One thread takes; any may add and release meanwhile.

    A batch goes out when it is full, when every lane that has room offers something, or when something has been offered
    for `timeout_s`: a lane that is slow or dead is never waited for longer. Until then a lane's inbox may still put a
    newer item in an older one's place. Lanes of
    higher priority go first; among equals, the one that was served longest ago, so that all of them get equal shares
    while all offer items. Each lane's items keep their order. A lane whose items aren't released is passed over once
    its room is full: who is slow behind the detector holds up nobody but himself.
    """

    def __init__(self, size: int, timeout_s: float, meeting: QueueSelector) -> None:
        """Has no lane yet.

        Args:
            size: most items in a batch.
            timeout_s: longest that an item waits for others.
            meeting: of all lanes' hand-overs, and of no other.

        Raises:
            ValueError: if `size` is below one or `timeout_s` below zero.
        """
        if size < 1 or timeout_s < 0:
            raise ValueError(f"wanted a size of at least 1 and a time-out of at least 0, got {size} and {timeout_s}")
        self._size, self._timeout_s = size, timeout_s
        self._meeting = meeting
        self._lanes: dict[BoundedQueue[T], Lane[T]] = {}
        self._ended: list[Lane[T]] = []
        self._turns = 0
        self._expected = 0
        self._is_over = False

    def add(self, lane: Lane[T]) -> None:
        """Takes items of one more lane from now on.

        Raises:
            Closed: if `take` has told that all lanes have ended.
        """
        with self._meeting.lock:
            if self._is_over:
                raise Closed
            lane.turn = self._turns
            self._lanes[lane.inbox] = lane
            self._meeting.wake()

    def ended(self) -> Sequence[Lane[T]]:
        """Returns the lanes that have ended, closed and empty, and weren't forgotten; for the thread that takes."""
        return tuple(self._ended)

    def forget(self, lane: Lane[T]) -> None:
        """Drops a lane that has ended; for the thread that takes."""
        self._ended.remove(lane)

    def release(self, lane: Lane[T]) -> None:
        """Says that one item of a lane is no longer on its way; always called on the same thread for one lane.

        The lock, which many threads want, is taken only where the lane may have been full.
        """
        lane.released += 1
        if lane.out >= lane.room - 1:
            with self._meeting.lock:
                self._meeting.wake()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Within the block a lane is about to be added: `take` doesn't tell that all have ended."""
        with self._meeting.lock:
            self._expected += 1
        try:
            yield
        finally:
            with self._meeting.lock:
                self._expected -= 1
                self._meeting.wake()

    def take(self, *, wait: bool) -> list[tuple[Lane[T], T]] | None:
        """Returns the next batch with each item's lane.

        Args:
            wait: whether to wait until a batch may go out; without, the batch is empty where none may now.

        Returns:
            The batch, also empty when a lane has ended while there is nothing to take; None once all have.
        """
        with self._meeting.lock:
            while True:
                known = len(self._lanes)
                self._drop_ended()
                offering = self._offering()
                if not offering:
                    if not self._lanes and not self._expected:
                        self._is_over = True
                        return None
                    if not wait or len(self._lanes) < known:
                        return []
                    self._meeting.wait()
                    continue
                missing = min(self._size - self._on_offer(offering), self._silent())
                left_s = self._meeting.holding[offering[0].inbox] + self._timeout_s - time.monotonic()
                if missing <= 0 or left_s <= 0:
                    return self._batch()
                if not wait:
                    return []
                self._meeting.wait(left_s, more=missing)

    def _drop_ended(self) -> None:
        closed = self._meeting.closed
        for inbox in [inbox for inbox in closed if not len(inbox)] if closed else ():
            lane = self._lanes.pop(inbox, None)
            if lane is not None:
                del closed[inbox]
                self._ended.append(lane)

    def _offering(self) -> list[Lane[T]]:
        """Returns the lanes that have something and room, those first that have had it longest."""
        lanes = self._lanes
        return [lane for inbox in self._meeting.holding if (lane := lanes.get(inbox)) and lane.out < lane.room]

    def _on_offer(self, offering: Sequence[Lane[T]]) -> int:
        return sum(min(len(lane.inbox), lane.room - lane.out) for lane in offering)

    def _silent(self) -> int:
        """Returns how many lanes have room and nothing to take."""
        return sum(not len(lane.inbox) and lane.out < lane.room for lane in self._lanes.values())

    def _batch(self) -> list[tuple[Lane[T], T]]:
        """Takes one item of each lane in turn until the batch is full or nothing is left."""
        batch: list[tuple[Lane[T], T]] = []
        while len(batch) < self._size and (offering := self._offering()):
            batch += self._round(offering, self._size - len(batch))
        return batch

    def _round(self, offering: list[Lane[T]], room: int) -> list[tuple[Lane[T], T]]:
        """Takes one item each of as many lanes as there is room for, those whose turn it is."""
        if len(offering) > 1:
            offering.sort(key=lambda lane: (-lane.priority, lane.turn))
        taken = []
        for lane in offering[:room]:
            self._turns += 1
            lane.turn = self._turns
            lane.taken += 1
            taken.append((lane, lane.inbox.take()))
        for lane in offering[room:]:
            lane.passed_by += lane.priority < offering[room - 1].priority
        return taken
