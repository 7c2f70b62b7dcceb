"""A response's body as a file for FFmpeg."""

from __future__ import annotations

from streamer.common.errors import SourceError
from streamer.sources.http.client import HttpResponse


class ResponseFile:
    """A stream that came with the first response: a second request might get another, or none."""

    def __init__(self, response: HttpResponse, shown: str, timeout_s: float) -> None:
        """Takes ownership of a response.

        Args:
            response: its body is read, and closed with this.
            shown: the source in messages.
            timeout_s: for all reads until `extend` is called.
        """
        self._response, self._shown = response, shown
        self.extend(timeout_s)

    def extend(self, timeout_s: float) -> None:
        """Restarts the time-out, for all reads from now on: FFmpeg reads until it has a packet, however slowly."""
        self._timeout_s = timeout_s
        self._response.extend(timeout_s)

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes, none at the end.

        Raises:
            SourceError: if nothing comes in time, or the connection fails.
        """
        try:
            data = self._response.read()
        except TimeoutError:
            problem = f"sent no picture within {self._timeout_s:g} s"
        except OSError as error:
            problem = f"broke off ({error.strerror or error})"
        else:
            self._response.unread(data[size:])
            return data[:size]
        raise SourceError(f"source {self._shown!r} {problem}; check its network and power")

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._response.close()
