"""Where frames come from. `open_source` turns a URI into a source; a new kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import streamer.frames  # noqa: F401 - first: see there why OpenCV comes before PyAV
from streamer.common.errors import ConfigError, SourceError, StreamerError, nearest
from streamer.common.redaction import redact
from streamer.sources import uri as uris
from streamer.sources.base import Source, SourceInfo, as_source_error
from streamer.sources.cameras import cameras
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.uri import default_name, split_name

__all__ = [
    "Source",
    "SourceInfo",
    "SourceOptions",
    "decodes_video",
    "list_sources",
    "open_source",
    "redact",
    "split_name",
]

_SAMPLE_PATH = Path(__file__).parent.parent / "data" / "sample.mp4"


def open_source(
    uri: str, *, name: str | None = None, options: SourceOptions = DEFAULT_OPTIONS, wait: bool = True
) -> Source:
    """Opens `uri` and reads its first frame.

    A camera or a stream that is lost later is reached again, as `options` say.

    Args:
        uri: a camera's number or node, a video or picture file, a folder, a pattern, a stream's URL, or ``sample``.
        name: what to call it; None derives a name from the URI.
        options: wishes for cameras and patience with networks.
        wait: False returns at once from a camera or a stream, while it is being opened; see `Source.wait_ready`.

    Raises:
        ConfigError: if `uri` is empty or its scheme isn't known.
        SourceError: if it isn't there, can't be opened, or gives no frame.
    """
    if not uri:
        raise ConfigError("a source's URI is empty; give a file, a camera's number, a URL, or sample")
    kind = next(kind for kind in _KINDS if kind.takes(uri))
    name = name or default_name(uri)
    try:
        source = kind.open(uri, name, options)
    except StreamerError:
        raise
    except Exception as error:
        raise as_source_error(error, name) from error
    if wait:
        try:
            source.wait_ready()
        except BaseException:
            source.close()
            raise
    return source


def decodes_video(uri: str) -> bool:
    """Whether `uri` is a video file or a stream: something that is read as packets and decoded."""
    return next(kind for kind in _KINDS if kind.takes(uri)).decodes_video


def list_sources() -> list[str]:
    """Returns a line for each camera that the system reports, then for each kind of source and how to write it."""
    found = [f"{number:<12} camera: {label}" for number, label in cameras().items()]
    return [*(found or ["(no camera reported by the system)"]), *(kind.help for kind in _KINDS if kind.help)]


def _open_sample(uri: str, name: str, options: SourceOptions) -> Source:
    if not _SAMPLE_PATH.is_file():
        raise SourceError("the packaged sample clip is missing; install the package again, or give another source")
    source = _open_video(str(_SAMPLE_PATH), name, options)
    source.info = replace(source.info, uri=uri)
    return source


def _open_camera(uri: str, name: str, options: SourceOptions) -> Source:
    from streamer.sources.webcam import WebcamSource

    return _open_live(lambda o: WebcamSource(uri, name=name, options=o), uri, name, options, shown=uri)


def _open_video(uri: str, name: str, options: SourceOptions) -> Source:
    from streamer.sources.video import VideoSource

    return VideoSource(uri, name=name, options=options)


def _open_stream(uri: str, name: str, options: SourceOptions) -> Source:
    uris.refuse_delimiters(uri)

    def connect(wanted: SourceOptions) -> Source:
        if uris.scheme_of(uri) in ("http", "https"):
            from streamer.sources.http.opening import open_http

            return open_http(uri, name=name, options=wanted)
        from streamer.sources.video import VideoSource

        return VideoSource(uri, name=name, options=wanted)

    return _open_live(connect, uri, name, options, shown=redact(uri))


def _open_live(
    connect: Callable[[SourceOptions], Source], uri: str, name: str, options: SourceOptions, *, shown: str
) -> Source:
    from streamer.sources.live import LiveSource
    from streamer.sources.workers.pool import is_possible

    def connect_isolated(wanted: SourceOptions) -> Source:
        from streamer.sources.workers.isolated import IsolatedSource

        return IsolatedSource(uri, name=name, options=wanted)

    isolated = connect_isolated if is_possible() else None
    return LiveSource(connect, name=name, uri=shown, options=options, connect_isolated=isolated)


def _open_pictures(uri: str, name: str, options: SourceOptions) -> Source:
    from streamer.sources.image_files import ImageFilesSource

    if not uris.is_pattern(uri):
        _check_exists(uri)
    return ImageFilesSource(uri, name=name, options=options)


def _open_file(uri: str, name: str, options: SourceOptions) -> Source:
    _check_exists(uri)
    return _open_video(uri, name, options)


def _refuse_scheme(uri: str, name: str, options: SourceOptions) -> Source:
    scheme = uris.scheme_of(uri) or ""
    known = (*uris.STREAM_SCHEMES, "file")
    hint = nearest(scheme, known)
    raise ConfigError(f"source {redact(uri)!r} has the unknown scheme {scheme!r}{hint}; known: {', '.join(known)}")


def _check_exists(uri: str) -> None:
    path = uris.local_path(uri)
    try:
        if path.is_file() or path.is_dir():
            return
        if path.exists():
            raise SourceError(f"source {redact(uri)!r} is neither a file nor a folder; give one of these")
        near = nearest(path.name, [*(entry.name for entry in path.parent.iterdir()), "sample"])
        hint = near or "; check the path"
    except OSError:  # the folder isn't there either, or the name can't be one
        hint = f"; there is no readable folder {redact(str(path.parent))!r}"
    raise SourceError(f"source {redact(uri)!r} does not exist{hint}")


@dataclass(frozen=True)
class _Kind:
    takes: Callable[[str], bool]
    open: Callable[[str, str, SourceOptions], Source]
    help: str = ""
    decodes_video: bool = False


_SCHEMES = ", ".join(f"{scheme}://" for scheme in uris.STREAM_SCHEMES)
# The first that takes a URI opens it.
_KINDS = (
    _Kind(lambda uri: uri == uris.SAMPLE, _open_sample, "sample       the packaged clip"),
    _Kind(uris.is_camera, _open_camera, "0            a camera's number, or /dev/video0"),
    _Kind(
        uris.is_stream,
        _open_stream,
        f"URL          a stream: {', '.join(f'{s}://' for s in uris.STREAM_SCHEMES)}",
        True,
    ),
    _Kind(lambda uri: uris.scheme_of(uri) not in (None, "file"), _refuse_scheme),
    _Kind(uris.is_pictures, _open_pictures, "image.jpg    a picture, a folder/ of them, or a pattern such as '*.jpg'"),
    _Kind(lambda uri: True, _open_file, "clip.mp4     a video file in any format that PyAV opens", decodes_video=True),
)
