"""Where frames and detections go: a window, a video file, pictures, JSON lines, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.sinks.base import Sink as Sink
from streamer.sinks.base import StopRequested as StopRequested
from streamer.sinks.files import is_special
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind
from streamer.sinks.spec import OutputSpec as OutputSpec
from streamer.sources.base import SourceInfo


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
    paths = paths or OutputPaths()
    paths.check([(spec, source.name)], [source], retain=options.retain)
    path, retention = spec.path_for(source.name), paths.retention(options.retain)
    if spec.kind is OutputKind.PICTURES:
        from streamer.sinks.images import ImagesSink

        return ImagesSink(path, paths=paths)
    if spec.kind is OutputKind.LINES:
        from streamer.sinks.jsonl import JsonlSegmentsSink, JsonlSink

        if options.segment_s is not None and not is_special(path):
            return JsonlSegmentsSink(path, source, labels, options.segment_s, retention, paths=paths)
        return JsonlSink(path, labels, live=source.live, paths=paths)
    if options.segment_s is not None:
        from streamer.sinks.video.sink import VideoSegmentsSink

        return VideoSegmentsSink(path, source, options.segment_s, retention, crf=options.crf, paths=paths)
    from streamer.sinks.video.sink import VideoSink

    return VideoSink(path, source, crf=options.crf, paths=paths)


def default_output() -> tuple[str, str]:
    """Returns the default output and why: a window where one can be opened, else a file."""
    from streamer.sinks.window.display import display_problem

    problem = display_problem()
    return ("window", "there is a display") if problem is None else ("out.mp4", problem)
