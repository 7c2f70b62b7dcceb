"""Where frames and detections go: a window, a video file, pictures, JSON lines, or nowhere."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from streamer.common.errors import ConfigError, nearest, short
from streamer.common.redaction import redact
from streamer.sinks.base import Sink as Sink
from streamer.sinks.base import StopRequested as StopRequested
from streamer.sinks.files import is_device, is_special, safe_name, same_file
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sources.base import SourceInfo
from streamer.sources.spec import PICTURE_SUFFIXES

VIDEO_ENDINGS = (".mp4", ".mkv", ".avi", ".mov")
LINES_ENDING = ".jsonl"
_WORDS = ("window", "null")
_KNOWN = f"window, null, a file ending in {', '.join(VIDEO_ENDINGS)} or {LINES_ENDING}, or folder/ for pictures"


def open_sink(
    uri: str,
    source: SourceInfo,
    *,
    labels: Sequence[str],
    options: SinkOptions = DEFAULT_SINK_OPTIONS,
    paths: OutputPaths | None = None,
) -> Sink:
    """Opens an output for the frames of one source.

    Args:
        uri: ``window``, ``out.mp4`` (``.mkv``, ``.avi``, ``.mov``), ``out.jsonl``, ``folder/`` for annotated pictures
            (an existing folder needs no slash), or ``null``. ``{source}`` in it becomes the source's name.
        source: what will be written: its name, frame rate, and the file whose audio is copied.
        labels: the model's class names, by class id.
        options: wishes for recordings; other outputs take no notice.
        paths: those that the run has begun to write: such a path isn't written again, its name gets a number. None is
            a run of its own, which replaces what is there.

    Raises:
        ConfigError: if `uri` is none of these, or is the source itself, or would delete it with old segments, or if
            another run is writing it.
        SinkError: if the output can't be written, or there is no display for a window.
    """
    if uri == "null":
        from streamer.sinks.null import NullSink

        return NullSink()
    if uri == "window":
        from streamer.sinks.window.sink import WindowSink

        return WindowSink(source.name)
    refuse_overwriting_source(uri, source, options)
    path = _path(uri, source)
    if _is_folder(uri, path):
        from streamer.sinks.images import ImagesSink

        return ImagesSink(path, paths=paths)
    if path.suffix.lower() == LINES_ENDING:
        from streamer.sinks.jsonl import JsonlSegmentsSink, JsonlSink

        if options.segment_s is not None and not is_special(path):
            return JsonlSegmentsSink(path, source, labels, options.segment_s, options.retain, paths=paths)
        return JsonlSink(path, labels, live=source.live, paths=paths)
    if options.segment_s is not None:
        from streamer.sinks.video.segments import SegmentsSink

        return SegmentsSink(path, source, options.segment_s, options.retain, crf=options.crf, paths=paths)
    from streamer.sinks.video.sink import VideoSink

    return VideoSink(path, source, crf=options.crf, paths=paths)


def refuse_conflicts(
    uris: Sequence[str],
    sources: Sequence[SourceInfo],
    *,
    tiled: bool = True,
    own: Mapping[str, Sequence[str]] | None = None,
    read: Sequence[SourceInfo] = (),
    inputs: Mapping[Path, str] | None = None,
    report: Path | None = None,
    options: SinkOptions = DEFAULT_SINK_OPTIONS,
) -> None:
    """Makes sure that no two outputs of a run are one file or folder, and that none is anything that the run reads.

    Args:
        uris: the outputs of each source that has none of its own.
        sources: all sources.
        tiled: whether several sources may share a video.
        own: outputs of sources that have their own, by the source's name.
        read: sources that the run has read before.
        inputs: other files that the run reads, and what each is, such as ``the model``.
        report: the report's file: it may be none of all these either.
        options: wishes for recordings: where old segments are deleted, no source may be one.

    Raises:
        ConfigError: if it is so, or several sources can't share an output.
    """
    own = own or {}
    common = [source for source in sources if source.name not in own]
    wanted: list[tuple[str, Sequence[SourceInfo]]] = [
        (uri, [source]) for source in sources for uri in own.get(source.name, ())
    ]
    for uri in uris:
        writers: Sequence[SourceInfo] = common
        if len(common) > 1 and "{source}" not in uri and uri not in _WORDS:
            if not (tiled and is_shared_video(uri)):
                way = " (or choose --layout tiled for one video of all)" if is_shared_video(uri) else ""
                raise ConfigError(f"several sources can't share {redact(uri)!r}: write {{source}} into its name{way}")
            writers = common[:1]
        wanted.append((uri, writers))
    outputs = [(_path(uri, source), uri) for uri, writers in wanted if uri not in _WORDS for source in writers]
    taken: list[Path] = []
    for path, uri in outputs:
        for other in (*sources, *read):
            _refuse_source(path, uri, other, options)
        _refuse_input(path, f"output {str(path)!r}", inputs or {})
        if not is_device(path):
            if any(same_file(path, one) for one in taken):
                raise ConfigError(f"two outputs are {str(path)!r}: leave one out, or name the sources, as in door=URI")
            taken.append(path)
    if report is not None and not is_device(report):
        shown = f"the report {str(report)!r}"
        for other in (*sources, *read):
            if _holds_source(report, False, other):
                raise ConfigError(f"{shown} is also the source {other.uri!r}; choose another")
        _refuse_input(report, shown, inputs or {})
        if any(same_file(report, path) for path in taken):
            raise ConfigError(f"{shown} is also an output; choose another")


def is_shared_video(uri: str) -> bool:
    """Whether an output is a video that all sources would share."""
    return is_video(uri) and "{source}" not in uri


def is_video(uri: str) -> bool:
    """Whether an output is a video file, as opposed to a folder, a window and so on."""
    path = _expanded(uri)
    return path.suffix.lower() in VIDEO_ENDINGS and not _is_folder(uri, path)


def is_segmented(uri: str) -> bool:
    """Whether an output is one that is written in segments where they are asked for: a video, or JSON lines."""
    path = _expanded(uri)
    return is_video(uri) or (path.suffix.lower() == LINES_ENDING and not (_is_folder(uri, path) or is_special(path)))


def refuse_overwriting_source(uri: str, source: SourceInfo, options: SinkOptions = DEFAULT_SINK_OPTIONS) -> None:
    """Makes sure that an output isn't the file or the folder that a source reads; links are followed.

    Args:
        uri: the output.
        source: the source.
        options: wishes for recordings: where old segments are deleted, the source mustn't be one.

    Raises:
        ConfigError: if it is, or if `uri` is no output at all.
    """
    if uri in _WORDS:
        return
    path = _path(uri, source)
    _check_kind(uri, path)
    _refuse_source(path, uri, source, options)


def default_output() -> tuple[str, str]:
    """Returns the output to use where none was asked for, and why: a window where one can be opened, else a file."""
    from streamer.sinks.window.display import display_problem

    problem = display_problem()
    return ("window", "there is a display") if problem is None else ("out.mp4", problem)


def _path(uri: str, source: SourceInfo) -> Path:
    path = _expanded(uri.replace("{source}", safe_name(source.name)))
    try:
        path.exists()
    except OSError as error:
        raise ConfigError(f"output {short(uri)} can't be used: {error.strerror}; choose another") from None
    return path


def _expanded(uri: str) -> Path:
    return Path(os.path.expanduser(uri))  # noqa: PTH111 - Path.expanduser raises where there is no such home


def _is_folder(uri: str, path: Path) -> bool:
    return bool(uri) and (uri.endswith(("/", os.sep)) or path.is_dir())


def _holds_source(path: Path, is_folder: bool, source: SourceInfo) -> bool:
    """Whether writing to `path` could replace what the source reads; pictures keep their names in a folder."""
    if source.path is None:
        if not is_folder or source.pattern is None:
            return False
        matches = glob.glob(str(source.pattern), recursive=True)  # noqa: PTH207 - any start, any depth
        return any(same_file(folder, path) for folder in {Path(match).parent for match in matches})
    is_picture = source.path.suffix.lower() in PICTURE_SUFFIXES
    return same_file(path, source.path) or (is_folder and is_picture and same_file(path, source.path.parent))


def _refuse_source(path: Path, uri: str, source: SourceInfo, options: SinkOptions) -> None:
    """Raises ConfigError where writing to `path`, or deleting old segments there, would take what the source reads."""
    if _holds_source(path, _is_folder(uri, path), source):
        raise ConfigError(f"output {str(path)!r} is also the source {source.uri!r}; choose another")
    if options.retain is not None and source.path is not None and is_segmented(uri):
        from streamer.sinks.retention import segment_names

        if segment_names(path).fullmatch(source.path.name) and same_file(source.path.parent, path.parent):
            raise ConfigError(
                f"source {source.uri!r} is an old segment of the output {str(path)!r}; choose another output"
            )


def _refuse_input(path: Path, shown: str, inputs: Mapping[Path, str]) -> None:
    for file, what in inputs.items():
        if same_file(path, file):
            raise ConfigError(f"{shown} is also {what} {str(file)!r}; choose another")


def _check_kind(uri: str, path: Path) -> None:
    scheme, slashes, _ = uri.partition("://")
    if slashes:
        raise ConfigError(f"unknown kind of output {redact(uri)!r} ({scheme.lower()}://); known: {_KNOWN}")
    ending = path.suffix.lower()
    if not _is_folder(uri, path) and ending not in (*VIDEO_ENDINGS, LINES_ENDING):
        near = nearest(ending, (*VIDEO_ENDINGS, LINES_ENDING)) if ending else nearest(uri, _WORDS)
        raise ConfigError(f"unknown kind of output {redact(uri)!r}{near}; known: {_KNOWN}")
