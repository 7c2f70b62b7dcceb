"""Handing frames from one thread to the next: bounded, counted, and with an end that always arrives."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_BURST_S = 0.01


class OverflowPolicy(enum.Enum):
    """What happens when the next thread is slower."""

    BLOCK = "every-frame"
    """The producer waits: nothing is lost."""

    DROP_OLDEST = "freshest"
    """The oldest waiting item is dropped and counted: nothing gets stale."""


class Closed(Exception):
    """The hand-over has ended and holds nothing more."""


class QueueSelector:
    """Where the one consumer of several hand-overs waits for any of them; they share its lock.

    Attributes:
        lock: of all of its hand-overs.
        holding: the hand-overs that hold something, in the order in which they began to, with the time of that
            (`time.monotonic`); under the lock.
        closed: those that were closed, until the consumer takes them out; under the lock.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holding: dict[BoundedQueue[Any], float] = {}
        self.closed: dict[BoundedQueue[Any], None] = {}
        self._changed = threading.Condition(self.lock)
        self._enough = 0

    def wait(self, timeout_s: float | None = None, *, more: int = 1) -> None:
        """Waits, with the lock held, until so many more hold something, until `wake`, or for `timeout_s`."""
        self._enough = len(self.holding) + more
        self._changed.wait(timeout_s)

    def wake(self) -> None:
        """Ends the consumer's waiting; with the lock held."""
        self._changed.notify_all()

    def begins_to_hold(self, handover: BoundedQueue[Any]) -> None:
        """Notes that there is something to take where there was nothing; with the lock held."""
        self.holding[handover] = time.monotonic()
        if len(self.holding) >= self._enough:
            self._changed.notify_all()


class BoundedQueue(Generic[T]):
    """A bounded queue between two threads that carries its end, and the error that caused it.

    Waiting is on conditions only, so `close` and `abort` wake both sides at once. Several hand-overs may have one
    `QueueSelector`, so that one consumer can wait for any of them. Who waits for room is woken when there is some, and
    nobody else.

    Attributes:
        policy: what `put` does when there is no room; only the producer may change it.
    """

    def __init__(
        self, capacity: int, policy: OverflowPolicy, meeting: QueueSelector | None = None, *, burst: int = 0
    ) -> None:
        """Holds nothing yet.

        Args:
            capacity: most items in it.
            policy: what `put` does when there are so many.
            meeting: where its consumer waits; None makes one for it alone.
            burst: items kept beyond `capacity` under `OverflowPolicy.DROP_OLDEST` while the queue has been non-empty
                for less than 10 ms: the consumer couldn't have taken one yet, and none is stale.

        Raises:
            ValueError: if there is no capacity.
        """
        if capacity < 1:
            raise ValueError(f"wanted a capacity of at least 1, got {capacity}")
        self._capacity, self._burst = capacity, burst
        self.policy = policy
        self._items: deque[T] = deque()
        self._meeting = meeting or QueueSelector()
        self._lock = self._meeting.lock
        self._emptier = threading.Condition(self._lock)
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many items were thrown away so far."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ended(self) -> bool:
        """True once closed and empty."""
        return self._closed and not self._items

    def put(self, item: T) -> T | None:
        """Hands `item` over, waiting for room under `OverflowPolicy.BLOCK`.

        Returns:
            The item that was dropped for it, or None.

        Raises:
            Closed: if the hand-over was closed or aborted, also while waiting.
        """
        with self._lock:
            self._await_room()
            displaced = None
            if len(self._items) >= self._capacity and not self._is_burst():
                displaced = self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            if len(self._items) == 1:
                self._meeting.begins_to_hold(self)
            return displaced

    def _is_burst(self) -> bool:
        waited_s = time.monotonic() - self._meeting.holding[self]
        return len(self._items) < self._capacity + self._burst and waited_s < _BURST_S

    def wait_for_room(self) -> None:
        """Waits until `put` wouldn't have to, so that the producer begins with an item only when it has a place.

        Raises:
            Closed: if the hand-over was closed or aborted, also while waiting.
        """
        with self._lock:
            self._await_room()

    def _await_room(self) -> None:
        while not self._closed and self.policy is OverflowPolicy.BLOCK and len(self._items) >= self._capacity:
            self._emptier.wait()
        if self._closed:
            raise Closed

    def get(self, timeout_s: float | None = None) -> T | None:
        """Takes the oldest item; returns None when none came within `timeout_s` (None waits for ever).

        Raises:
            Closed: once the hand-over has ended and is empty.
        """
        with self._lock:
            if not self._items and not self._closed and timeout_s != 0:
                self._await_item(timeout_s)
            if self._items:
                return self.take()
            if self._closed:
                raise Closed
            return None

    def _await_item(self, timeout_s: float | None) -> None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._items and not self._closed:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            self._meeting.wait(left_s)

    def take(self) -> T:
        """Takes the oldest item of a hand-over that holds one; for a consumer that holds the meeting's lock."""
        item = self._items.popleft()
        if not self._items:
            del self._meeting.holding[self]
        self._emptier.notify()
        return item

    def close(self) -> None:
        """Ends the hand-over: what is in it can still be taken, nothing more can be put."""
        with self._lock:
            self._end()

    def abort(self) -> list[T]:
        """Ends the hand-over and returns what was in it; those items count as dropped."""
        with self._lock:
            rest = list(self._items)
            self._dropped += len(rest)
            self._items.clear()
            self._meeting.holding.pop(self, None)
            self._end()
            return rest

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._meeting.closed[self] = None
        self._emptier.notify_all()
        self._meeting.wake()
