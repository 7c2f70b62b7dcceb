"""Opens the sources and outputs that a configuration names, at the start of a run and later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.app.clip_sinks import ClipFolders, check_clips
from streamer.app.config import StreamConfig
from streamer.app.event_options import EventService
from streamer.app.gpu_placement import GpuPlacement
from streamer.app.live_pages import LivePages, shows_page
from streamer.app.output_checks import check_one_picture, check_records
from streamer.app.overrides import SourceOverrides
from streamer.app.page_changes import page_file
from streamer.app.recording import (
    kept_packets_s,
    needs_no_frames,
    open_record,
    records_by_source,
    with_encoded_packets,
    with_main_stream,
)
from streamer.app.source_opening import source_options, wait_ready
from streamer.app.stream_filters import StreamFilters
from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, counted
from streamer.common.queues import OverflowPolicy
from streamer.common.tls import SCHEMES
from streamer.sinks.options import Encoding, SinkOptions, crf_of
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.base import Pace
from streamer.sources.spec import SourceKind, SourceSpec

if TYPE_CHECKING:
    from streamer.runtime.stream_spec import StreamSpec
    from streamer.sinks.base import Sink
    from streamer.sinks.paths import Claim
    from streamer.sinks.shared_outputs import SharedOutputs
    from streamer.sources import SourceInfo, SourceOptions
    from streamer.sources.base import Source
    from streamer.sources.workers import DecoderPool

log = logging.getLogger(__name__)


class StreamFactory(Closeable):
    """Opens the streams of one run: `open_sources`, `open_streams`, then `open_source` and `open_stream` for each more.

    `open_source` may be called on any thread, the rest on one at a time. Closing it stops the decoding processes.

    Attributes:
        outputs: those of every source that has none of its own.
        paced: whether files play at their own speed.
        filters: which detections each stream reports.
        placement: which GPU decodes each source.
        pages: the live pages among the outputs.
    """

    def __init__(self, config: StreamConfig, config_file: Path | None = None) -> None:
        """Opens nothing yet.

        Args:
            config: the run.
            config_file: where it was read from; no output may replace it.

        Raises:
            ConfigError: if the configuration contradicts itself.
            EngineError: if a GPU is to decode and can't.
        """
        from streamer.sources.gpu_decoder import decoding_gpus

        self._config = config
        gpus = decoding_gpus(config.decode, device=config.device, engine=config.engine)
        self.placement = GpuPlacement(gpus)
        self._options = source_options(config)
        self._sink_options = SinkOptions(
            config.segment,
            config.retain,
            Encoding(crf_of(config.quality), config.encoder),
            config.audio,
            rounded=config.round,
            yolo_scores=config.yolo_scores,
        )
        self.outputs, self._why_outputs = _chosen_outputs(config)
        has_viewer = shows_page(self.outputs) or any(output.kind is OutputKind.WINDOW for output in self.outputs)
        self.paced = config.pace == "source" or (config.pace is None and has_viewer)
        self.filters = StreamFilters(config)
        self._shared: SharedOutputs | None = None
        self.pages = LivePages(config, config_file)
        self._infos: dict[str, SourceInfo] = {}
        self._paths = OutputPaths(_inputs(config, config_file))
        self._clips = ClipFolders(self._paths)
        self._report: Claim | None = None
        self._events: EventService | None = None
        self._is_warned = False
        self._decoding = self._start_decoding(len(gpus))

    @property
    def detects_nothing(self) -> bool:
        """Whether detection is off for every source that the run begins with."""
        names = [spec.name for spec in self._config.source]
        return not any(self._config.overrides_for(name).detect_every for name in names)

    def open_sources(self, stack: ExitStack) -> list[Source]:
        """Opens live pages, then all sources at once; `stack` closes the sources.

        Raises:
            ConfigError, SinkError: if a page can't be served.
            SourceError: if one can't be opened and must not come later.
        """
        overrides = [self._config.overrides_for(spec.name) for spec in self._config.source]
        self.pages.open(output for each in overrides for output in each.output or self.outputs)
        opened = [stack.enter_context(self._open_source(self._config, spec)) for spec in self._config.source]
        wait_ready(opened, patient=self._config.reconnect is not None)
        for source in opened:
            source.hold()
        if self._decoding is not None:
            self.placement.balance(opened)
        return opened

    def open_streams(self, sources: Sequence[Source], labels: Sequence[str], stack: ExitStack) -> list[StreamSpec]:
        """Opens the outputs of all sources; `stack` closes them.

        Raises:
            ConfigError: if an output is also a source, or another output.
            SinkError: if one can't be opened.
        """
        from streamer.sinks.shared_outputs import SharedOutputs

        config = self._config
        self.filters.labels = labels
        self._infos = {source.info.name: source.info for source in sources}
        for info in self._infos.values():
            self._paths.add_source(info)
        self._check(config, self._infos)
        if config.report is not None:
            self._report = self._paths.claim_report(config.report)
        overrides = {name: config.overrides_for(name) for name in self._infos}
        self._shared = SharedOutputs(
            self.outputs,
            [info for name, info in self._infos.items() if overrides[name].output is None],
            labels=labels,
            layout=config.layout,
            options=self._sink_options,
            by_clock=self.paced or any(o.overflow_policy is OverflowPolicy.DROP_OLDEST for o in overrides.values()),
            paths=self._paths,
        )
        stack.callback(self._shared.close)
        if config.events is not None:
            self._events = EventService(config.events, config.tls_verify)
        if self._why_outputs:
            log.info("%s", self._why_outputs)
        return [self._stream(config, source, stack) for source in sources]

    def open_source(self, config: StreamConfig, spec: SourceSpec, *, patient: bool = True) -> Source:
        """Opens a source of `config` during the run, on any thread.

        Args:
            config: the run, with that source.
            spec: the source.
            patient: whether a live one that can't be reached yet counts as open: it keeps trying.

        Raises:
            ConfigError, SourceError: if it can't be opened.
        """
        with ExitStack() as stack:
            stack.callback(self.placement.drop, spec.name)
            source = stack.enter_context(self._open_source(config, spec))
            wait_ready([source], patient=patient)
            source.hold()
            stack.pop_all()
        return source

    def check_outputs(self, config: StreamConfig, name: str, info: SourceInfo | None = None) -> None:
        """Checks what can be checked of the outputs of a source of `config` before any is opened.

        `info` is the source; None is the one of that name.

        Raises:
            ConfigError: if an output is also a source, or another output.
            SinkError: if an output's folder doesn't exist, or can't be written into.
        """
        self._check(config, self._infos | ({} if info is None else {name: info}))
        for output in config.overrides_for(name).output or self.outputs:
            self._paths.check_folder_of(output, name)

    def open_stream(self, config: StreamConfig, source: Source) -> StreamSpec:
        """Opens the outputs of an open source; one thread at a time.

        Raises:
            ConfigError, SinkError: if one can't be opened; no output stays open then, the source does.
        """
        infos = self._infos | {source.info.name: source.info}
        with ExitStack() as stack:
            self._check(config, infos)
            spec = self._stream(config, source, stack)
            stack.pop_all()
        self._infos = infos
        self._paths.add_source(source.info)
        return spec

    def release_name(self, name: str) -> None:
        """Frees a removed source's name, and removes it from pages and its tile from shared outputs."""
        self._infos = {other: info for other, info in self._infos.items() if other != name}
        if self._shared is not None:
            self._shared.remove(name)
        self.pages.remove(name)

    def close(self) -> None:
        self._clips.close()
        self.pages.close()
        if self._report is not None:
            self._report.close()
        if self._events is not None:
            self._events.close()
        if self._decoding is not None:
            self._decoding.close()

    def _start_decoding(self, gpus: int) -> DecoderPool | None:
        """Starts the decoding processes, if any; `gpus` is the number of those that decode."""
        from streamer.common.cpu_info import available_cores
        from streamer.sources.workers import DecoderPool, default_process_count

        count = self._config.decode_processes
        if count == "auto":
            videos = sum(spec.kind.is_video for spec in self._config.source)
            count = default_process_count(videos, available_cores(), gpus) if gpus else 0
        if not count:
            return None
        log.info("videos are decoded in %s", counted(count, "process"))
        return DecoderPool(count)

    def _open_source(self, config: StreamConfig, spec: SourceSpec) -> Source:
        overrides = config.overrides_for(spec.name)
        kept_s, is_encoded = kept_packets_s(config, spec), spec.kind is SourceKind.CAMERA
        wanted = replace(
            self._options,
            overflow_policy=Pace.LIVE.overflow_policy(overrides.overflow_policy),
            gpu=self.placement.place(spec),
            audio=bool(overrides.audio) and self._has_video(overrides),
            kept_packets_s=0.0 if is_encoded else kept_s,
            packets_only=kept_s > 0 and not is_encoded and needs_no_frames(overrides, self.outputs),
        )
        if config.tls_verify is False and spec.scheme in SCHEMES and not self._is_warned:
            self._is_warned = True
            log.warning("certificates aren't checked: anyone between here and a camera can read its password")
        if overrides.detect is not None and overrides.detect_every:
            detected = self._open_decoded(replace(overrides.detect, name=spec.name), replace(wanted, kept_packets_s=0))
            return with_main_stream(detected, spec, wanted) if kept_s else detected
        source = self._open_decoded(spec, wanted)
        if kept_s and is_encoded:
            return with_encoded_packets(source, kept_s, self._sink_options_for(overrides).encoding, config.camera_fps)
        return source

    def _open_decoded(self, spec: SourceSpec, wanted: SourceOptions) -> Source:
        """Opens a source, in a decoding process where there are any and its packets aren't wanted."""
        from streamer.sources import open_source

        if self._decoding is not None and spec.kind.is_video and not wanted.kept_packets_s:
            return self._decoding.open(spec, wanted)
        return open_source(spec, options=wanted, wait=False)

    def _has_video(self, overrides: SourceOverrides) -> bool:
        """Whether a source is recorded into a video of its own, which can have its sound."""
        outputs = overrides.output or self.outputs
        return any(output.kind is OutputKind.VIDEO for output in outputs)

    def _check(self, config: StreamConfig, infos: Mapping[str, SourceInfo]) -> None:
        from streamer.sinks.shared_outputs import outputs_by_source

        own = {name: config.overrides_for(name).output for name in infos}
        check_records(config)
        check_clips(config, list(infos))
        records = records_by_source(config, list(infos))
        every = [*self.outputs, *(each for outputs in own.values() for each in outputs or ()), *(r for r, _ in records)]
        if config.segment is not None and not any(output.can_be_segmented for output in every):
            got = ", ".join(map(str, every))
            raise ConfigError(
                f"segment needs a video, JSON lines or CSV among the outputs, got {got}: add --output out.mp4"
            )
        if config.max_frames != 1:
            for name, info in infos.items():
                check_one_picture(own[name] or self.outputs, info)
        self._paths.check(
            [*outputs_by_source(self.outputs, own, tiled=config.layout == "tiled"), *records],
            infos.values(),
            report=self._config.report,
            retain=config.retain,
        )

    def _stream(self, config: StreamConfig, source: Source, stack: ExitStack) -> StreamSpec:
        from streamer.runtime.stream_spec import StreamSpec

        name = source.info.name
        overrides = config.overrides_for(name)
        sinks = [
            (output.label(name), stack.enter_context(self._open_sink(output, source, overrides)))
            for output in overrides.output or self.outputs
        ]
        options = self._sink_options_for(overrides)
        for output in overrides.record or ():
            record = open_record(output, source.info, self.filters.labels, options, self._paths)
            sinks.append((output.label(name), stack.enter_context(record)))
        if overrides.clips is not None:
            clips = self._clips.open_sink(overrides, source.info, self.filters.labels, options)
            sinks.append((str(overrides.clips), stack.enter_context(clips)))
        if self._events is not None:
            sinks.append(("events", stack.enter_context(self._events.open_sink(source.info, self.filters.labels))))
        return StreamSpec(
            source,
            sinks,
            overrides.overflow_policy,
            self.paced,
            overrides.priority,
            overrides.max_fps,
            1 if overrides.detect_every is None else overrides.detect_every,
            self.placement.settle(name),
            self.filters.keep_for(name, overrides, source.info),
            overrides.overlay,
            overrides.timestamp,
            self.filters.tracker_for(overrides),
        )

    def _open_sink(self, output: OutputSpec, source: Source, overrides: SourceOverrides) -> Sink:
        from streamer.sinks import open_sink

        assert self._shared is not None, "the run's outputs are opened before those of a source that is added"
        if output.kind is OutputKind.PAGE:
            return self.pages.open_sink(output, source, self.filters.labels)
        options = self._sink_options_for(overrides)
        if overrides.output is None:
            return self._shared.open(output, source.info, options)
        return open_sink(output, source.info, labels=self.filters.labels, options=options, paths=self._paths)

    def _sink_options_for(self, overrides: SourceOverrides) -> SinkOptions:
        quality, encoder, audio = overrides.quality, overrides.encoder, overrides.audio
        assert quality is not None and encoder is not None and audio is not None, "those of the run, if no others"
        return replace(self._sink_options, encoding=Encoding(crf_of(quality), encoder), audio=audio)


def _inputs(config: StreamConfig, config_file: Path | None) -> dict[Path, str]:
    """Returns the files that a run reads in addition to its sources, and what each is."""
    found = {
        config_file: "the configuration",
        Path(config.model).expanduser(): "the model",
        config.model_config_file: "the model's description",
        None if config_file is None else page_file(config_file): "the changes of the page",
    }
    return {path: what for path, what in found.items() if path is not None}


def _chosen_outputs(config: StreamConfig) -> tuple[Sequence[OutputSpec], str]:
    """Returns the outputs of every source that has none of its own, and in words why, where none is asked for."""
    from streamer.sinks import default_output

    if config.output:
        return config.output, ""
    own = [config.overrides_for(spec.name) for spec in config.source]
    if all(overrides.output or overrides.record or overrides.clips for overrides in own):
        return (), ""
    output, why = default_output()
    if len(config.source) > 1 and output != "window":
        output = "{source}-" + output
    return (OutputSpec.parse(output),), f"writing to {output}: {why}"
