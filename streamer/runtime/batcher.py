"""Frames of many streams to the batches of one detector: fresh, fair, and without waiting for any one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from streamer.common.queues import BoundedQueue, Closed, InFlightLimit, OverflowPolicy, QueueSelector

T = TypeVar("T")


class BatchInput(Generic[T]):
    """One stream's input to the batcher.

    Attributes:
        queue: items that wait for a batch; its selector is the batcher's.
        limit: bounds the items that were batched and have not come out of the stage behind detection.
        priority: where not all inputs fit in a batch, higher ones go first; may change at any time.
        on_batched: called by the consumer thread for each item that has gone into a batch.
        last_served: when the batcher last took an item, counted in items; the batcher's own.
    """

    def __init__(self, queue: BoundedQueue[T], limit: InFlightLimit) -> None:
        """`limit` must wake the queue's selector."""
        self.queue = queue
        self.limit = limit
        self.priority = 0
        self.on_batched: Callable[[], None] | None = None
        self.last_served = 0
        self._outranked = self._outranked_at_put = self._dropped_while_outranked = 0

    @property
    def preempted(self) -> int:
        """Items that were dropped, or under `OverflowPolicy.BLOCK` delayed, while higher priorities were served."""
        if self.queue.policy is OverflowPolicy.DROP_OLDEST:
            return self._dropped_while_outranked
        return self._outranked

    def put(self, item: T) -> T | None:
        """Puts an item into the queue; see `BoundedQueue.put`."""
        outranked = self._outranked
        dropped = self.queue.put(item)
        if dropped is not None and outranked > self._outranked_at_put:
            self._dropped_while_outranked += 1
        self._outranked_at_put = outranked
        return dropped

    @property
    def is_ready(self) -> bool:
        """Whether an item waits and may go into a batch."""
        return len(self.queue) > 0 and self.limit.available > 0

    def pop(self, turn: int) -> T:
        """Moves the oldest item into a batch, as the batcher's item number `turn`; with the selector's lock held."""
        self.last_served = turn
        self.limit.acquire()
        return self.queue.pop()

    def mark_outranked(self) -> None:
        """Notes that higher priorities filled a batch while an item waited; with the selector's lock held."""
        self._outranked += 1


class Batcher(Generic[T]):
    """Forms batches of several inputs' items. One thread calls `next_batch`; inputs may be added on any thread.

    A batch goes out when it is full, when every input that may offer an item does, or `timeout_s` after the first item
    was offered, so that a slow or dead input delays it no longer. Meanwhile an input's queue may still replace an item
    by a newer one. Inputs of higher priority go first; among equals the least recently served, so that all get equal
    shares. The items of one input keep their order. An input without credits is skipped: a slow consumer stalls only
    its own stream.
    """

    def __init__(self, size: int, timeout_s: float, selector: QueueSelector) -> None:
        """Starts without inputs.

        `size` is the most items in a batch; `timeout_s` the longest that one waits for others; `selector` is of all
        inputs' queues, and of no other.

        Raises:
            ValueError: if `size` is below one or `timeout_s` below zero.
        """
        if size < 1 or timeout_s < 0:
            raise ValueError(f"wanted a size of at least 1 and a time-out of at least 0, got {size} and {timeout_s}")
        self.timeout_s, self._size = timeout_s, size
        self.selector = selector
        self._inputs: dict[BoundedQueue[T], BatchInput[T]] = {}
        self._finished: list[BatchInput[T]] = []
        self._turns = self._expected = 0
        self._is_over = False

    @property
    def inputs(self) -> tuple[BatchInput[T], ...]:
        """The inputs that haven't finished."""
        with self.selector.lock:
            return tuple(self._inputs.values())

    def add(self, added: BatchInput[T]) -> None:
        """Adds an input.

        Raises:
            Closed: if `next_batch` has returned None.
        """
        with self.selector.lock:
            if self._is_over:
                raise Closed
            added.last_served = self._turns
            self._inputs[added.queue] = added
            self.selector.wake()

    @property
    def finished(self) -> Sequence[BatchInput[T]]:
        """The inputs that are closed and empty, until `remove`; for the consumer thread."""
        return tuple(self._finished)

    def remove(self, finished: BatchInput[T]) -> None:
        """Removes a finished input; for the consumer thread."""
        self._finished.remove(finished)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Within the block an input is about to be added: `next_batch` doesn't return None."""
        with self.selector.lock:
            self._expected += 1
        try:
            yield
        finally:
            with self.selector.lock:
                self._expected -= 1
                self.selector.wake()

    def next_batch(self, *, wait: bool) -> list[tuple[BatchInput[T], T]] | None:
        """Returns the next batch with each item's input; without `wait`, an empty one where none may go out now.

        It is also empty when an input has finished and none offers an item; None once all have finished.
        """
        selector = self.selector
        with selector.lock:
            while True:
                known = len(self._inputs)
                self._collect_finished()
                ready = self._ready()
                if not ready:
                    if not self._inputs and not self._expected:
                        self._is_over = True
                        return None
                    if not wait or len(self._inputs) < known:
                        return []
                    selector.wait()
                    continue
                missing = min(self._size - self._offered(ready), self._silent())
                left_s = selector.ready_since[ready[0].queue] + self.timeout_s - selector.clock()
                if missing <= 0 or left_s <= 0:
                    return self._batch()
                if not wait:
                    return []
                selector.wait(left_s, more=missing)

    def _collect_finished(self) -> None:
        closed = self.selector.closed
        for queue in [queue for queue in closed if not len(queue)] if closed else ():
            finished = self._inputs.pop(queue, None)
            if finished is not None:
                del closed[queue]
                self._finished.append(finished)

    def _ready(self) -> list[BatchInput[T]]:
        """Returns the inputs with an item and a credit, those first that have had an item longest."""
        inputs = self._inputs
        return [each for q in self.selector.ready_since if (each := inputs.get(q)) and each.limit.available > 0]

    def _offered(self, ready: Sequence[BatchInput[T]]) -> int:
        return sum(min(len(each.queue), each.limit.available) for each in ready)

    def _silent(self) -> int:
        """Returns how many inputs have credits and no item."""
        return sum(not len(each.queue) and each.limit.available > 0 for each in self._inputs.values())

    def _batch(self) -> list[tuple[BatchInput[T], T]]:
        """Takes one item of each input in turn until the batch is full or nothing is left."""
        batch: list[tuple[BatchInput[T], T]] = []
        while len(batch) < self._size and (ready := self._ready()):
            batch += self._round(ready, self._size - len(batch))
        return batch

    def _round(self, ready: list[BatchInput[T]], places: int) -> list[tuple[BatchInput[T], T]]:
        """Takes one item each of up to `places` inputs: by priority, then the least recently served."""
        if len(ready) > 1:
            ready.sort(key=lambda each: (-each.priority, each.last_served))
        taken = []
        for each in ready[:places]:
            self._turns += 1
            taken.append((each, each.pop(self._turns)))
        for each in ready[places:]:
            if each.priority < ready[places - 1].priority:
                each.mark_outranked()
        return taken
