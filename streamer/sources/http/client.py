"""A small HTTP client for cameras: authentication, redirects, and one deadline for the whole response."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import urllib.request
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from streamer.common.errors import SourceError
from streamer.common.timed_http import Deadline, response_within
from streamer.common.tls import distrusted, tls_context
from streamer.sources.diagnosis import NEEDS_PASSWORD, why_broken_off
from streamer.sources.http.auth import Authenticator
from streamer.sources.options import SourceOptions
from streamer.sources.spec import WEB_SCHEMES

_HEADERS = {"User-Agent": "nanodet-streamer", "Accept": "*/*", "Connection": "close"}
_SAFE_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
_MAX_REDIRECTS = 8
_MAX_CHALLENGES = 3
_READ_BYTES = 1 << 16


class NotHttpError(Exception):
    """FFmpeg must ask instead: the server's answer has no status line, or a proxy is configured."""


class HttpResponse:
    """A response whose body isn't read yet.

    Attributes:
        content_type: in lower case, without parameters; empty where there is none.
        length: the body's length in bytes, None where it isn't known.
        has_ranges: whether the server serves byte ranges.
        url: where it came from after redirects, without user and password.
    """

    def __init__(self, response: http.client.HTTPResponse, url: str, deadline: Deadline) -> None:
        self._response, self.url, self._deadline = response, url, deadline
        self.content_type = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        self.length = response.length
        self.has_ranges = (response.headers.get("Accept-Ranges") or "none").strip().lower() != "none"
        self._unread = b""

    def read(self, timeout_s: float | None = None) -> bytes:
        """Returns what has arrived of the body, at least a byte; nothing at its end. `timeout_s` restarts the time-out.

        Raises:
            OSError: if the connection fails, or nothing comes in time (`TimeoutError`).
        """
        if self._unread:
            unread, self._unread = self._unread, b""
            return unread
        if timeout_s is not None:
            self.extend(timeout_s)
        try:
            return self._response.read1(_READ_BYTES)
        except (http.client.HTTPException, ValueError) as error:  # an invalid chunk, or closed meanwhile
            raise ConnectionResetError("invalid HTTP response") from error

    def extend(self, timeout_s: float) -> None:
        """Restarts the time-out, for all reads from now on."""
        self._deadline.extend(timeout_s)

    def peek(self, count: int) -> bytes:
        """Returns the next `count` bytes or more, fewer at the end; they will be read again. Raises as `read`."""
        start = b""
        while len(start) < count and (data := self.read()):
            start += data
        self._unread = start
        return start

    def unread(self, data: bytes) -> None:
        """Puts data back that will be read again."""
        self._unread = data + self._unread

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._response.close()


class ResponseFile:
    """The body of a first response as a file for FFmpeg: a second request might get another stream, or none."""

    def __init__(self, response: HttpResponse, shown: str, timeout_s: float) -> None:
        """Takes ownership of a response; `timeout_s` is for all reads until `extend` is called."""
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
        except OSError as error:
            problem = why_broken_off(error, self._timeout_s, "no picture within")
            raise SourceError(f"source {self._shown!r} {problem}") from None
        self._response.unread(data[size:])
        return data[:size]

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._response.close()


class HttpClient:
    """Requests one URL, any number of times."""

    def __init__(self, uri: str, shown: str, options: SourceOptions) -> None:
        """Connects to nothing yet.

        `uri` has user and password, percent-encoded where they need it; `shown` is the source in messages.
        """
        parts = urlsplit(uri)
        self._parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self._shown, self._timeout_s, self._trust = shown, options.open_timeout_s, options.tls_verify
        self._auth = Authenticator(unquote(parts.username or ""), unquote(parts.password or ""))
        self._socket: socket.socket | None = None

    def get(self, byte_range: str | None = None) -> HttpResponse:
        """Requests the URL, or a part: the value of ``Range``.

        Returns once the head has arrived, within `SourceOptions.open_timeout_s`.

        Raises:
            NotHttpError: if FFmpeg must ask instead.
            SourceError: if there is no response, or one with another status than success.
        """
        deadline = Deadline(self._timeout_s)
        try:
            return self._follow(deadline, {} if byte_range is None else {"Range": byte_range})
        except http.client.RemoteDisconnected:
            problem = "closed the connection without an answer; check the path in the URL"
        except http.client.BadStatusLine:
            raise NotHttpError from None
        except TimeoutError:
            problem = f"did not answer within {self._timeout_s:g} s; check its address and the network"
        except ConnectionRefusedError:
            problem = "refused the connection; check the port, and that the camera or server is running"
        except http.client.HTTPException as error:  # too many or too long lines, for instance
            problem = f"sent no valid HTTP response ({type(error).__name__}: {error}); check the path in the URL"
        except ssl.SSLCertVerificationError as error:
            problem = distrusted(error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            problem = f"can't be opened ({reason}); check its address, and that it serves video"
        raise SourceError(f"source {self._shown!r} {problem}") from None

    def interrupt(self) -> None:
        """Shuts the connection down, also while another thread reads from it."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                # Not the TLS socket's own method, which drops its TLS state while it is read from.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _follow(self, deadline: Deadline, more: dict[str, str]) -> HttpResponse:
        """Follows redirects and answers challenges; the camera's own server alone gets the password."""
        parts, redirects, challenged = self._parts, 0, 0
        while True:
            is_camera = _server_of(parts) == _server_of(self._parts)
            answer = self._auth.header(f"{parts.scheme}://{parts.netloc}{_selector(parts)}") if is_camera else None
            headers = _HEADERS | more | ({"Authorization": answer} if answer else {})
            response = self._request(parts, headers, deadline)
            if response.status == (206 if "Range" in more else 200):
                return HttpResponse(response, parts._replace(fragment="").geturl(), deadline)
            response.close()
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                parts = urlsplit(urljoin(parts.geturl(), response.headers["Location"]))
                redirects += 1
                if parts.scheme not in WEB_SCHEMES or redirects > _MAX_REDIRECTS:
                    raise SourceError(
                        f"source {self._shown!r} redirects too often, or to other than HTTP; check the path in the URL"
                    )
                continue
            challenges = response.headers.get_all("WWW-Authenticate") or ()
            challenged += 1
            is_challenge = response.status == 401 and is_camera and challenged <= _MAX_CHALLENGES
            if not (is_challenge and self._auth.accept(challenges, was_sent=answer is not None)):
                raise SourceError(f"source {self._shown!r} {_refusal(response.status)}")

    def _request(self, parts: SplitResult, headers: dict[str, str], deadline: Deadline) -> http.client.HTTPResponse:
        host = parts.hostname or ""
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            raise NotHttpError  # FFmpeg supports proxies
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls_context(self._trust)
            connection = http.client.HTTPSConnection(host, parts.port, timeout=deadline.left_s(), context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=deadline.left_s())
        try:
            connection.connect()
            self._socket = connection.sock
            # The documented hook; mypy wants a class that takes the socket only.
            connection.response_class = response_within(deadline)  # type: ignore[assignment]
            connection.request("GET", _selector(parts), headers=headers)
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise


def _server_of(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _selector(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_SAFE_CHARACTERS)
    return f"{path}?{quote(parts.query, safe=_SAFE_CHARACTERS)}" if parts.query else path


def _refusal(status: int) -> str:
    if status == 401:
        return NEEDS_PASSWORD
    return f"answered: {status} {http.client.responses.get(status, 'unknown')}; check the path in the URL"
