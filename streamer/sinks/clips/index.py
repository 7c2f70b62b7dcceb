"""Which clips a folder has, in an SQLite file that a run writes and anyone may read meanwhile."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from streamer.common.closeable import Closeable
from streamer.common.errors import SinkError, counted
from streamer.sinks.base import WriteError
from streamer.sinks.clips import database
from streamer.sinks.clips.clip import Clip
from streamer.sinks.files import is_locked, reason

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_S = 5.0
_MOST_WAITING = 10_000


class ClipIndex(Closeable):
    """The index of a folder of clips. Its methods may be called on any thread, and in several processes.

    What is read is what has been committed. A thread of its own writes, so that no camera waits for the disk: what
    waits for it is merged by clip, and tried again where the disk is full.

    Example::

        with ClipIndex(Path("clips")) as index:
            for clip in index.find(label="person", limit=10):
                print(clip.begin_utc, clip.source, clip.video)
    """

    def __init__(self, folder: Path, *, must_exist: bool = True) -> None:
        """Opens the index ``FOLDER/clips.sqlite``.

        Args:
            folder: where the clips are.
            must_exist: whether an index has to be there; else it is made.

        Raises:
            DamagedIndexError: if it is damaged.
            SinkError: if there is none, or it can't be opened.
        """
        self.folder, self._path = folder, folder / database.NAME
        if must_exist and not self._path.is_file():
            raise SinkError(f"there is no index of clips in {str(folder)!r}: name a folder that --clips has written")
        self._connection = database.connect(self._path)
        self._lock = threading.Lock()  # of the connection
        self._changed = threading.Condition()
        self._waiting: dict[str, Clip | None] = {}  # None deletes the row
        self._is_writing = self._is_closed = False
        self._attempts = self._wanted = 0  # that have been made, and that `flush` waits for
        self._error: SinkError | None = None
        self._thread: threading.Thread | None = None

    def find(
        self,
        *,
        source: str | None = None,
        label: str | None = None,
        from_utc: datetime | None = None,
        to_utc: datetime | None = None,
        is_complete: bool | None = None,
        limit: int | None = 100,
    ) -> list[Clip]:
        """Returns the clips that all given conditions hold for, the newest first.

        Args:
            source: name of the source.
            label: a class that an event of the clip is about.
            from_utc: aware; clips that end before are left out.
            to_utc: aware; clips that begin later are left out.
            is_complete: whether the clip is.
            limit: most clips; None for all.

        Raises:
            SinkError: if the index can't be read.
        """
        return self._read(
            lambda connection: database.select(
                connection,
                self.folder,
                source=source,
                label=label,
                from_utc=from_utc,
                to_utc=to_utc,
                is_complete=is_complete,
                limit=limit,
            )
        )

    def get(self, clip_id: str) -> Clip | None:
        """Returns a clip, None if there is none of that id; raises SinkError if the index can't be read."""
        found = self._read(lambda connection: database.select(connection, self.folder, clip_id=clip_id, limit=1))
        return found[0] if found else None

    def ids(self) -> list[str]:
        """Returns the id of every row, those of rows that lead nowhere too; raises SinkError as `find`."""
        return self._read(database.ids)

    def verify(self) -> None:
        """Reads all of the index; raises DamagedIndexError if it is damaged."""
        self._read(database.verify)

    def delete(self, clip_id: str) -> bool:
        """Deletes a clip: its files, then its row. Returns whether there was one.

        Raises:
            SinkError: if it is still being written, or a file or the row can't be deleted.
        """
        clip = self.get(clip_id)
        if clip is None:
            return False
        if is_locked(clip.video):
            raise SinkError(f"can't delete {clip.video}: it is still being written")
        for path in clip.files:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise SinkError(f"can't delete {path}: {reason(error)}") from error
        self.remove(clip_id)
        self.flush()
        return True

    def put(self, clip: Clip) -> None:
        """Has a clip's row written, or written again; returns at once."""
        self._submit(clip.id, clip)

    def remove(self, clip_id: str) -> None:
        """Has a clip's row deleted; returns at once."""
        self._submit(clip_id, None)

    def flush(self) -> None:
        """Waits until all that was put or removed is committed, or has been tried.

        Raises:
            WriteError: if that fails; it is tried again later.
        """
        with self._changed:
            if not self._waiting and not self._is_writing:
                return
            wanted = self._wanted = self._attempts + self._is_writing + bool(self._waiting)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._attempts >= wanted or self._thread is None)
            if self._waiting and self._error is not None:
                raise WriteError(f"{self._error}; clips check --mend adds what is missing")

    def close(self) -> None:
        """Commits what waits, and closes the index. Safe to call twice.

        Raises:
            WriteError: if something can't be committed.
        """
        try:
            self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes the index without what waits to be written. Safe to call twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock, database.explained(self._path):
            return query(self._connection)

    def _submit(self, clip_id: str, clip: Clip | None) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._waiting.pop(clip_id, None)
            self._waiting[clip_id] = clip
            if len(self._waiting) > _MOST_WAITING:  # the disk has been full for long
                del self._waiting[next(iter(self._waiting))]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clip index", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    self._thread = None
                    self._changed.notify_all()
                    return
                taken, self._waiting, self._is_writing = self._waiting, {}, True
            error = self._write(taken)
            with self._changed:
                if error is not None:
                    self._waiting = {**taken, **self._waiting}
                    if self._error is None:
                        log.warning("%s; %s wait for it", error, counted(len(self._waiting), "row"))
                self._error, self._is_writing = error, False
                self._attempts += 1
                self._changed.notify_all()
                if error is not None:
                    self._changed.wait_for(lambda: self._is_closed or self._wanted > self._attempts, _RETRY_S)

    def _write(self, taken: dict[str, Clip | None]) -> SinkError | None:
        try:
            with self._lock, database.explained(self._path), database.transaction(self._connection):
                for clip_id, clip in taken.items():
                    if clip is None:
                        database.remove(self._connection, clip_id)
                    else:
                        database.put(self._connection, clip)
        except SinkError as error:
            return error
        return None
