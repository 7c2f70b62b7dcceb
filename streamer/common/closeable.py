"""What is open once it is made."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Closeable(abc.ABC):
    """Something that `close` lets go, or the end of a ``with`` block."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets it go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
