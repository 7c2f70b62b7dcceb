"""Recordings of sources' own packets, as a configuration asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.app.clip_sinks import kept_for_clips_s
from streamer.app.live_pages import shows_page
from streamer.sinks.options import Encoding, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.packet_tap import DEFAULT_KEPT_S
from streamer.sources.spec import SourceSpec

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.app.overrides import SourceOverrides
    from streamer.sinks.base import Sink
    from streamer.sources.base import Source, SourceInfo
    from streamer.sources.options import SourceOptions


def kept_packets_s(config: StreamConfig, spec: SourceSpec) -> float:
    """Returns how many seconds of a source's packets are kept: none where nothing wants them."""
    overrides = config.overrides_for(spec.name)
    is_wanted = overrides.record or shows_page(overrides.output or config.output)
    return max(DEFAULT_KEPT_S if is_wanted and not spec.kind.is_pictures else 0.0, kept_for_clips_s(overrides, spec))


def needs_no_frames(overrides: SourceOverrides, outputs: Sequence[OutputSpec]) -> bool:
    """Whether a source's packets are all that is wanted of it; `outputs` are those of sources without their own."""
    return not overrides.detect_every and all(each.kind is OutputKind.NULL for each in overrides.output or outputs)


def with_main_stream(detected: Source, spec: SourceSpec, wanted: SourceOptions) -> Source:
    """Returns a source of the frames of `detected` and the packets of the main stream `spec` of the same camera.

    Raises:
        SourceError: if the main stream can't be opened; `detected` is closed then.
    """
    from streamer.sources import open_source
    from streamer.sources.paired import PairedSource

    options = replace(wanted, gpu=None, audio=False, packets_only=True)
    try:
        main = open_source(replace(spec, name=f"{spec.name} (main stream)"), options=options, wait=False)
    except BaseException:
        detected.close()
        raise
    return PairedSource(detected, main, wanted.kept_packets_s)


def with_encoded_packets(source: Source, kept_s: float, encoding: Encoding, fps: float | None) -> Source:
    """Returns a source that gives pictures alone as one whose packets an encoder makes while somebody reads them."""
    from streamer.sinks.video.encoded_tap import EncodedSource, EncodedTap

    return EncodedSource(source, EncodedTap(source.info.name, kept_s, fps=fps, encoding=encoding))


def records_by_source(config: StreamConfig, names: Sequence[str]) -> list[tuple[OutputSpec, str]]:
    """Returns each recording that is wanted, and the name of the source that it is of."""
    return [(output, name) for name in names for output in config.overrides_for(name).record or ()]


def open_record(
    output: OutputSpec, source: SourceInfo, labels: Sequence[str], options: SinkOptions, paths: OutputPaths
) -> Sink:
    """Opens a recording: of the source's packets or, where it has none, of its pictures, encoded without boxes.

    Raises:
        ConfigError: if another run is writing it.
        SinkError: if it can't be written.
    """
    path, retention = output.path_for(source.name), paths.retention(options.retain)
    if source.packets is not None:
        from streamer.sinks.video.record import RecordSink

        return RecordSink(
            path, source, source.packets, labels=labels, options=options, retention=retention, paths=paths
        )
    from streamer.sinks.video.plain import PlainVideoSegmentsSink, PlainVideoSink

    if options.segment_s is not None:
        return PlainVideoSegmentsSink(
            path, source, options.segment_s, retention, encoding=options.encoding, audio=options.audio, paths=paths
        )
    return PlainVideoSink(path, source, encoding=options.encoding, audio=options.audio, paths=paths)
