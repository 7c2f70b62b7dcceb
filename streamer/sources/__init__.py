"""Where frames come from. `open_source` turns a URI into a source; a new kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamer.common.errors import SourceError, StreamerError, nearest
from streamer.common.redaction import redact
from streamer.sources.base import Source, SourceInfo, as_source_error
from streamer.sources.cameras import cameras
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.spec import STREAM_SCHEMES, WEB_SCHEMES, SourceKind, SourceSpec

__all__ = ["Source", "SourceInfo", "SourceOptions", "SourceSpec", "list_sources", "open_source", "redact"]


def open_source(
    source: str | SourceSpec, *, name: str | None = None, options: SourceOptions = DEFAULT_OPTIONS, wait: bool = True
) -> Source:
    """Opens a source and reads its first frame.

    A lost camera or stream reconnects automatically, as `options` say.

    Args:
        source: a URI as `SourceSpec.parse` takes it, or what it has returned.
        name: what to call a URI; None derives a name from it.
        options: of cameras, time-outs and reconnects.
        wait: False returns at once from a camera or a stream, while it is being opened; see `Source.wait_ready`.

    Raises:
        ConfigError: if the URI is empty or its scheme isn't known.
        SourceError: if it isn't there, can't be opened, or gives no frame.
    """
    spec = SourceSpec.parse(source, name=name) if isinstance(source, str) else source
    try:
        opened = _OPEN[spec.kind](spec, options)
    except StreamerError:
        raise
    except Exception as error:
        raise as_source_error(error, spec.name) from error
    if wait:
        try:
            opened.wait_ready()
        except BaseException:
            opened.close()
            raise
    return opened


def list_sources() -> list[str]:
    """Returns a line for each camera that the system reports, then for each kind of source and how to write it."""
    found = [f"{number:<12} camera: {label}" for number, label in cameras().items()]
    return [*(found or ["(no camera reported by the system)"]), *_HELP]


def _open_camera(spec: SourceSpec, options: SourceOptions) -> Source:
    from streamer.sources.webcam import WebcamSource

    return _open_live(lambda wanted: WebcamSource(spec, wanted), spec, options)


def _open_stream(spec: SourceSpec, options: SourceOptions) -> Source:
    def connect(wanted: SourceOptions) -> Source:
        if spec.scheme in WEB_SCHEMES:
            from streamer.sources.http.opening import open_http

            return open_http(spec, wanted)
        return _open_video(spec, wanted)

    return _open_live(connect, spec, options)


def _open_live(connect: Callable[[SourceOptions], Source], spec: SourceSpec, options: SourceOptions) -> Source:
    from streamer.sources.live import LiveSource
    from streamer.sources.workers.pool import is_possible

    def connect_isolated(wanted: SourceOptions) -> Source:
        from streamer.sources.workers.isolated import IsolatedSource

        return IsolatedSource(spec, wanted)

    isolated = connect_isolated if is_possible() else None
    return LiveSource(connect, name=spec.name, uri=str(spec), options=options, connect_isolated=isolated)


def _open_pictures(spec: SourceSpec, options: SourceOptions) -> Source:
    from streamer.sources.image_files import ImageFilesSource

    if spec.kind is SourceKind.PICTURES and not spec.files:
        _check_exists(spec)
    return ImageFilesSource(spec, options)


def _open_file(spec: SourceSpec, options: SourceOptions) -> Source:
    _check_exists(spec)
    return _open_video(spec, options)


def _open_standard_input(spec: SourceSpec, options: SourceOptions) -> Source:
    from streamer.sources.standard_input import StandardInputSource

    return StandardInputSource(spec, options)


def _open_video(spec: SourceSpec, options: SourceOptions) -> Source:
    from streamer.sources.video import VideoSource

    return VideoSource(spec, options)


def _check_exists(spec: SourceSpec) -> None:
    path = spec.path or Path()
    shown = f"source {str(spec)!r}"
    try:
        if path.is_file() or path.is_dir():
            return
        if path.exists():
            raise SourceError(f"{shown} is neither a file nor a folder; give one of these")
        if spec.kind is SourceKind.SAMPLE:
            raise SourceError("the packaged sample clip is missing; install the package again, or give another source")
        near = nearest(path.name, [*(entry.name for entry in path.parent.iterdir()), "sample"])
        hint = near or "; check the path"
    except OSError:  # the folder isn't there either, or the name can't be one
        hint = f"; there is no readable folder {redact(str(path.parent))!r}"
    raise SourceError(f"{shown} does not exist{hint}")


_OPEN: dict[SourceKind, Callable[[SourceSpec, SourceOptions], Source]] = {
    SourceKind.SAMPLE: _open_file,
    SourceKind.CAMERA: _open_camera,
    SourceKind.STREAM: _open_stream,
    SourceKind.PICTURES: _open_pictures,
    SourceKind.PATTERN: _open_pictures,
    SourceKind.VIDEO: _open_file,
    SourceKind.STDIN: _open_standard_input,
}
_HELP = (
    "sample       the packaged clip",
    "0            a camera's number, or /dev/video0",
    f"URL          a stream: {', '.join(f'{scheme}://' for scheme in STREAM_SCHEMES)}",
    "image.jpg    a picture; a folder/ of pictures and videos, or a pattern such as '*.jpg'",
    "clip.mp4     a video file in any format that PyAV opens",
    "-            a video on standard input: MPEG-TS, Matroska, MJPEG, ...",
)
