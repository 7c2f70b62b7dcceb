"""Opens a video's container with FFmpeg's options for where it comes from, and says why one can't be opened."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
from av.container import InputContainer

from streamer.common.tls import SCHEMES as TLS_SCHEMES
from streamer.common.tls import ffmpeg_options, why_distrusted
from streamer.sources.av_input import RAW_CLOCK, Readable, open_input
from streamer.sources.diagnosis import NEEDS_PASSWORD, why_unplayable, why_unplayable_at
from streamer.sources.http import playlist
from streamer.sources.options import SourceOptions
from streamer.sources.spec import WEB_SCHEMES, SourceSpec

# How much FFmpeg may read to probe a stream. Its defaults wait seconds for what isn't needed here.
_STREAM_OPTIONS = {"analyzeduration": "200000", "fpsprobesize": "2", "buffer_size": "4194304"}
# Of a program that writes in real time: by default FFmpeg reads 5 s of MPEG-TS before the first picture.
_PIPE_OPTIONS = {"analyzeduration": "500000"}
_RTSP_SCHEMES = ("rtsp", "rtsps")
_RTSP_OPTIONS = {
    "auto": {"rtsp_flags": "prefer_tcp"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp"},
}
# Continues a file of known size on a server with byte ranges after a connection failed. FFmpeg waits 0, 1, 3, 7 ... s
# between attempts.
_WEB_OPTIONS = {"reconnect": "1", "reconnect_delay_max": "7"}
# What a URL, a redirect or a playlist may lead to: never to a file of this machine.
_HTTP_PROTOCOLS = "http,https,httpproxy,tcp,tls,crypto"
_PROTOCOLS = {
    "http": _HTTP_PROTOCOLS,
    "https": _HTTP_PROTOCOLS,
    "rtsp": f"{_HTTP_PROTOCOLS},rtp,srtp,udp",
    "rtsps": f"{_HTTP_PROTOCOLS},rtp,srtp,udp",
    "rtmp": f"{_HTTP_PROTOCOLS},rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp",
    "rtmps": f"{_HTTP_PROTOCOLS},rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp",
    "udp": "udp,rtp",
    "tcp": "tcp",
}
PLAYLISTS = ("hls", "dash")
"""FFmpeg's formats that list other files."""


class Body(Readable, Protocol):
    """What a video is read from in place of a path or URL; closed with it."""

    def extend(self, timeout_s: float) -> None:
        """Restarts the time-out, for all reads from now on."""

    def close(self) -> None:
        """Ends reading. Safe to call twice."""


class ContainerOpener:
    """Opens one video's container, more than once if need be.

    Attributes:
        target: its path or URL, with its password.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions, body: Body | None) -> None:
        """Opens nothing yet; `body` is what it is read from in place of its path or URL."""
        self.target: str | Path = spec.url if spec.path is None else spec.path
        self._shown, self._options, self._body = str(spec), options, body
        self._path, self._scheme = spec.path, spec.scheme
        self._is_local = not spec.kind.is_live
        self._files: playlist.PlaylistFiles | None = None

    def open(self) -> InputContainer:
        """Opens a file or a stream; raises av.FFmpegError if it can't be opened."""
        options, target = self._options, self.target
        if isinstance(target, Path):  # "file:" keeps FFmpeg from taking a colon in a file's name for a scheme
            return open_input(f"file:{target}", options=RAW_CLOCK)
        if self._body is not None:
            return open_input(self._body, options=RAW_CLOCK | _PIPE_OPTIONS if self._is_local else {})
        scheme = self._scheme or ""
        av_options = _STREAM_OPTIONS | {"protocol_whitelist": _PROTOCOLS[scheme]}
        if scheme in _RTSP_SCHEMES:
            av_options |= _RTSP_OPTIONS[options.rtsp_transport]
        if scheme in WEB_SCHEMES:
            av_options |= _WEB_OPTIONS
        if scheme in TLS_SCHEMES:
            av_options |= ffmpeg_options(options.tls_verify)
        timeout = (options.open_timeout_s, options.stall_timeout_s)
        if scheme != "https" or not playlist.is_needed(options):
            return open_input(target, options=av_options, timeout=timeout)
        if not urlsplit(target).path.lower().endswith((".m3u8", ".m3u")):
            with contextlib.suppress(av.InvalidDataError):  # maybe a playlist whose segments fail
                container = open_input(target, options=av_options, timeout=timeout)
                if container.format.name not in PLAYLISTS:
                    return container
                container.close()
        self._files = playlist.PlaylistFiles(self._shown, options)
        av_options = _STREAM_OPTIONS | playlist.NEEDS_OPTIONS
        return open_input(target, format="hls", options=av_options, timeout=timeout, io_open=self._files)

    def why_closed(self, error: Exception, waited_s: float) -> str:
        """Returns why it can't be opened, as the end of "source 'x' ..."; `waited_s` is how long that took."""
        if self._path is not None:
            reason = getattr(error, "strerror", None) or str(error)
            return why_unplayable(self._path) or f"is damaged or no video ({reason}); copy or convert it again"
        if self._is_local:
            return (
                "is no video that FFmpeg recognises; write MPEG-TS, Matroska, MJPEG or Y4M to it (ffmpeg -f mpegts -)"
            )
        if isinstance(error, (av.ExitError, TimeoutError)) or waited_s >= self._options.open_timeout_s:
            return f"did not answer within {self._options.open_timeout_s:g} s; check its address and the network"
        if isinstance(error, ConnectionRefusedError):
            return "refused the connection; check the port, and that the camera or server is running"
        if isinstance(error, av.HTTPUnauthorizedError):
            return NEEDS_PASSWORD
        if isinstance(error, (av.HTTPClientError, av.HTTPError)):
            return f"answered: {error.strerror}; check the path in the URL"
        url, left_s = str(self.target), self._options.open_timeout_s - waited_s
        cause = why_distrusted(url, self._options.tls_verify, left_s)
        cause = (
            cause or (self._files and self._files.problem) or why_unplayable_at(url, left_s, self._options.tls_verify)
        )
        if cause is not None:
            return cause
        reason = getattr(error, "strerror", None) or type(error).__name__
        return f"can't be opened ({reason}); check its address, and that it serves video"
