"""Resources that are open from construction on."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Closeable(abc.ABC):
    """A closeable resource; a context manager that closes it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Releases the resource."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
