"""From a configuration to a finished run: opens what it names, runs the pipeline, closes what it opened."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.app.config import StreamConfig

if TYPE_CHECKING:
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport

log = logging.getLogger(__name__)


def run(
    config: StreamConfig,
    on_poll: Callable[[Pipeline], None] | None = None,
    on_end: Callable[[RunReport], None] | None = None,
    *,
    on_opened: Callable[[], None] | None = None,
    follow: tuple[Path, Callable[[], StreamConfig]] | None = None,
) -> RunReport:
    """Does what `config` says.

    Args:
        config: the run.
        on_poll: called about fifty times a second on this thread while the pipeline runs.
        on_end: called with the report once the pipeline has run, also when it failed.
        on_opened: called once sources and detector are open, before any output is.
        follow: a file and what reads it again: sources that are added, changed or removed there come, change and go
            while the run goes on.

    Raises:
        StreamerError: when anything can't be opened or fails; every output is closed by then.
    """
    from streamer.app.reload import Watcher
    from streamer.app.stream_factory import StreamFactory
    from streamer.detector import open_detector
    from streamer.runtime.pipeline import Pipeline

    with StreamFactory(config, follow[0] if follow is not None else None) as opener, ExitStack() as stack:
        sources = opener.sources(stack)
        several = len(sources) > 1
        live = opener.paced or any(source.info.live for source in sources)
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
                depth=config.depth or (1 if live and not several else None),
                batch=config.batch if several else None,
                streams=len(sources),
                live=live,
                self_check=config.self_check,
            )
        )
        info = detector.info
        log.info("engine %s, precision %s, device %s, model %s", info.name, info.precision, info.device, info.model)
        if on_opened is not None:
            on_opened()
        plans = opener.plans(sources, detector.labels, stack)
        watcher = None
        if follow is not None:
            watcher = Watcher(follow[0], config, follow[1], opener.open_stream, opener.forget)

        def poll(pipeline: Pipeline) -> None:
            if on_poll is not None:
                on_poll(pipeline)
            if watcher is not None:
                watcher.poll(pipeline)

        pipeline = Pipeline(
            plans,
            detector,
            max_frames=config.max_frames,
            overlay=config.overlay,
            batch_timeout_s=config.batch_timeout / 1e3,
            on_poll=poll,
        )
        stack.pop_all()  # the pipeline closes sources and sinks, each on the thread that uses it
        gc.freeze()  # what is there stays: a source that is lost has little to go through then
        with detector:
            try:
                pipeline.run(config.duration)
            finally:
                gc.unfreeze()
                if watcher is not None:
                    watcher.close()
                report = pipeline.report()
                try:
                    if on_end is not None:
                        on_end(report)
                finally:
                    if config.report is not None:
                        report.write(config.report)
    return report
