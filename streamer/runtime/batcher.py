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
        lost: items that went into a batch and didn't come out, as their detector failed.
    """

    def __init__(self, queue: BoundedQueue[T], limit: InFlightLimit) -> None:
        """`limit` must wake the queue's selector."""
        self.queue = queue
        self.limit = limit
        self.priority = 0
        self.on_batched: Callable[[], None] | None = None
        self.last_served = self.lost = 0
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

    def lose(self, items: int = 1) -> None:
        """Counts items that went into a batch and won't come out; on the batcher's thread, or in its place."""
        self.lost += items
        self.limit.forgive(items)

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

    Several batchers may be peers, each with a consumer thread of its own: inputs move between them, and they end
    together, once none has an input.
    """

    def __init__(
        self, size: int, timeout_s: float, selector: QueueSelector, peers: list[Batcher[T]] | None = None
    ) -> None:
        """Starts without inputs.

        `size` is the most items in a batch; `timeout_s` the longest that one waits for others; `selector` is of all
        inputs' queues, and of no other. `peers` are those made before, whose selectors have the same lock; this one is
        appended.

        Raises:
            ValueError: if `size` is below one or `timeout_s` below zero.
        """
        if size < 1 or timeout_s < 0:
            raise ValueError(f"wanted a size of at least 1 and a time-out of at least 0, got {size} and {timeout_s}")
        self.timeout_s, self._size = timeout_s, size
        self.selector = selector
        self._inputs: dict[BoundedQueue[T], BatchInput[T]] = {}
        self._finished: list[BatchInput[T]] = []
        self._turns = 0
        self._is_over = False
        self._peers = [] if peers is None else peers
        self._expected: list[int] = self._peers[0]._expected if self._peers else [0]  # one number for all peers
        self._peers.append(self)

    @property
    def inputs(self) -> tuple[BatchInput[T], ...]:
        """The inputs that haven't finished."""
        with self.selector.lock:
            return tuple(self._inputs.values())

    def add(self, added: BatchInput[T]) -> None:
        """Adds an input.

        Raises:
            Closed: if `next_batch` of this one or a peer has returned None.
        """
        with self.selector.lock:
            if self._is_over:
                raise Closed
            self._add(added)

    def _add(self, added: BatchInput[T]) -> None:
        added.last_served = self._turns
        self._inputs[added.queue] = added
        self.selector.wake()

    def take_over(self, moved: BatchInput[T]) -> None:
        """Takes an input over from a peer that has retired."""
        with self.selector.lock:
            moved.queue.move_to(self.selector)
            moved.limit.move_to(self.selector)
            self._add(moved)

    def retire(self) -> tuple[list[BatchInput[T]], list[BatchInput[T]]]:
        """Ends this one, while its peers go on; `expecting` must hold at one of them.

        Returns:
            The inputs that peers may take over, and those that had finished.
        """
        with self.selector.lock:
            self._is_over = True
            self._peers.remove(self)
            inputs, finished = list(self._inputs.values()), self._finished
            self._inputs, self._finished = {}, []
            self.selector.wake()
            return inputs, finished

    @property
    def finished(self) -> Sequence[BatchInput[T]]:
        """The inputs that are closed and empty, until `remove`; for the consumer thread."""
        return tuple(self._finished)

    def remove(self, finished: BatchInput[T]) -> None:
        """Removes a finished input; for the consumer thread."""
        self._finished.remove(finished)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Within the block an input is about to be added, here or at a peer: `next_batch` doesn't return None."""
        with self.selector.lock:
            self._expected[0] += 1
        try:
            yield
        finally:
            with self.selector.lock:
                self._expected[0] -= 1
                self._wake_all()

    def _wake_all(self) -> None:
        for peer in self._peers:
            peer.selector.wake()

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
                    if self._is_over or self._end_if_unused():
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

    def _end_if_unused(self) -> bool:
        """Ends this one and its peers where none has an input or expects one; returns whether."""
        if self._expected[0] or any(peer._inputs for peer in self._peers):
            return False
        for peer in self._peers:
            peer._is_over = True
        self._wake_all()
        return True

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
