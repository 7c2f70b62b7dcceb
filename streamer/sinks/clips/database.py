"""The SQLite file of a folder of clips: its schema, and rows to `Clip` and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from streamer.common.errors import SinkError
from streamer.sinks.clips.clip import Clip
from streamer.sinks.files import reason, utc_text

NAME: Final = "clips.sqlite"
"""The file's name in its folder; SQLite keeps two more beside it while it is open."""

_APPLICATION_ID = 0x4E44434C
_BUSY_S = 10.0
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE clip (
            id TEXT PRIMARY KEY, source TEXT NOT NULL, begin_utc TEXT NOT NULL, end_utc TEXT NOT NULL,
            best_label TEXT, best_score REAL, video TEXT NOT NULL, snapshot TEXT, detections TEXT, captions TEXT,
            is_complete INTEGER NOT NULL)""",
        """CREATE TABLE clip_label (
            clip_id TEXT NOT NULL REFERENCES clip (id) ON DELETE CASCADE, position INTEGER NOT NULL,
            label TEXT NOT NULL, PRIMARY KEY (clip_id, label))""",
        "CREATE INDEX clip_by_begin ON clip (begin_utc)",
        "CREATE INDEX clip_by_source ON clip (source, begin_utc)",
        "CREATE INDEX clip_by_label ON clip_label (label, clip_id)",
        f"PRAGMA application_id = {_APPLICATION_ID}",
    ),
)
"""Statements from each version of the schema to the next; ``PRAGMA user_version`` counts those that are done."""

_COLUMNS = (
    "id", "source", "begin_utc", "end_utc", "best_label", "best_score", "video", "snapshot", "detections", "captions",
    "is_complete",
)  # fmt: skip


class DamagedIndexError(SinkError):
    """The index of a folder is no SQLite file of this program, or damaged; `clips check --mend` makes it again."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into SinkError, of a damaged file into DamagedIndexError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            mend = f"'nanodet-stream clips check {path.parent} --mend' makes it again from the files"
            raise DamagedIndexError(f"the index {path} is damaged ({reason(error)}): {mend}") from error
        raise SinkError(f"can't use the index {path}: {reason(error)}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Opens the index, makes it where there is none, and brings its schema up to date.

    A commit is on the disk when it returns, as far as SQLite and the disk promise: write-ahead log, synchronous FULL.
    File systems without shared memory, such as network shares, get a rollback journal instead of the log.

    Raises:
        DamagedIndexError: if the file isn't an index.
        SinkError: if it can't be opened, or is of a newer version of this program.
    """
    with explained(path):
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {pragma}")
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) == len(_MIGRATIONS):
        return
    with transaction(connection):  # another process may have been quicker
        version = _version(connection)
        if version > len(_MIGRATIONS):
            raise SinkError(f"the index {path} is of a newer version of this program: update it")
        if version == 0 and connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None:
            raise DamagedIndexError(f"{path} is a database of another program: choose another folder for clips")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is executed in it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def put(connection: sqlite3.Connection, clip: Clip) -> None:
    """Writes a clip's row, or writes it again."""
    names = [
        None if path is None else path.name for path in (clip.video, clip.snapshot, clip.detections, clip.captions)
    ]
    values = (
        *(clip.id, clip.source, utc_text(clip.begin_utc), utc_text(clip.end_utc), clip.best_label, clip.best_score),
        *names,
        int(clip.is_complete),
    )
    connection.execute(f"INSERT OR REPLACE INTO clip ({', '.join(_COLUMNS)}) VALUES ({_marks(_COLUMNS)})", values)
    connection.execute("DELETE FROM clip_label WHERE clip_id = ?", (clip.id,))
    labels = [(clip.id, position, label) for position, label in enumerate(dict.fromkeys(clip.labels))]
    connection.executemany("INSERT INTO clip_label (clip_id, position, label) VALUES (?, ?, ?)", labels)


def remove(connection: sqlite3.Connection, clip_id: str) -> None:
    """Deletes a clip's row, if there is one."""
    connection.execute("DELETE FROM clip WHERE id = ?", (clip_id,))


def select(
    connection: sqlite3.Connection,
    folder: Path,
    *,
    clip_id: str | None = None,
    source: str | None = None,
    label: str | None = None,
    from_utc: datetime | None = None,
    to_utc: datetime | None = None,
    is_complete: bool | None = None,
    limit: int | None = None,
) -> list[Clip]:
    """Returns the clips that all given conditions hold for, the newest first; `folder` is where their files are.

    Rows whose files aren't plain names are left out: they lead out of the folder.
    """
    conditions: dict[str, object] = {}
    if clip_id is not None:
        conditions["id = ?"] = clip_id
    if source is not None:
        conditions["source = ?"] = source
    if label is not None:
        conditions["id IN (SELECT clip_id FROM clip_label WHERE label = ?)"] = label
    if from_utc is not None:
        conditions["end_utc >= ?"] = utc_text(from_utc)
    if to_utc is not None:
        conditions["begin_utc <= ?"] = utc_text(to_utc)
    if is_complete is not None:
        conditions["is_complete = ?"] = int(is_complete)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    query = f"SELECT {', '.join(_COLUMNS)} FROM clip {where} ORDER BY begin_utc DESC, id DESC LIMIT ?"
    values = [*conditions.values(), -1 if limit is None else max(0, limit)]
    with closing(connection.execute(query, values)) as found:
        rows = found.fetchall()
    labels = _labels(connection, [row[0] for row in rows])
    clips = (_clip(dict(zip(_COLUMNS, row, strict=True)), labels.get(row[0], ()), folder) for row in rows)
    return [clip for clip in clips if clip is not None]


def ids(connection: sqlite3.Connection) -> list[str]:
    """Returns the id of every row, those of rows that `select` leaves out too."""
    return [str(row[0]) for row in connection.execute("SELECT id FROM clip ORDER BY id").fetchall()]


def verify(connection: sqlite3.Connection) -> None:
    """Reads all of the file; raises sqlite3.DatabaseError if it is damaged."""
    found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _labels(connection: sqlite3.Connection, clip_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    for begin in range(0, len(clip_ids), 500):  # SQLite bounds the values of a statement
        part = clip_ids[begin : begin + 500]
        query = f"SELECT clip_id, label FROM clip_label WHERE clip_id IN ({_marks(part)}) ORDER BY clip_id, position"
        for clip_id, label in connection.execute(query, part).fetchall():
            labels[clip_id] = (*labels.get(clip_id, ()), label)
    return labels


def _clip(row: dict[str, Any], labels: tuple[str, ...], folder: Path) -> Clip | None:
    paths = {key: _path(row[key], folder) for key in ("video", "snapshot", "detections", "captions")}
    try:
        begin_utc, end_utc = _time(row["begin_utc"]), _time(row["end_utc"])
    except (TypeError, ValueError):
        return None
    video = paths.pop("video")
    if video is None or video.stem != row["id"]:
        return None
    return Clip(
        row["id"],
        str(row["source"]),
        begin_utc,
        end_utc,
        labels,
        row["best_label"],
        row["best_score"],
        video,
        **paths,
        is_complete=bool(row["is_complete"]),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _path(name: object, folder: Path) -> Path | None:
    is_plain = isinstance(name, str) and name and Path(name).name == name and "\0" not in name
    return folder / str(name) if is_plain else None


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
