"""Fetches what an HLS playlist on https names with certificates checked, which FFmpeg doesn't."""

from __future__ import annotations

import io
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from streamer.common.errors import SourceError
from streamer.sources.av_input import PYAV_MAJOR
from streamer.sources.http.client import HttpClient, HttpResponse, NotHttpError
from streamer.sources.options import SourceOptions
from streamer.sources.spec import WEB_SCHEMES

NEEDS_OPTIONS = {"http_persistent": "0", "http_multiple": "0"}
"""Options without which FFmpeg takes a playlist's connections for its own (PyAV 18 aborts then)."""


def is_needed(options: SourceOptions) -> bool:
    """Whether FFmpeg would check the certificates of a playlist's segments in another way than wanted.

    It passes neither `tls_verify` nor `ca_file` on to them: before PyAV 19 it checks no segment's certificate, since
    then each one's, against a bundle in a place where many systems have none (`findings/pyav19-hls-tls-options.sh`).
    """
    return bool(options.tls_verify) or PYAV_MAJOR >= 19


class PlaylistFiles:
    """Opens playlists, keys and segments for PyAV, as its `io_open`.

    One that fails is an empty file: PyAV would print an exception from here, with the URL in it.

    Attributes:
        problem: why the last one failed, as the end of "source 'x' ...", else None.
    """

    def __init__(self, shown: str, options: SourceOptions) -> None:
        self._shown, self._options = shown, options
        self._moved: dict[str, str] = {}
        self.problem: str | None = None

    def __call__(self, url: str, flags: int, options: Mapping[str, str]) -> io.RawIOBase:
        """Returns the content of `url`; FFmpeg's options `offset` and `end_offset` limit it to a byte range."""
        for folder, now in self._moved.items():
            if url.startswith(folder):
                url = now + url[len(folder) :]
        if urlsplit(url).scheme not in WEB_SCHEMES:
            what = "encrypted segments" if url.startswith("crypto") else "parts elsewhere than on HTTP"
            return self._fail(f"has {what}, which can't be fetched with certificates checked; try --tls-verify no")
        first, end = options.get("offset", "0"), int(options.get("end_offset", "0"))
        byte_range = f"bytes={first}-{end - 1 if end else ''}" if end or first != "0" else None
        try:
            response = HttpClient(url, self._shown, self._options).get(byte_range)
        except NotHttpError:
            return self._fail("can't be asked for its parts; check that it is a web server, and the proxy's settings")
        except SourceError as error:
            return self._fail(str(error).removeprefix(f"source {self._shown!r} "))
        if response.url != _without_user(url):
            self._moved[urljoin(url, ".")] = urljoin(response.url, ".")
        return _Body(response, self._options.stall_timeout_s)

    def _fail(self, problem: str) -> io.RawIOBase:
        self.problem = problem
        return _Empty()


class _Empty(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return b""


class _Body(io.RawIOBase):
    """A response's body; it ends where the connection fails."""

    def __init__(self, response: HttpResponse, timeout_s: float) -> None:
        self._response, self._timeout_s = response, timeout_s
        self._unread = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._unread:
            try:
                self._unread = self._response.read(self._timeout_s)
            except OSError:
                return b""
        size = len(self._unread) if size < 0 else size
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def close(self) -> None:
        self._response.close()
        super().close()


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
