"""Where frames and detections go: a window, a video, pictures, lines of text, label files, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.errors import ConfigError
from streamer.sinks.base import Sink as Sink
from streamer.sinks.base import StopRequested as StopRequested
from streamer.sinks.files import is_special
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind
from streamer.sinks.spec import OutputSpec as OutputSpec
from streamer.sources.base import SourceInfo

if TYPE_CHECKING:
    from streamer.sinks.retention import SegmentRetention


def open_sink(
    output: str | OutputSpec,
    source: SourceInfo,
    *,
    labels: Sequence[str],
    options: SinkOptions = DEFAULT_SINK_OPTIONS,
    paths: OutputPaths | None = None,
) -> Sink:
    """Opens an output for the frames of one source.

    Args:
        output: as `OutputSpec.parse` takes it, or what it has returned. ``{source}`` in it becomes the source's name.
        source: what will be written: its name, frame rate, and the file whose audio is copied.
        labels: the model's class names, by class id.
        options: of recordings; other outputs ignore them.
        paths: those that the run has opened: such a path isn't opened again, its name gets a number. None is a run of
            its own, which replaces what is there.

    Raises:
        ConfigError: if `output` is none of these, or is the source itself, or would delete it with old segments, or if
            another run is writing it.
        SinkError: if the output can't be written, or there is no display for a window.
    """
    spec = OutputSpec.parse(output) if isinstance(output, str) else output
    if spec.kind is OutputKind.NULL:
        from streamer.sinks.null import NullSink

        return NullSink()
    if spec.kind is OutputKind.WINDOW:
        from streamer.sinks.window.sink import WindowSink

        return WindowSink(source.name)
    if spec.kind is OutputKind.PAGE:
        raise ConfigError(f"{spec} is a page for all sources of a run: open it with streamer.web.page.LivePage")
    if spec.kind is OutputKind.STDOUT:
        from streamer.sinks.jsonl import LineFormat
        from streamer.sinks.text import StandardOutputSink

        return StandardOutputSink(LineFormat(labels, live=source.live, rounded=options.rounded))
    paths = paths or OutputPaths()
    paths.check([(spec, source.name)], [source], retain=options.retain)
    path, retention = spec.path_for(source.name), paths.retention(options.retain)
    match spec.kind:
        case OutputKind.LINES | OutputKind.CSV:
            return _open_text(spec.kind, path, source, labels, options, retention, paths)
        case OutputKind.PICTURES:
            from streamer.sinks.images import ImagesSink

            return ImagesSink(path, paths=paths)
        case OutputKind.PICTURE:
            from streamer.sinks.images import PictureSink

            return PictureSink(path, paths=paths)
        case OutputKind.GIF:
            from streamer.sinks.gif import GifSink

            return GifSink(path, paths=paths)
        case OutputKind.COCO:
            from streamer.sinks.coco import CocoSink

            return CocoSink(path, labels, live=source.live, rounded=options.rounded, paths=paths)
        case OutputKind.YOLO:
            from streamer.sinks.yolo import YoloSink

            return YoloSink(path, labels, scores=options.yolo_scores, paths=paths)
        case OutputKind.CROPS:
            from streamer.sinks.crops import CropsSink

            return CropsSink(path, labels, paths=paths)
        case _:
            return _open_video(path, source, options, retention, paths)


def _open_text(
    kind: OutputKind,
    path: Path,
    source: SourceInfo,
    labels: Sequence[str],
    options: SinkOptions,
    retention: SegmentRetention | None,
    paths: OutputPaths,
) -> Sink:
    """Opens JSON lines or CSV."""
    live, rounded, is_file = source.live, options.rounded, not is_special(path)
    if kind is OutputKind.LINES:
        from streamer.sinks.jsonl import JsonlSegmentsSink, JsonlSink

        if options.segment_s is not None and is_file:
            return JsonlSegmentsSink(path, source, labels, options.segment_s, retention, rounded=rounded, paths=paths)
        return JsonlSink(path, labels, live=live, rounded=rounded, paths=paths)
    from streamer.sinks.csv_rows import CsvFormat
    from streamer.sinks.text import TextSegmentsSink, TextSink

    rows = CsvFormat(labels, live=live, rounded=rounded)
    if options.segment_s is not None and is_file:
        return TextSegmentsSink(path, source, rows, options.segment_s, retention, paths=paths)
    return TextSink(path, rows, paths=paths)


def _open_video(
    path: Path, source: SourceInfo, options: SinkOptions, retention: SegmentRetention | None, paths: OutputPaths
) -> Sink:
    from streamer.sinks.video.sink import VideoSegmentsSink, VideoSink

    if options.segment_s is not None:
        return VideoSegmentsSink(
            path, source, options.segment_s, retention, encoding=options.encoding, audio=options.audio, paths=paths
        )
    return VideoSink(path, source, encoding=options.encoding, audio=options.audio, paths=paths)


def default_output() -> tuple[str, str]:
    """Returns the default output and why: a window where one can be opened, else a file."""
    from streamer.sinks.window.display import display_problem

    problem = display_problem()
    return ("window", "there is a display") if problem is None else ("out.mp4", problem)
