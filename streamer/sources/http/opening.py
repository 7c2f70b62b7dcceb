"""Chooses the source for a URL by the server's response."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from streamer.common.errors import SourceError
from streamer.sources.base import Source
from streamer.sources.http.client import HttpClient, HttpResponse, NotHttpError, ResponseFile
from streamer.sources.http.jpeg_scanner import MAX_IMAGE_BYTES, JpegScanner
from streamer.sources.http.motion_jpeg import MotionJpegSource
from streamer.sources.http.snapshot import SnapshotSource
from streamer.sources.options import SourceOptions
from streamer.sources.spec import VIDEO_SUFFIXES, SourceSpec
from streamer.sources.video import VideoSource

_VIDEO_SUFFIXES = (*VIDEO_SUFFIXES, ".mpd", ".gif")
_JPEG_TYPES = frozenset(("image/jpeg", "image/jpg", "image/pjpeg"))
_PICTURE_TYPES = _JPEG_TYPES | {"image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "image/tiff"}
_VAGUE_TYPES = ("", "application/octet-stream", "text/plain", "binary/octet-stream")
_PLAYLIST_TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
# FFmpeg reads these from the first response: some servers give a stream only once.
_STREAM_TYPES = ("", "application/octet-stream", "video/mp2t", "video/mpeg", "video/x-flv", "video/x-matroska")
_JPEG_START, _PLAYLIST_START = b"\xff\xd8\xff", b"#EXTM3U"
_MAX_PLAYLIST_BYTES = 16 << 20


def open_http(spec: SourceSpec, options: SourceOptions) -> Source:
    """Opens one connection to a camera, or to anything else over HTTP; returns once it has a frame.

    Raises:
        SourceError: if it can't be opened, or gives no frame.
    """
    url, shown = spec.url, str(spec)
    if PurePosixPath(urlsplit(url).path).suffix.lower() in _VIDEO_SUFFIXES:
        return VideoSource(spec, options)
    client = HttpClient(url, shown, options)
    try:
        response = client.get()
    except NotHttpError:
        return VideoSource(spec, options)
    try:
        source = _open_pictures(client, response, shown, spec.name, options)
    except OSError as error:
        raise SourceError(f"source {shown!r} broke off ({error.strerror or error}); check its network") from None
    except BaseException:
        response.close()
        raise
    if source is not None:
        return source
    if response.content_type in _STREAM_TYPES and response.length is None and not response.has_ranges:
        return VideoSource(spec, options, body=ResponseFile(response, shown, options.stall_timeout_s))
    response.close()
    return VideoSource(spec, options)


def _open_pictures(
    client: HttpClient, response: HttpResponse, shown: str, name: str, options: SourceOptions
) -> Source | None:
    """Returns the source of a camera's pictures, None for what FFmpeg reads."""
    kind = response.content_type
    if kind.startswith("multipart/"):
        return MotionJpegSource(client, response, shown, name=name, options=options)
    if kind in _PICTURE_TYPES - _JPEG_TYPES or (kind in _JPEG_TYPES and response.length is not None):
        return SnapshotSource(client, response, shown, name=name, options=options)
    if kind not in (*_JPEG_TYPES, *_VAGUE_TYPES, *_PLAYLIST_TYPES):
        return None
    start = response.peek(len(_PLAYLIST_START))
    if kind in _PLAYLIST_TYPES or start.startswith(_PLAYLIST_START):
        _check_playlist(response, shown)
        return None
    if start.startswith(_JPEG_START):
        source_type = SnapshotSource if _is_single(response) else MotionJpegSource
        return source_type(client, response, shown, name=name, options=options)
    if start.lstrip(b"\r\n").startswith(b"--") and response.length is None:
        return MotionJpegSource(client, response, shown, name=name, options=options)
    return None


def _is_single(response: HttpResponse) -> bool:
    """Whether a response is one JPEG picture rather than many; puts back what it reads."""
    scanner, content, pictures = JpegScanner(), bytearray(), 0
    try:
        while pictures <= 1 and len(content) <= MAX_IMAGE_BYTES and (data := response.read()):
            content += data
            if pictures:
                return False
            pictures = len(scanner.feed(data))
    except TimeoutError:  # the connection is kept alive, but nothing more comes
        if not pictures:
            raise
    finally:
        response.unread(bytes(content))
    return pictures <= 1


def _check_playlist(response: HttpResponse, shown: str) -> None:
    """Raises SourceError for a playlist that is too large: FFmpeg keeps all of it in memory."""
    size = 0
    while data := response.read():
        size += len(data)
        if size > _MAX_PLAYLIST_BYTES:
            raise SourceError(f"source {shown!r} is a playlist of more than {_MAX_PLAYLIST_BYTES} bytes; check its URL")
