"""Messages as JSON lines, in files that are rotated by size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.events.message import QueuedMessage
from streamer.events.receiver import DeliveryError, Receiver


@dataclass
class LinesReceiver(Receiver):
    """Appends each message to a file, and renames it to ``NAME.1``, ``NAME.2`` and so on when it has grown too large.

    A line that was cut off, by a kill or a full disk, is ended before the next.

    Attributes:
        path: the file.
        max_bytes: size from which on a new file is begun.
        backups: how many old files are kept.
    """

    name: str
    path: Path
    max_bytes: int = 10_000_000
    backups: int = 5

    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        try:
            if self.path.exists() and self.path.stat().st_size >= self.max_bytes:
                self._rotate()
            with self.path.open("ab+") as file:
                size = file.seek(0, os.SEEK_END)
                if size:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                for queued in messages:
                    file.write(queued.message.body.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DeliveryError(f"{self.path} can't be written: {error.strerror}") from error
        acknowledge(messages[-1].sequence)

    def _rotate(self) -> None:
        numbered = [self.path, *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, self.backups + 1))]
        for older, newer in zip(reversed(numbered[1:]), reversed(numbered[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        if not self.backups:
            self.path.unlink()

    def close(self) -> None: ...
