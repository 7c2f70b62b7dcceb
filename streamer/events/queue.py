"""The durable queue of all receivers of a run."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamer.common.closeable import Closeable
from streamer.common.errors import counted
from streamer.events.database import connect, open_database
from streamer.events.message import Message, QueuedMessage
from streamer.sinks.files import reason

log = logging.getLogger(__name__)

_GROUP_S: Final = 0.004
_RETRY_S: Final = 1.0
_SAY_S: Final = 10.0


@dataclass(frozen=True)
class QueueLimits:
    """How much is kept.

    Attributes:
        rows: messages on the disk.
        size_bytes: of their bodies.
        pending: messages between the pipeline and the disk.
    """

    rows: int = 1_000_000
    size_bytes: int = 1_000_000_000
    pending: int = 10_000


class MessageQueue(Closeable):
    """Keeps messages on the disk until every receiver has acknowledged them.

    `put` never waits; one thread writes, and commits what has come in a few milliseconds together. A message that is
    committed is delivered at least once, whatever ends the process. Beyond the limits the oldest telemetry is dropped
    first, then the oldest events. While the disk takes nothing, `QueueLimits.pending` messages wait in memory.

    Attributes:
        overflowed: messages that found no place in memory.
        dropped: messages that were dropped from the disk before all receivers had them.
    """

    def __init__(self, path: Path, receivers: Sequence[str], limits: QueueLimits | None = None) -> None:
        """Opens the queue and starts its thread; a new receiver gets what comes from now on.

        Raises:
            SinkError: if the file can't be used.
        """
        self.path, self._limits = path, limits or QueueLimits()
        self.overflowed = self.dropped = 0
        self._connection = open_database(path)
        self._receivers = tuple(receivers)
        self._positions = self._known_positions()
        rows, size = self._connection.execute(
            "SELECT count(*), coalesce(sum(length(CAST(body AS BLOB))), 0) FROM message"
        ).fetchone()
        self._rows, self._size = int(rows), int(size)
        self._changed = threading.Condition()
        self._pending: deque[Message] = deque()
        self._acknowledged: dict[str, int] = {}
        self._dead: list[tuple[str, QueuedMessage, str]] = []
        self._committed = self._newest()
        self._is_closing = False
        self._said_s = -_SAY_S
        self._thread = threading.Thread(target=self._run, name="message queue", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> bool:
        """Hands a message over; returns whether there was a place. Never waits for the disk."""
        with self._changed:
            if self._is_closing or len(self._pending) >= self._limits.pending:
                self.overflowed += 1
                return False
            self._pending.append(message)
            if len(self._pending) == 1:
                self._changed.notify_all()
        return True

    def position(self, receiver: str) -> int:
        """Returns the sequence number of the last message that a receiver has acknowledged."""
        with self._changed:
            return max(self._positions[receiver], self._acknowledged.get(receiver, 0))

    @property
    def newest(self) -> int:
        """The newest sequence number on the disk."""
        with self._changed:
            return self._committed

    def wait(self, after: int, timeout_s: float) -> bool:
        """Waits until a message behind `after` is on the disk; returns whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self._committed > after, timeout_s)

    def wake(self) -> None:
        """Wakes everybody who waits, to look at what else has changed."""
        with self._changed:
            self._changed.notify_all()

    def reader(self) -> MessageReader:
        """Returns a reader for one thread."""
        return MessageReader(self.path)

    def acknowledge(self, receiver: str, sequence: int) -> None:
        """Notes that a receiver has all messages up to `sequence`."""
        with self._changed:
            self._acknowledged[receiver] = max(sequence, self._acknowledged.get(receiver, 0))
            self._changed.notify_all()

    def bury(self, receiver: str, queued: QueuedMessage, why: str) -> None:
        """Moves a message that a receiver refuses to the dead letters, and acknowledges it."""
        with self._changed:
            self._dead.append((receiver, queued, why))
        self.acknowledge(receiver, queued.sequence)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Waits until what was put and acknowledged is on the disk; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), timeout_s)

    def drain(self, timeout_s: float) -> bool:
        """Waits until every receiver has everything, and the disk knows it; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._has_work() and min(self._positions.values()) >= self._committed, timeout_s
            )

    def close(self) -> None:
        """Commits what is pending. Safe to call twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    def _has_work(self) -> bool:
        return bool(self._pending or self._acknowledged or self._dead)

    def _newest(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(sequence), 0) FROM message").fetchone()[0])

    def _known_positions(self) -> dict[str, int]:
        """Returns where each receiver is; those that are no longer configured are forgotten."""
        row = self._connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        newest = max(int(row[0]), self._newest())
        known = dict(self._connection.execute("SELECT name, position FROM receiver").fetchall())
        for name in known.keys() - set(self._receivers):
            log.warning(
                "the receiver %r of queued messages is no longer configured: what waited for it is dropped", name
            )
            self._connection.execute("DELETE FROM receiver WHERE name = ?", (name,))
        for name in self._receivers:
            self._connection.execute("INSERT OR IGNORE INTO receiver VALUES (?, ?)", (name, newest))
        return {name: int(known.get(name, newest)) for name in self._receivers}

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._has_work())
                if self._is_closing and not self._has_work():
                    return
                if not self._is_closing:
                    self._changed.wait_for(lambda: self._is_closing, _GROUP_S)  # what comes at once is one commit
                messages, acknowledged, dead = [*self._pending], dict(self._acknowledged), [*self._dead]
            try:
                newest = self._commit(messages, acknowledged, dead)
            except sqlite3.Error as error:
                self._say("messages can't be written to %s: %s; they wait in memory", self.path, reason(error))
                with self._changed:
                    if self._is_closing:
                        log.error("%s lost: %s", counted(len(self._pending), "message"), reason(error))
                        return
                    self._changed.wait_for(lambda: self._is_closing, _RETRY_S)
                continue
            with self._changed:
                for _ in messages:
                    self._pending.popleft()
                del self._dead[: len(dead)]
                self._positions |= acknowledged
                for name, sequence in acknowledged.items():
                    if self._acknowledged[name] == sequence:
                        del self._acknowledged[name]
                self._committed = max(self._committed, newest)
                self._changed.notify_all()

    def _commit(
        self, messages: Sequence[Message], acknowledged: dict[str, int], dead: Sequence[tuple[str, QueuedMessage, str]]
    ) -> int:
        """Writes all of it or nothing; returns the newest sequence number."""
        execute, rows, size = self._connection.execute, self._rows, self._size
        execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(
                "INSERT INTO message (source, body, is_telemetry) VALUES (?, ?, ?)",
                [(each.source, each.body, each.is_telemetry) for each in messages],
            )
            rows, size = rows + len(messages), size + sum(len(each.body.encode()) for each in messages)
            self._connection.executemany(
                "INSERT OR REPLACE INTO dead_letter VALUES (?, ?, ?, ?, ?)",
                [(name, each.sequence, each.message.source, each.message.body, why) for name, each, why in dead],
            )
            for name, sequence in acknowledged.items():
                execute("UPDATE receiver SET position = ? WHERE name = ?", (sequence, name))
            done = min((self._positions | acknowledged).values(), default=None)
            if done is not None and acknowledged:
                rows, size = self._deleted("sequence <= ?", (done,), rows, size)
            before = rows
            for kind in ("is_telemetry", "NOT is_telemetry"):
                rows, size = self._limited(kind, rows, size)
            newest = self._newest()
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        self._rows, self._size = rows, size
        if before > rows:
            self.dropped += before - rows
            self._say("the queue of messages is full: %s dropped so far", counted(self.dropped, "message"))
        return newest

    def _limited(self, kind: str, rows: int, size: int) -> tuple[int, int]:
        """Deletes the oldest of a kind while there is too much; returns what is left."""
        rows_over, size_over = rows - self._limits.rows, size - self._limits.size_bytes
        last = None
        if rows_over > 0 or size_over > 0:
            found = self._connection.execute(
                f"SELECT sequence, length(CAST(body AS BLOB)) FROM message WHERE {kind} ORDER BY sequence"
            )
            for sequence, freed in found:
                last = sequence
                rows_over, size_over = rows_over - 1, size_over - freed
                if rows_over <= 0 and size_over <= 0:
                    break
            found.close()
        return (rows, size) if last is None else self._deleted(f"{kind} AND sequence <= ?", (last,), rows, size)

    def _deleted(self, where: str, values: tuple[int, ...], rows: int, size: int) -> tuple[int, int]:
        statement = f"DELETE FROM message WHERE {where} RETURNING length(CAST(body AS BLOB))"
        sizes = [found[0] for found in self._connection.execute(statement, values).fetchall()]
        return rows - len(sizes), size - sum(sizes)

    def _say(self, text: str, *values: object) -> None:
        if time.monotonic() - self._said_s >= _SAY_S:
            self._said_s = time.monotonic()
            log.warning(text, *values)


class MessageReader(Closeable):
    """Reads a queue's messages on one thread."""

    def __init__(self, path: Path) -> None:
        """Opens the queue's file."""
        self._connection = connect(path)

    def next_messages(self, after: int, most: int) -> list[QueuedMessage]:
        """Returns the oldest messages behind a sequence number.

        Raises:
            sqlite3.Error: if the file can't be read.
        """
        rows = self._connection.execute(
            "SELECT sequence, source, body, is_telemetry FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, most),
        )
        return [QueuedMessage(row[0], Message(row[1], row[2], bool(row[3]))) for row in rows]

    def close(self) -> None:
        self._connection.close()
