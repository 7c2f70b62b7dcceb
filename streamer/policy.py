"""Handing frames from one thread to the next: bounded, counted, and with an end that always arrives."""

from __future__ import annotations

import enum
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Policy(enum.Enum):
    """What happens when the next thread is slower."""

    EVERY_FRAME = "every-frame"
    """The producer waits: nothing is lost."""

    FRESHEST = "freshest"
    """The oldest waiting item is dropped and counted: nothing gets stale."""


class Closed(Exception):
    """The hand-over has ended and holds nothing more."""


class Handover(Generic[T]):
    """A bounded queue between two threads that carries its end, and the error that caused it.

    Waiting is on conditions only, so `close` and `abort` wake both sides at once. Several hand-overs may share one
    condition (`changed`), so that one consumer can wait for any of them.

    Attributes:
        policy: what `put` does when there is no room; only the producer may change it.
    """

    def __init__(self, capacity: int, policy: Policy, changed: threading.Condition | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"wanted a capacity of at least 1, got {capacity}")
        self._capacity = capacity
        self.policy = policy
        self._items: deque[T] = deque()
        self._changed = changed or threading.Condition()
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
        with self._changed:
            return self._closed and not self._items

    def put(self, item: T) -> T | None:
        """Hands `item` over, waiting for room under `Policy.EVERY_FRAME`.

        Returns:
            The item that was dropped for it, or None.

        Raises:
            Closed: if the hand-over was closed or aborted, also while waiting.
        """
        with self._changed:
            self.wait_for_room()
            displaced = None
            if len(self._items) >= self._capacity:
                displaced = self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return displaced

    def wait_for_room(self) -> None:
        """Waits until `put` wouldn't have to, so that the producer begins with an item only when it has a place.

        Raises:
            Closed: if the hand-over was closed or aborted, also while waiting.
        """
        with self._changed:
            if self.policy is Policy.EVERY_FRAME:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                raise Closed

    def get(self, timeout_s: float | None = None) -> T | None:
        """Takes the oldest item; returns None when none came within `timeout_s` (None waits for ever).

        Raises:
            Closed: once the hand-over has ended and is empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout_s)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._closed:
                raise Closed
            return None

    def close(self) -> None:
        """Ends the hand-over: what is in it can still be taken, nothing more can be put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> list[T]:
        """Ends the hand-over and returns what was in it; those items count as dropped."""
        with self._changed:
            self._closed = True
            rest = list(self._items)
            self._dropped += len(rest)
            self._items.clear()
            self._changed.notify_all()
            return rest
