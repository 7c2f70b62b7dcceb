"""What takes messages, and the thread that brings them there."""

from __future__ import annotations

import abc
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

from streamer.common.closeable import Closeable
from streamer.common.redaction import redact_text
from streamer.events.message import QueuedMessage
from streamer.events.queue import MessageQueue
from streamer.sinks.files import reason
from streamer.sources.backoff import Backoff

log = logging.getLogger(__name__)

_MOST = 100
_BACKOFF = Backoff(first_delay_s=0.25, max_delay_s=30.0, max_long_delay_s=60.0, jitter=0.5)


class DeliveryError(Exception):
    """A message wasn't taken; it is tried again.

    Attributes:
        is_final: whether trying again can't help: after `Receiver.most_attempts` it becomes a dead letter.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Receiver(Closeable):
    """Takes messages in order, on one thread.

    Attributes:
        name: under which the queue keeps its position.
        most_attempts: after how many final errors a message becomes a dead letter.
    """

    name: str
    most_attempts: int = 5

    @abc.abstractmethod
    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        """Delivers messages, and acknowledges each sequence number once all up to it have arrived.

        Raises:
            DeliveryError: if one isn't taken; those acknowledged are done.
        """

    def interrupt(self) -> None:
        """Ends a `deliver` that waits; called from any thread."""


class Sender(Closeable):
    """Brings a queue's messages to one receiver, on a thread of its own."""

    def __init__(self, queue: MessageQueue, receiver: Receiver, backoff: Backoff = _BACKOFF) -> None:
        """Starts at once."""
        self._queue, self._receiver, self._backoff = queue, receiver, backoff
        self._stopping = threading.Event()
        self._position = queue.position(receiver.name)
        self._thread = threading.Thread(target=self._run, name=f"messages to {receiver.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops; what isn't delivered stays on the disk. Safe to call twice."""
        self._stopping.set()
        self._receiver.interrupt()
        self._queue.wake()
        self._thread.join()

    def _run(self) -> None:
        failures = attempts = 0
        failed_at_s = 0.0
        with self._receiver, self._queue.reader() as reader:
            while not self._stopping.is_set():
                if not self._queue.wait(self._position, 1.0):
                    continue
                before = self._position
                try:
                    newest = self._queue.newest
                    messages = reader.next_messages(self._position, _MOST)
                    if not messages:  # dropped meanwhile
                        self._acknowledge(newest)
                        continue
                    self._receiver.deliver(messages, self._acknowledge)
                    if failures:
                        log.info("messages to %s arrive again", self._receiver.name)
                    failures = attempts = 0
                except (DeliveryError, sqlite3.Error) as error:
                    if self._stopping.is_set():
                        return
                    if self._position > before:
                        failures = attempts = 0
                    failed_at_s = failed_at_s if failures else time.monotonic()
                    if not failures:
                        why = redact_text(reason(error))
                        log.warning("a message to %s didn't arrive: %s; trying again", self._receiver.name, why)
                    failures += 1
                    if isinstance(error, DeliveryError) and error.is_final:
                        attempts += 1
                        if attempts >= self._receiver.most_attempts:
                            self._bury(reader.next_messages(self._position, 1), error)
                            failures = attempts = 0
                            continue
                    self._stopping.wait(self._backoff.delay_s(failures - 1, time.monotonic() - failed_at_s))

    def _acknowledge(self, sequence: int) -> None:
        self._position = max(self._position, sequence)
        self._queue.acknowledge(self._receiver.name, sequence)

    def _bury(self, refused: Sequence[QueuedMessage], error: DeliveryError) -> None:
        for queued in refused:
            why = redact_text(reason(error))
            log.warning(
                "%s refuses a message of %r: %s; kept as a dead letter", self._receiver.name, queued.message.source, why
            )
            self._position = queued.sequence
            self._queue.bury(self._receiver.name, queued, why)
