"""Which source reads a URL, told from how the camera answers."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from streamer.common.errors import SourceError
from streamer.sources.base import Source
from streamer.sources.http.client import Answer, HttpClient, NotHttpError
from streamer.sources.http.jpeg_scanner import MOST_PICTURE_BYTES, JpegScanner
from streamer.sources.http.motion_jpeg import MotionJpegSource
from streamer.sources.http.response_file import ResponseFile
from streamer.sources.http.snapshot import SnapshotSource
from streamer.sources.options import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.video import VideoSource

_VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".flv", ".mpd", ".ogv", ".ogg", ".mpg"),
    *(".mpeg", ".3gp", ".wmv", ".asf", ".h264", ".h265", ".264", ".265", ".hevc", ".gif"),
)
_JPEG_TYPES = frozenset(("image/jpeg", "image/jpg", "image/pjpeg"))
_PICTURE_TYPES = _JPEG_TYPES | {"image/png", "image/webp", "image/bmp", "image/x-ms-bmp", "image/tiff"}
_VAGUE_TYPES = ("", "application/octet-stream", "text/plain", "binary/octet-stream")
_PLAYLIST_TYPES = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
# What FFmpeg reads from the answer that is there already: some servers give a stream once.
_STREAM_TYPES = ("", "application/octet-stream", "video/mp2t", "video/mpeg", "video/x-flv", "video/x-matroska")
_JPEG_START, _PLAYLIST_START = b"\xff\xd8\xff", b"#EXTM3U"
_MOST_PLAYLIST_BYTES = 16 << 20


def open_http(spec: SourceSpec, options: SourceOptions) -> Source:
    """Opens one connection to a camera, or to anything else over HTTP; it has its first frame when this returns.

    Raises:
        SourceError: if it can't be opened, or gives no frame.
    """
    url, shown = spec.url, str(spec)
    if PurePosixPath(urlsplit(url).path).suffix.lower() in _VIDEO_SUFFIXES:
        return VideoSource(spec, options)
    client = HttpClient(url, shown, options)
    try:
        answer = client.get()
    except NotHttpError:
        return VideoSource(spec, options)
    try:
        source = _open_pictures(client, answer, shown, spec.name, options)
    except OSError as error:
        raise SourceError(f"source {shown!r} broke off ({error.strerror or error}); check its network") from None
    except BaseException:
        answer.close()
        raise
    if source is not None:
        return source
    if answer.content_type in _STREAM_TYPES and answer.length is None and not answer.has_parts:
        return VideoSource(spec, options, body=ResponseFile(answer, shown, options.stall_timeout_s))
    answer.close()
    return VideoSource(spec, options)


def _open_pictures(client: HttpClient, answer: Answer, shown: str, name: str, options: SourceOptions) -> Source | None:
    """Returns the source of a camera's pictures, None for what FFmpeg is to read."""
    kind = answer.content_type
    if kind.startswith("multipart/"):
        return MotionJpegSource(client, answer, shown, name=name, options=options)
    if kind in _PICTURE_TYPES - _JPEG_TYPES or (kind in _JPEG_TYPES and answer.length is not None):
        return SnapshotSource(client, answer, shown, name=name, options=options)
    if kind not in (*_JPEG_TYPES, *_VAGUE_TYPES, *_PLAYLIST_TYPES):
        return None
    start = answer.peek(len(_PLAYLIST_START))
    if kind in _PLAYLIST_TYPES or start.startswith(_PLAYLIST_START):
        _check_playlist(answer, shown)
        return None
    if start.startswith(_JPEG_START):
        kind_of_source = SnapshotSource if _is_single(answer) else MotionJpegSource
        return kind_of_source(client, answer, shown, name=name, options=options)
    if start.lstrip(b"\r\n").startswith(b"--") and answer.length is None:
        return MotionJpegSource(client, answer, shown, name=name, options=options)
    return None


def _is_single(answer: Answer) -> bool:
    """Reads as far as tells whether an answer is one JPEG picture or many; what was read comes again."""
    scanner, content, pictures = JpegScanner(), bytearray(), 0
    try:
        while pictures <= 1 and len(content) <= MOST_PICTURE_BYTES and (data := answer.read()):
            content += data
            if pictures:
                return False
            pictures = len(scanner.feed(data))
    except TimeoutError:  # the connection is kept, but nothing more comes
        if not pictures:
            raise
    finally:
        answer.unread(bytes(content))
    return pictures <= 1


def _check_playlist(answer: Answer, shown: str) -> None:
    """Raises SourceError for a playlist of a size that FFmpeg shouldn't be given: it keeps all of it in memory."""
    size = 0
    while data := answer.read():
        size += len(data)
        if size > _MOST_PLAYLIST_BYTES:
            raise SourceError(
                f"source {shown!r} is a playlist of more than {_MOST_PLAYLIST_BYTES} bytes; check its URL"
            )
