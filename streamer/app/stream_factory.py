"""Opens the sources and outputs that a configuration names, at the start of a run and later."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.app.config import StreamConfig
from streamer.app.gpu_placement import GpuPlacement
from streamer.common.closeable import Closeable
from streamer.common.errors import ConfigError, StreamerError
from streamer.common.queues import OverflowPolicy
from streamer.common.tls import SCHEMES, check_trust
from streamer.sinks.options import SinkOptions, crf_of
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.base import Pace
from streamer.sources.spec import SourceSpec

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
        placement: which GPU decodes each source.
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
        self._options = _source_options(config)
        self._sink_options = SinkOptions(config.segment, config.retain, crf_of(config.quality))
        self.outputs = _chosen_outputs(config)
        has_window = any(output.kind is OutputKind.WINDOW for output in self.outputs)
        self.paced = config.pace == "source" or (config.pace is None and has_window)
        self._labels: Sequence[str] = ()
        self._shared: SharedOutputs | None = None
        self._infos: dict[str, SourceInfo] = {}
        self._paths = OutputPaths(_inputs(config, config_file))
        self._report: Claim | None = None
        self._is_warned = False
        self._decoding = self._start_decoding(len(gpus))

    def open_sources(self, stack: ExitStack) -> list[Source]:
        """Opens all sources at once; `stack` closes them.

        Raises:
            SourceError: if one can't be opened and must not come later.
        """
        opened = [stack.enter_context(self._open_source(self._config, spec)) for spec in self._config.source]
        _wait_ready(opened, patient=self._config.reconnect is not None)
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
        self._labels = labels
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
            _wait_ready([source], patient=patient)
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
        """Frees a removed source's name, and removes its tile from shared outputs."""
        self._infos = {other: info for other, info in self._infos.items() if other != name}
        if self._shared is not None:
            self._shared.remove(name)

    def close(self) -> None:
        if self._report is not None:
            self._report.close()
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
        log.info("videos are decoded in %d processes", count)
        return DecoderPool(count)

    def _open_source(self, config: StreamConfig, spec: SourceSpec) -> Source:
        from streamer.sources import open_source

        policy = Pace.LIVE.overflow_policy(config.overrides_for(spec.name).overflow_policy)
        wanted = replace(self._options, overflow_policy=policy, gpu=self.placement.place(spec))
        if config.tls_verify is False and spec.scheme in SCHEMES and not self._is_warned:
            self._is_warned = True
            log.warning("certificates aren't checked: anyone between here and a camera can read its password")
        if self._decoding is not None and spec.kind.is_video:
            return self._decoding.open(spec, wanted)
        return open_source(spec, options=wanted, wait=False)

    def _check(self, config: StreamConfig, infos: Mapping[str, SourceInfo]) -> None:
        from streamer.sinks.shared_outputs import outputs_by_source

        own = {name: config.overrides_for(name).output for name in infos}
        every = [*self.outputs, *(output for outputs in own.values() for output in outputs or ())]
        if config.segment is not None and not any(output.can_be_segmented for output in every):
            got = ", ".join(map(str, every))
            raise ConfigError(f"segment needs a video or JSON lines among the outputs, got {got}: add --output out.mp4")
        self._paths.check(
            outputs_by_source(self.outputs, own, tiled=config.layout == "tiled"),
            infos.values(),
            report=self._config.report,
            retain=config.retain,
        )

    def _stream(self, config: StreamConfig, source: Source, stack: ExitStack) -> StreamSpec:
        from streamer.runtime.stream_spec import StreamSpec

        name = source.info.name
        overrides = config.overrides_for(name)
        sinks = [
            (output.label(name), stack.enter_context(self._open_sink(output, source, overrides.output)))
            for output in overrides.output or self.outputs
        ]
        return StreamSpec(
            source,
            sinks,
            overrides.overflow_policy,
            self.paced,
            overrides.priority,
            overrides.max_fps,
            overrides.detect_every or 1,
            self.placement.settle(name),
        )

    def _open_sink(self, output: OutputSpec, source: Source, own: Sequence[OutputSpec] | None) -> Sink:
        from streamer.sinks import open_sink

        assert self._shared is not None, "the run's outputs are opened before those of a source that is added"
        if own is None:
            return self._shared.open(output, source.info)
        return open_sink(output, source.info, labels=self._labels, options=self._sink_options, paths=self._paths)


def _inputs(config: StreamConfig, config_file: Path | None) -> dict[Path, str]:
    """Returns the files that a run reads in addition to its sources, and what each is."""
    found = {
        config_file: "the configuration",
        Path(config.model).expanduser(): "the model",
        config.model_config_file: "the model's description",
    }
    return {path: what for path, what in found.items() if path is not None}


def _source_options(config: StreamConfig) -> SourceOptions:
    from streamer.sources import SourceOptions

    check_trust(config.tls_verify)
    width, height = config.camera_size or (None, None)
    return SourceOptions(
        width=width,
        height=height,
        fps=config.camera_fps,
        pixel_format=config.camera_format,
        rtsp_transport=config.rtsp_transport,
        stall_timeout_s=config.stall_timeout,
        reconnect=None if config.reconnect == "forever" else config.reconnect,
        max_pixels=config.max_pixels,
        tls_verify=config.tls_verify,
        gpu_only=config.decode == "gpu",
    )


def _wait_ready(sources: Sequence[Source], *, patient: bool) -> None:
    """Waits for the first frame of every source; raises SourceError if one can't be opened and must not come later.

    Live ones may come later if there are others or, if `patient`, always.
    """
    from streamer.sources.base import as_source_error

    failed: list[tuple[Source, StreamerError]] = []
    for source in sources:
        try:
            source.wait_ready()
        except ConfigError:
            raise
        except Exception as error:
            failed.append((source, as_source_error(error, source.info.name)))
    for source, cause in failed:
        if not source.info.live or (not patient and len(failed) == len(sources)):
            raise cause
        log.warning("%s; the run starts without it and keeps trying", cause)


def _chosen_outputs(config: StreamConfig) -> Sequence[OutputSpec]:
    from streamer.sinks import default_output

    if config.output:
        return config.output
    if all(config.overrides_for(spec.name).output for spec in config.source):
        return ()
    output, why = default_output()
    log.warning("writing to %s: %s", output, why)
    if len(config.source) > 1 and output != "window":
        output = "{source}-" + output
    return (OutputSpec.parse(output),)
