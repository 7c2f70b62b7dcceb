"""The file under a muxer, playable after a failed write."""

from __future__ import annotations

import os
from pathlib import Path

from streamer.sinks.files import open_file


class TransactionalFile:
    """The file object that a muxer writes through.

    `commit` marks what the file holds now as playable. When a later write fails, `rollback` restores that state: it
    truncates the rest and restores the bytes before it that were overwritten.

    Attributes:
        error: why a write failed, or None.
    """

    def __init__(self, path: Path, *, replace: bool = True) -> None:
        """Opens, truncates and locks `path`.

        Raises:
            FileExistsError: if it exists, even as a link, and `replace` is False.
            BlockingIOError: if another run is writing it.
            OSError: if it can't be written.
        """
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT | (0 if replace else os.O_EXCL))
        self._file = os.fdopen(descriptor, "wb+", buffering=0)
        self._file.truncate(0)
        self._committed_bytes = self._final_bytes = 0
        self._undo: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    @property
    def closed(self) -> bool:
        """Whether the file is closed; the muxer then omits its closing parts."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Writes all of `data` at the current position; returns its length."""
        try:
            self._save_overwritten(len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
            raise
        return len(data)

    @property
    def size_bytes(self) -> int:
        """How large the file is; how large it was when it was closed."""
        return self._final_bytes if self._file.closed else os.fstat(self._file.fileno()).st_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position; returns it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Returns the position."""
        return self._file.tell()

    def commit(self) -> bool:
        """Marks the present state as the one to restore; returns whether the file has grown since the last."""
        before, self._committed_bytes = self._committed_bytes, os.fstat(self._file.fileno()).st_size
        self._undo.clear()
        return self._committed_bytes > before

    def clear(self) -> None:
        """Empties the file, to start over."""
        self._undo.clear()
        self._committed_bytes = 0
        self._file.seek(0)
        self._file.truncate()

    def rollback(self) -> None:
        """Restores the committed state, as far as the disk allows, and closes the file."""
        if self._file.closed:
            return
        try:
            for offset, data in reversed(self._undo):
                self._file.seek(offset)
                self._file.write(data)
            self._file.truncate(self._committed_bytes)
        finally:
            self.close()

    def close(self) -> None:
        """Closes the file as it is."""
        self._final_bytes = self.size_bytes
        self._file.close()

    def _save_overwritten(self, count: int) -> None:
        position = self._file.tell()
        count = min(count, self._committed_bytes - position)
        if count > 0:
            self._undo.append((position, self._file.read(count)))
            self._file.seek(position)
