"""From a configuration to a finished run: opens what it names, runs the pipeline, closes what it opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.config import StreamConfig
from streamer.errors import ConfigError, SourceError
from streamer.policy import Policy

if TYPE_CHECKING:
    from streamer.pipeline import Pipeline, StreamPlan
    from streamer.report import RunReport
    from streamer.sources.base import Source

log = logging.getLogger(__name__)


def run(
    config: StreamConfig,
    on_poll: Callable[[Pipeline], None] | None = None,
    on_end: Callable[[RunReport], None] | None = None,
) -> RunReport:
    """Does what `config` says.

    Args:
        config: the run.
        on_poll: called about fifty times a second on this thread while the pipeline runs.
        on_end: called with the report once the pipeline has run, also when it failed.

    Raises:
        StreamerError: when anything can't be opened or fails; every output is closed by then.
    """
    from streamer.detector import open_detector
    from streamer.pipeline import Pipeline

    with ExitStack() as stack:
        sources = _open_sources(config, stack)
        live = any(source.info.live for source in sources)
        outputs = _chosen_outputs(config)
        paced = _is_paced(config, outputs)
        detector = stack.enter_context(
            open_detector(
                config.model,
                model_config=config.model_config_file,
                engine=config.engine,
                device=config.device,
                precision=config.precision,
                conf=config.conf,
                iou=config.iou,
                classes=config.classes,
                depth=config.depth or (1 if (live or paced) and len(sources) == 1 else None),
                batch=config.batch if len(sources) > 1 else None,
                streams=len(sources),
                self_check=config.self_check,
            )
        )
        info = detector.info
        log.info("engine %s, precision %s, device %s, model %s", info.name, info.precision, info.device, info.model)
        plans = _plans(config, sources, outputs, detector.labels, paced, stack)
        pipeline = Pipeline(
            plans,
            detector,
            max_frames=config.max_frames,
            overlay=config.overlay,
            batch_timeout_s=config.batch_timeout / 1e3,
            on_poll=on_poll,
        )
        stack.pop_all()  # the pipeline closes sources and sinks, each on the thread that uses it
        with detector:
            try:
                pipeline.run(config.duration)
            finally:
                report = pipeline.report()
                if on_end is not None:
                    on_end(report)
                if config.report is not None:
                    report.write(config.report)
    return report


def _open_sources(config: StreamConfig, stack: ExitStack) -> list[Source]:
    from streamer.sources import SourceOptions, open_source, split_name
    from streamer.sources.hardware import decoding_gpu

    width, height = config.camera_size or (None, None)
    options = SourceOptions(
        width=width,
        height=height,
        fps=config.camera_fps,
        pixel_format=config.camera_format,
        rtsp_transport=config.rtsp_transport,
        stall_timeout_s=config.stall_timeout,
        reconnect=None if config.reconnect == "forever" else config.reconnect,
        gpu=decoding_gpu(config.decode, device=config.device, engine=config.engine),
        gpu_only=config.decode == "gpu",
    )
    sources: list[Source] = []
    for argument in config.source:
        name, uri = split_name(argument)
        wanted = replace(options, freshest=config.wishes_of(name or "").policy != "every-frame")
        source = stack.enter_context(open_source(uri, name=name, options=wanted, wait=False))
        if any(source.info.name == other.info.name for other in sources):
            raise ConfigError(f"two sources are named {source.info.name!r}: name them, as in door={argument}")
        sources.append(source)
    _wait_ready(sources, patient=config.reconnect is not None)
    return sources


def _wait_ready(sources: Sequence[Source], *, patient: bool) -> None:
    """Waits for every source's first frame, all at once; a live one may come later where there are others.

    Args:
        sources: open sources.
        patient: whether to wait for live sources even where there is no other.

    Raises:
        SourceError: if one can't be opened and won't be waited for.
    """
    failed: list[tuple[Source, SourceError]] = []
    for source in sources:
        try:
            source.wait_ready()
        except SourceError as error:
            failed.append((source, error))
    for source, cause in failed:
        if not source.info.live or (not patient and len(failed) == len(sources)):
            raise cause
        log.warning("%s; the run begins without it, and goes on trying", cause)


def _chosen_outputs(config: StreamConfig) -> Sequence[str]:
    from streamer.sinks import default_output

    if config.output:
        return config.output
    output, why = default_output()
    log.warning("writing to %s: %s", output, why)
    if len(config.source) > 1 and output != "window":
        output = "{source}-" + output
    return (output,)


def _is_paced(config: StreamConfig, outputs: Sequence[str]) -> bool:
    return config.pace == "source" or (config.pace is None and "window" in outputs)


def _plans(
    config: StreamConfig,
    sources: Sequence[Source],
    outputs: Sequence[str],
    labels: Sequence[str],
    paced: bool,
    stack: ExitStack,
) -> list[StreamPlan]:
    """Opens every source's outputs; `stack` closes them, should one fail."""
    from streamer.pipeline import StreamPlan
    from streamer.sinks import is_video
    from streamer.sinks.options import SinkOptions
    from streamer.sinks.shared import SharedOutputs

    if config.segment is not None and not any(is_video(output) for output in outputs):
        raise ConfigError(
            f"segment needs a video file among the outputs, got {', '.join(outputs)}: add --output out.mp4"
        )
    infos = [source.info for source in sources]
    shared = SharedOutputs(
        outputs,
        infos,
        labels=labels,
        layout=config.layout,
        options=SinkOptions(config.segment, config.retain),
        by_clock=paced or any(config.wishes_of(info.name).policy == "freshest" for info in infos),
    )
    stack.callback(shared.close)

    def plan(source: Source) -> StreamPlan:
        name = source.info.name
        sinks = [
            (output.replace("{source}", name), stack.enter_context(shared.open(output, source.info)))
            for output in outputs
        ]
        wishes = config.wishes_of(name)
        return StreamPlan(
            source,
            sinks,
            None if wishes.policy in (None, "auto") else Policy(wishes.policy),
            paced and not source.info.live,
            wishes.priority,
            wishes.max_fps,
            wishes.detect_every or 1,
        )

    unknown = set(config.wishes) - {source.info.name for source in sources}
    if unknown:
        raise ConfigError(f"wishes for unknown sources: {', '.join(sorted(unknown))}")
    return [plan(source) for source in sources]
