"""Bounded queues between threads: they count what they drop, and always deliver their end."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_BURST_S = 0.01


class OverflowPolicy(enum.Enum):
    """What `BoundedQueue.put` does when the queue is full."""

    BLOCK = "every-frame"
    """The producer waits: nothing is lost."""

    DROP_OLDEST = "freshest"
    """The oldest item is dropped and counted: nothing gets stale."""


class Closed(Exception):
    """The queue is closed and empty."""


class QueueSelector:
    """Lets a consumer wait for any of several queues, which share its lock.

    Attributes:
        lock: guards everything else here, and the queues; shared by selectors between which queues move.
        clock: seconds, monotonic.
        ready_since: when each non-empty queue became so, the longest ago first.
        closed: queues that were closed, until the consumer removes them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, lock: threading.Lock | None = None) -> None:
        self.lock = lock or threading.Lock()
        self.clock = clock
        self.ready_since: dict[BoundedQueue[Any], float] = {}
        self.closed: dict[BoundedQueue[Any], None] = {}
        self._changed = threading.Condition(self.lock)
        self._missing = 0

    def wait(self, timeout_s: float | None = None, *, more: int = 1) -> None:
        """Waits, with the lock held, until `more` queues have become non-empty, for `wake`, or for `timeout_s`."""
        self._missing = more
        self._changed.wait(timeout_s)

    def wake(self) -> None:
        """Wakes the consumer; with the lock held."""
        self._changed.notify_all()

    def mark_ready(self, queue: BoundedQueue[Any]) -> None:
        """Notes that a queue has become non-empty; with the lock held."""
        self.ready_since[queue] = self.clock()
        self._missing -= 1
        if self._missing <= 0:
            self._changed.notify_all()


class BoundedQueue(Generic[T]):
    """A bounded queue between two threads.

    `close` and `abort` wake both sides at once. Producers and consumers wait on different conditions, so that neither
    wakes its own side.

    Attributes:
        policy: what `put` does when the queue is full; only the producer may change it, others call `restart`.
    """

    def __init__(
        self, capacity: int, policy: OverflowPolicy, selector: QueueSelector | None = None, *, burst: int = 0
    ) -> None:
        """Makes an empty queue.

        Args:
            capacity: most items in it.
            policy: what `put` does when it is full.
            selector: where its consumer waits; None makes one for this queue alone.
            burst: items kept beyond `capacity` under `OverflowPolicy.DROP_OLDEST` while the queue has been non-empty
                for less than 10 ms: the consumer couldn't have taken one yet, and none is stale.

        Raises:
            ValueError: if `capacity` is below one.
        """
        if capacity < 1:
            raise ValueError(f"wanted a capacity of at least 1, got {capacity}")
        self._capacity, self._burst = capacity, burst
        self.policy = policy
        self._items: deque[T] = deque()
        self._selector = selector or QueueSelector()
        self._lock = self._selector.lock
        self._not_full = threading.Condition(self._lock)
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Items dropped so far."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_closed(self) -> bool:
        """True once `put` raises `Closed`."""
        return self._closed

    @property
    def is_finished(self) -> bool:
        """True once closed and empty."""
        return self._closed and not self._items

    def put(self, item: T) -> T | None:
        """Appends `item`; under `OverflowPolicy.BLOCK` waits until the queue isn't full.

        Returns:
            The item that was dropped for it, or None.

        Raises:
            Closed: if the queue is closed or aborted, also while waiting.
        """
        with self._lock:
            self._await_capacity()
            dropped = None
            if len(self._items) >= self._capacity and not self._is_burst():
                dropped = self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            if len(self._items) == 1:
                self._selector.mark_ready(self)
            return dropped

    def _is_burst(self) -> bool:
        waited_s = self._selector.clock() - self._selector.ready_since[self]
        return len(self._items) < self._capacity + self._burst and waited_s < _BURST_S

    def wait_until_not_full(self) -> None:
        """Waits until `put` wouldn't have to, so that a producer makes an item only when there is a place for it.

        Raises:
            Closed: if the queue is closed or aborted, also while waiting.
        """
        with self._lock:
            self._await_capacity()

    def _await_capacity(self) -> None:
        while not self._closed and self.policy is OverflowPolicy.BLOCK and len(self._items) >= self._capacity:
            self._not_full.wait()
        if self._closed:
            raise Closed

    def get(self, timeout_s: float | None = None) -> T | None:
        """Removes and returns the oldest item; None when none came within `timeout_s` (None waits without limit).

        Raises:
            Closed: once the queue is closed and empty.
        """
        with self._lock:
            if not self._items and not self._closed and timeout_s != 0:
                self._await_item(timeout_s)
            if self._items:
                return self.pop()
            if self._closed:
                raise Closed
            return None

    def items(self) -> Iterator[T]:
        """Yields items, waiting for each, until the queue is closed and empty."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            if item is not None:
                yield item

    def _await_item(self, timeout_s: float | None) -> None:
        deadline_s = None if timeout_s is None else self._selector.clock() + timeout_s
        while not self._items and not self._closed:
            left_s = None if deadline_s is None else deadline_s - self._selector.clock()
            if left_s is not None and left_s <= 0:
                return
            self._selector.wait(left_s)

    def restart(self, policy: OverflowPolicy) -> None:
        """Empties the queue and changes its policy, from any thread; what it held doesn't count as dropped."""
        with self._lock:
            while self._items:
                self.pop()
            self.policy = policy
            self._not_full.notify_all()

    def move_to(self, selector: QueueSelector) -> None:
        """Has another consumer wait for this queue, at a selector with the same lock; with that lock held."""
        before, self._selector = self._selector, selector
        if self in before.ready_since:
            selector.ready_since[self] = before.ready_since.pop(self)
        if self in before.closed:
            selector.closed[self] = before.closed.pop(self)
        selector.wake()

    def pop(self) -> T:
        """Removes and returns the oldest item of a non-empty queue; with the selector's lock held."""
        item = self._items.popleft()
        if not self._items:
            del self._selector.ready_since[self]
        self._not_full.notify()
        return item

    def close(self) -> None:
        """Closes the queue: the consumer still gets what is in it, then `Closed`."""
        with self._lock:
            self._end()

    def abort(self) -> list[T]:
        """Closes the queue and returns what was in it; those items count as dropped."""
        with self._lock:
            rest = list(self._items)
            self._dropped += len(rest)
            self._items.clear()
            self._selector.ready_since.pop(self, None)
            self._end()
            return rest

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._selector.closed[self] = None
        self._not_full.notify_all()
        self._selector.wake()


class InFlightLimit:
    """Bounds the items between two stages: the first acquires a credit for each, the last returns it.

    Each side is one thread, so that counting needs no lock.

    Attributes:
        capacity: most items in flight.
    """

    def __init__(self, capacity: int, selector: QueueSelector) -> None:
        """Nothing is in flight yet; `selector` is where the acquiring thread waits for credits."""
        self.capacity = capacity
        self._selector = selector
        self._acquired = self._released = 0

    @property
    def in_flight(self) -> int:
        """Items whose credit hasn't come back."""
        return self._acquired - self._released

    @property
    def available(self) -> int:
        """Credits left."""
        return self.capacity - self.in_flight

    def acquire(self) -> None:
        """Takes one credit; only when some are `available`."""
        self._acquired += 1

    def release(self) -> None:
        """Returns one credit; takes the selector's lock, which many threads want, only if none may have been left."""
        self._released += 1
        if self.available <= 1:
            with self._selector.lock:  # the same for all selectors that it moves between
                self._selector.wake()

    def forgive(self, items: int) -> None:
        """Returns the credits of items that won't come out; on the thread that acquires, or in its place."""
        self._acquired -= items

    def move_to(self, selector: QueueSelector) -> None:
        """Has another thread acquire, which waits at a selector with the same lock; with that lock held."""
        self._selector = selector


class CreditQueue(BoundedQueue[T]):
    """A queue whose `get` returns the item's credit to a limit; `put` never waits, as all in flight fit in."""

    def __init__(self, limit: InFlightLimit, selector: QueueSelector | None = None) -> None:
        """Makes an empty queue for the items that `limit` lets through; see `BoundedQueue` for `selector`."""
        super().__init__(limit.capacity, OverflowPolicy.BLOCK, selector)
        self._limit = limit

    def get(self, timeout_s: float | None = None) -> T | None:
        item = super().get(timeout_s)
        if item is not None:
            self._limit.release()
        return item
