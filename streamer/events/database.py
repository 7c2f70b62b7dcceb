"""The SQLite file of queued messages: its schema, and the rescue of a damaged one."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from streamer.common.errors import SinkError, counted
from streamer.sinks.files import reason

log = logging.getLogger(__name__)

_BUSY_S = 10.0
_VERSION: Final = 1
_SCHEMA = (
    """CREATE TABLE message (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, body TEXT NOT NULL,
        is_telemetry INTEGER NOT NULL)""",
    "CREATE INDEX message_telemetry ON message (sequence) WHERE is_telemetry",
    "CREATE TABLE receiver (name TEXT PRIMARY KEY, position INTEGER NOT NULL)",
    """CREATE TABLE dead_letter (
        receiver TEXT NOT NULL, sequence INTEGER NOT NULL, source TEXT NOT NULL, body TEXT NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (receiver, sequence))""",
    f"PRAGMA user_version = {_VERSION}",
)


def open_database(path: Path) -> sqlite3.Connection:
    """Opens the file for writing, or makes it; a damaged one is moved aside, and what can be read of it is kept.

    Raises:
        SinkError: if it can't be opened, or is of another program or a newer version.
    """
    try:
        connection = connect(path)
        try:
            if connection.execute("PRAGMA quick_check").fetchone()[0] == "ok":
                _make_schema(connection, path)
                return connection
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
        except BaseException:
            connection.close()
            raise
        connection.close()
        return _rescued(path)
    except (sqlite3.Error, OSError) as error:
        raise SinkError(f"can't use the queue of messages {path}: {reason(error)}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file as it is; a commit is on the disk when it returns."""
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError:
        pass  # damaged; the check says so
    return connection


def _make_schema(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == _VERSION:
        return
    if version or connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None:
        raise SinkError(f"{path} isn't a queue of this version of the program: choose another file")
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _rescued(path: Path) -> sqlite3.Connection:
    """Moves a damaged file and its log aside, and copies the rows that can be read into a new one."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(path.name + ending)
        if part.exists():
            part.rename(aside.with_name(aside.name + ending))
    connection = connect(path)
    _make_schema(connection, path)
    connection.execute("BEGIN IMMEDIATE")
    kept = sum(_copy_table(aside, connection, table) for table in ("message", "dead_letter", "receiver"))
    _number_behind_positions(connection)
    connection.execute("COMMIT")
    log.warning("the queue of messages %s was damaged: %s kept, the rest is in %s", path, counted(kept, "row"), aside)
    return connection


def _number_behind_positions(connection: sqlite3.Connection) -> None:
    """Has new messages numbered behind every receiver's position: at or before it they would count as delivered."""
    connection.execute(
        "INSERT INTO sqlite_sequence SELECT 'message', 0 WHERE 'message' NOT IN (SELECT name FROM sqlite_sequence)"
    )
    connection.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, (SELECT coalesce(max(position), 0) FROM receiver))"
        " WHERE name = 'message'"
    )


def _copy_table(aside: Path, connection: sqlite3.Connection, table: str) -> int:
    """Copies rows from both ends of a table, up to what can't be read; returns how many there are then."""
    for order in ("ASC", "DESC"):
        try:
            with closing(connect(aside)) as damaged:
                for row in damaged.execute(f"SELECT * FROM {table} ORDER BY rowid {order}"):
                    places = ",".join("?" * len(row))
                    connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)
        except sqlite3.DatabaseError:
            continue
        break
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
