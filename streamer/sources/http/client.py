"""Asking a camera over HTTP: with its user and password, within a time for the whole answer, and nowhere but HTTP."""

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
from streamer.sources.http.auth import Login
from streamer.sources.options import SourceOptions

_HEADERS = {"User-Agent": "nanodet-streamer", "Accept": "*/*", "Connection": "close"}
_PATH_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
_MOST_REDIRECTS = 8
_MOST_LOGINS = 3
_AT_ONCE = 1 << 16


class NotHttpError(Exception):
    """It can't be asked here: what answers doesn't begin with a status line, or a proxy is to be asked in its place."""


class Answer:
    """A camera's answer, whose body isn't read yet.

    Attributes:
        content_type: in lower case, without parameters; empty where none is given.
        length: the body's length in bytes, None where it isn't known.
        has_parts: whether a part of the body can be asked for alone.
        url: where it came from in the end, without user and password.
    """

    def __init__(self, response: http.client.HTTPResponse, url: str, deadline: Deadline) -> None:
        self._response, self.url, self._deadline = response, url, deadline
        self.content_type = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        self.length = response.length
        self.has_parts = (response.headers.get("Accept-Ranges") or "none").strip().lower() != "none"
        self._kept = b""

    def read(self, timeout_s: float | None = None) -> bytes:
        """Returns what has come of the body, at least a byte; nothing at its end.

        Args:
            timeout_s: how long to wait for it; None leaves the time that is left of the last.

        Raises:
            OSError: if the connection breaks off, or the time is over (`TimeoutError`).
        """
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        if timeout_s is not None:
            self.allow(timeout_s)
        try:
            return self._response.read1(_AT_ONCE)
        except (http.client.HTTPException, ValueError) as error:  # a chunk that is none, or closed meanwhile
            raise ConnectionResetError("no proper answer") from error

    def allow(self, timeout_s: float) -> None:
        """Gives all reading from now on so long."""
        self._deadline.extend(timeout_s)

    def peek(self, count: int) -> bytes:
        """Returns the beginning of what is to be read, at least so many bytes where there are; raises as `read`."""
        start = b""
        while len(start) < count and (data := self.read()):
            start += data
        self._kept = start
        return start

    def unread(self, data: bytes) -> None:
        """Has what was read come again."""
        self._kept = data + self._kept

    def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        self._response.close()


class HttpClient:
    """Asks one URL, as often as wanted."""

    def __init__(self, uri: str, shown: str, options: SourceOptions) -> None:
        """Asks nothing yet.

        Args:
            uri: with user and password, percent-encoded where they need it.
            shown: what to call it in messages.
            options: patience.
        """
        parts = urlsplit(uri)
        self._parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self._shown, self._timeout_s, self._trust = shown, options.open_timeout_s, options.tls_verify
        self._login = Login(unquote(parts.username or ""), unquote(parts.password or ""))
        self._socket: socket.socket | None = None

    def get(self, part: str | None = None) -> Answer:
        """Returns the answer's head, within the time that a camera has to open.

        Args:
            part: which bytes are wanted, as ``Range`` says it; None for all.

        Raises:
            NotHttpError: if it can't be asked here.
            SourceError: if there is no answer, or one that says no.
        """
        deadline = Deadline(self._timeout_s)
        try:
            return self._follow(deadline, {} if part is None else {"Range": part})
        except http.client.RemoteDisconnected:
            problem = "closed the connection without an answer; check the path in the URL"
        except http.client.BadStatusLine:
            raise NotHttpError from None
        except TimeoutError:
            problem = f"did not answer within {self._timeout_s:g} s; check its address and the network"
        except ConnectionRefusedError:
            problem = "refused the connection; check the port, and that the camera or server is running"
        except http.client.HTTPException as error:  # too many or too long lines, for instance
            problem = f"sent no proper HTTP answer ({type(error).__name__}: {error}); check the path in the URL"
        except ssl.SSLCertVerificationError as error:
            problem = distrusted(error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            problem = f"can't be opened ({reason}); check its address, and that it serves video"
        raise SourceError(f"source {self._shown!r} {problem}") from None

    def interrupt(self) -> None:
        """Ends the connection, also while another thread reads from it."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                # Not the object's own method: that of TLS takes the connection apart while it is read from.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _follow(self, deadline: Deadline, more: dict[str, str]) -> Answer:
        """Returns the answer behind all redirects, with the login that it asks for."""
        parts, redirects, logins = self._parts, 0, 0
        while True:
            is_camera = _place(parts) == _place(self._parts)
            login = self._login.header(f"{parts.scheme}://{parts.netloc}{_selector(parts)}") if is_camera else None
            headers = _HEADERS | more | ({"Authorization": login} if login else {})
            response = self._ask(parts, headers, deadline)
            if response.status == (206 if "Range" in more else 200):
                return Answer(response, parts._replace(fragment="").geturl(), deadline)
            response.close()
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                parts = urlsplit(urljoin(parts.geturl(), response.headers["Location"]))
                redirects += 1
                if parts.scheme not in ("http", "https") or redirects > _MOST_REDIRECTS:
                    raise SourceError(
                        f"source {self._shown!r} redirects too often, or to other than HTTP; check the path in the URL"
                    )
                continue
            challenges = response.headers.get_all("WWW-Authenticate") or ()
            logins += 1
            is_asked = response.status == 401 and is_camera and logins <= _MOST_LOGINS
            if not (is_asked and self._login.take(challenges, was_sent=login is not None)):
                raise SourceError(f"source {self._shown!r} {_refusal(response.status)}")

    def _ask(self, parts: SplitResult, headers: dict[str, str], deadline: Deadline) -> http.client.HTTPResponse:
        host = parts.hostname or ""
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            raise NotHttpError  # FFmpeg knows how to ask a proxy
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = tls_context(self._trust)
            connection = http.client.HTTPSConnection(host, parts.port, timeout=deadline.left_s(), context=context)
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=deadline.left_s())
        try:
            connection.connect()
            self._socket = connection.sock
            # Its own attribute for this purpose; the class's constructor takes nothing but the socket.
            connection.response_class = response_within(deadline)  # type: ignore[assignment]
            connection.request("GET", _selector(parts), headers=headers)
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise


def _place(parts: SplitResult) -> tuple[str, str | None, int]:
    """Returns what tells one server from another, however its URL is written."""
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _selector(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_PATH_CHARACTERS)
    return f"{path}?{quote(parts.query, safe=_PATH_CHARACTERS)}" if parts.query else path


def _refusal(status: int) -> str:
    if status == 401:
        return "wants a user and password, or others than given; write SCHEME://USER:PASSWORD@HOST/..."
    return f"answered: {status} {http.client.responses.get(status, 'unknown')}; check the path in the URL"
