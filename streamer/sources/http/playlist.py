"""What an HLS playlist on https names, fetched with its certificates checked: FFmpeg doesn't hand on how to do that."""

from __future__ import annotations

import io
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import av

from streamer.common.errors import SourceError
from streamer.sources.http.client import Answer, HttpClient, NotHttpError
from streamer.sources.options import SourceOptions

NEEDS_OPTIONS = {"http_persistent": "0", "http_multiple": "0"}
"""For FFmpeg, which else takes every connection of a playlist for one of its own (PyAV 18 aborts then)."""

_CHECKS_ALWAYS = int(av.__version__.partition(".")[0]) >= 19


def is_needed(options: SourceOptions) -> bool:
    """Whether FFmpeg would fetch a playlist's segments with other checks than wanted.

    It hands neither `tls_verify` nor `ca_file` on to them: before PyAV 19 it checks no segment's certificate, and since
    then every one's, against authorities that it looks for where many systems have none
    (`findings/pyav19-hls-tls-options.sh`).
    """
    return bool(options.tls_verify) or _CHECKS_ALWAYS


class PlaylistFiles:
    """Opens playlists, keys and segments for PyAV, as its `io_open`.

    One that can't be had is an empty file: an exception in here would be printed by PyAV, with its URL.

    Attributes:
        problem: why the last one couldn't be had, as the end of "source 'x' ...", None while all could.
    """

    def __init__(self, shown: str, options: SourceOptions) -> None:
        self._shown, self._options = shown, options
        self._moved: dict[str, str] = {}
        self.problem: str | None = None

    def __call__(self, url: str, flags: int, options: Mapping[str, str]) -> io.RawIOBase:
        """Returns the content of `url`; FFmpeg's options `offset` and `end_offset` say which bytes of it."""
        for folder, now in self._moved.items():
            if url.startswith(folder):
                url = now + url[len(folder) :]
        if urlsplit(url).scheme not in ("http", "https"):
            what = "encrypted segments" if url.startswith("crypto") else "parts elsewhere than on HTTP"
            return self._fail(f"has {what}, which can't be fetched with certificates checked; try --tls-verify no")
        first, end = options.get("offset", "0"), int(options.get("end_offset", "0"))
        part = f"bytes={first}-{end - 1 if end else ''}" if end or first != "0" else None
        try:
            answer = HttpClient(url, self._shown, self._options).get(part)
        except NotHttpError:
            return self._fail("can't be asked for its parts; check that it is a web server, and the proxy's settings")
        except SourceError as error:
            return self._fail(str(error).removeprefix(f"source {self._shown!r} "))
        if answer.url != _without_user(url):
            self._moved[urljoin(url, ".")] = urljoin(answer.url, ".")
        return _Body(answer, self._options.stall_timeout_s)

    def _fail(self, problem: str) -> io.RawIOBase:
        self.problem = problem
        return _Empty()


class _Empty(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return b""


class _Body(io.RawIOBase):
    """An answer's body; one that breaks off ends there."""

    def __init__(self, answer: Answer, timeout_s: float) -> None:
        self._answer, self._timeout_s = answer, timeout_s
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            try:
                self._rest = self._answer.read(self._timeout_s)
            except OSError:
                return b""
        size = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def close(self) -> None:
        self._answer.close()
        super().close()


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
