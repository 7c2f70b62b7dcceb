"""Which source reads a URL, told from how the camera answers."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from streamer.errors import SourceError
from streamer.redaction import redact
from streamer.sources.base import Source
from streamer.sources.http.client import Answer, HttpClient, NotHttpError
from streamer.sources.http.jpegs import MOST_PICTURE_BYTES, JpegScanner
from streamer.sources.http.motion_jpeg import MotionJpegSource
from streamer.sources.http.snapshot import SnapshotSource
from streamer.sources.options import SourceOptions
from streamer.sources.video import VideoSource

_VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".flv", ".mpd", ".ogv", ".ogg", ".mpg"),
    *(".mpeg", ".3gp", ".wmv", ".asf", ".h264", ".h265", ".264", ".265", ".hevc", ".gif"),
)
_JPEG_TYPES = frozenset(("image/jpeg", "image/jpg", "image/pjpeg"))
_PICTURE_TYPES = _JPEG_TYPES | {"image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "image/tiff"}
_VAGUE_TYPES = ("", "application/octet-stream", "text/plain", "binary/octet-stream")
_PLAYLIST_TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
_JPEG_START, _PLAYLIST_START = b"\xff\xd8\xff", b"#EXTM3U"
_MOST_PLAYLIST_BYTES = 16 << 20


def open_http(uri: str, *, name: str, options: SourceOptions) -> Source:
    """Opens one connection to a camera, or to anything else over HTTP; it has its first frame when this returns.

    Raises:
        SourceError: if it can't be opened, or gives no frame.
    """
    scheme, _, rest = uri.partition(":")
    url, shown = f"{scheme.lower()}:{rest}", redact(uri)
    if PurePosixPath(urlsplit(url).path).suffix.lower() in _VIDEO_SUFFIXES:
        return VideoSource(uri, name=name, options=options)
    client = HttpClient(url, shown, options)
    try:
        answer = client.get()
    except NotHttpError:
        return VideoSource(uri, name=name, options=options)
    try:
        source = _open_pictures(client, answer, shown, name, options)
    except OSError as error:
        raise SourceError(f"source {shown!r} broke off ({error.strerror or error}); check its network") from None
    except BaseException:
        answer.close()
        raise
    if source is not None:
        return source
    answer.close()
    return VideoSource(uri, name=name, options=options)


def _open_pictures(client: HttpClient, answer: Answer, shown: str, name: str, options: SourceOptions) -> Source | None:
    """Returns the source of a camera's pictures, None for what FFmpeg is to read."""
    kind = answer.content_type
    if kind.startswith("multipart/"):
        return MotionJpegSource(client, answer, b"", shown, name=name, options=options)
    if kind in _PICTURE_TYPES - _JPEG_TYPES or (kind in _JPEG_TYPES and answer.length is not None):
        return SnapshotSource(client, answer, b"", shown, name=name, options=options)
    if kind not in (*_JPEG_TYPES, *_VAGUE_TYPES, *_PLAYLIST_TYPES):
        return None
    start = b""
    while len(start) < len(_PLAYLIST_START) and (data := answer.read()):
        start += data
    if kind in _PLAYLIST_TYPES or start.startswith(_PLAYLIST_START):
        _check_playlist(answer, len(start), shown)
        return None
    if start.startswith(_JPEG_START):
        start, is_single = _read_single(answer, start)
        kind_of_source = SnapshotSource if is_single else MotionJpegSource
        return kind_of_source(client, answer, start, shown, name=name, options=options)
    if start.lstrip(b"\r\n").startswith(b"--") and answer.length is None:
        return MotionJpegSource(client, answer, start, shown, name=name, options=options)
    return None


def _read_single(answer: Answer, start: bytes) -> tuple[bytes, bool]:
    """Reads on until it is known whether an answer is one picture or many; returns what was read, and that."""
    scanner = JpegScanner()
    pictures = len(scanner.feed(start))
    content = bytearray(start)
    try:
        while data := answer.read():
            content += data
            if pictures or len(content) > MOST_PICTURE_BYTES:
                return bytes(content), False
            pictures += len(scanner.feed(data))
    except TimeoutError:  # the connection is kept, but nothing more comes
        if not pictures:
            raise
    return bytes(content), pictures <= 1


def _check_playlist(answer: Answer, size: int, shown: str) -> None:
    """Raises SourceError for a playlist of a size that FFmpeg shouldn't be given: it keeps all of it in memory."""
    while data := answer.read():
        size += len(data)
        if size > _MOST_PLAYLIST_BYTES:
            raise SourceError(
                f"source {shown!r} is a playlist of more than {_MOST_PLAYLIST_BYTES} bytes; check its URL"
            )
