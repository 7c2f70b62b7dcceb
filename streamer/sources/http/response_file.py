"""An answer's body as the file that FFmpeg reads."""

from __future__ import annotations

from streamer.common.errors import SourceError
from streamer.sources.http.client import Answer


class ResponseFile:
    """A stream that came with the first answer: a second request would find another, or nobody."""

    def __init__(self, answer: Answer, shown: str, timeout_s: float) -> None:
        """Takes an answer over.

        Args:
            answer: its body is read, and closed with this.
            shown: what to call it in messages.
            timeout_s: how long all reading may take until `allow` is called.
        """
        self._answer, self._shown = answer, shown
        self.allow(timeout_s)

    def allow(self, timeout_s: float) -> None:
        """Lets all reading from now on take so long: FFmpeg reads on until it has a packet, however slowly it comes."""
        self._timeout_s = timeout_s
        self._answer.allow(timeout_s)

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end.

        Raises:
            SourceError: if nothing comes in time, or it breaks off.
        """
        try:
            data = self._answer.read()
        except TimeoutError:
            problem = f"sent no picture within {self._timeout_s:g} s"
        except OSError as error:
            problem = f"broke off ({error.strerror or error})"
        else:
            self._answer.unread(data[size:])
            return data[:size]
        raise SourceError(f"source {self._shown!r} {problem}; check its network and power")

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._answer.close()
