"""The life of a run: opening, following the configuration file, adding, replacing and removing sources, the end."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.app.config import StreamConfig
from streamer.app.config_follower import POLL_S, ConfigFollower
from streamer.app.page_changes import PageChanges, kept_changes
from streamer.app.reconciler import StreamReconciler
from streamer.app.watched_file import WatchedFile
from streamer.common.closeable import Closeable

if TYPE_CHECKING:
    from streamer.app.stream_factory import StreamFactory
    from streamer.detector.base import Detector
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport
    from streamer.sources.base import Source
    from streamer.web.page import LivePage

log = logging.getLogger(__name__)


def run(config: StreamConfig, on_poll: Callable[[Pipeline], None] | None = None) -> RunReport:
    """Runs a configuration from beginning to end; see `Run` for the arguments and what it raises."""
    with Run.open(config) as opened:
        return opened.execute(on_poll)


class Run(Closeable):
    """One run. `open` it, `execute` it once, close it.

    With a configuration file to follow, or changes of the live page, sources start, change and stop during the run; see
    `ConfigFollower` and `StreamReconciler`.

    Attributes:
        pipeline: None until `execute`.
        report: what the run did, once `execute` has ended, also when it raised.
    """

    def __init__(
        self,
        config: StreamConfig,
        factory: StreamFactory,
        sources: Sequence[Source],
        detectors: Sequence[Detector],
        file: WatchedFile[StreamConfig] | None = None,
        *,
        changes: PageChanges | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Takes over all that is open: the sources of `config`, the factory of its streams, the detectors.

        `file` is the configuration to follow, None for none; it is polled every `poll_s` seconds. `changes` of the page
        were kept, and are to be applied to `config`.
        """
        self.report: RunReport | None = None
        self._base = config
        self._config = config if changes is None else changes.applied_to(config)
        self._changes = changes
        self._factory, self._sources, self._detectors = factory, sources, detectors
        self._file, self._poll_s = file, poll_s
        self._resources = ExitStack()
        self._unowned = ExitStack()  # what the pipeline hasn't taken over yet
        self.pipeline: Pipeline | None = None
        self._ended = threading.Event()

    @classmethod
    def open(
        cls, config: StreamConfig, config_file: Path | None = None, reread: Callable[[], StreamConfig] | None = None
    ) -> Run:
        """Opens the sources and the detectors.

        Args:
            config: the run.
            config_file: where it was read from; it is followed, and no output may replace it.
            reread: reads that file again; raises `StreamerError`.

        Raises:
            StreamerError: if the configuration contradicts itself, or a source or the detector can't be opened.
        """
        from streamer.app.stream_factory import StreamFactory
        from streamer.detector import open_detectors
        from streamer.detector.no_detector import NoDetector

        base, changes = config, kept_changes(config_file)
        if changes is not None:
            config = changes.applied_to(base)
        with ExitStack() as resources, ExitStack() as unowned:
            factory = resources.enter_context(StreamFactory(config, config_file))
            sources = factory.open_sources(unowned)
            is_realtime = any(source.info.pace(paced=factory.paced).is_realtime for source in sources)
            several = len(sources) > 1
            detectors: list[Detector] = (
                [NoDetector()]
                if factory.detects_nothing
                else open_detectors(
                    config.model,
                    model_config=config.model_config_file,
                    engine=config.engine,
                    device=config.device,
                    precision=config.precision,
                    conf=factory.filters.detected.conf,
                    iou=config.iou,
                    classes=factory.filters.detected.classes,
                    depth=config.depth or (1 if is_realtime and not several else None),
                    batch=config.batch if several else None,
                    streams=len(sources),
                    live=is_realtime,
                    self_check=config.self_check,
                )
            )
            file = WatchedFile(config_file, reread) if config_file is not None and reread is not None else None
            opened = cls(base, factory, sources, detectors, file, changes=changes)
            opened._resources, opened._unowned = resources.pop_all(), unowned.pop_all()
        return opened

    def execute(self, on_poll: Callable[[Pipeline], None] | None = None) -> RunReport:
        """Opens the outputs and runs to the end.

        Args:
            on_poll: called ten times a second or more on this thread.

        Raises:
            StreamerError: if an output can't be opened, or anything fails; every output is closed by then.
        """
        from streamer.runtime.pipeline import Pipeline

        def poll(pipeline: Pipeline) -> None:
            if on_poll is not None:
                on_poll(pipeline)
            follower.keep_following()

        config = self._config
        pipeline = self.pipeline = Pipeline(
            self._factory.open_streams(self._sources, self._detectors[0].labels, self._unowned),
            self._detectors,
            max_frames=config.max_frames,
            batch_timeout_s=config.batch_timeout / 1e3,
            on_poll=poll,
        )
        reconciler = StreamReconciler(config, self._factory, pipeline, self._detectors, self._ended)
        follower = ConfigFollower(
            self._base,
            self._file,
            reconciler,
            self._factory.filters.check,
            self._ended,
            changes=self._changes,
            poll_s=self._poll_s,
        )
        engine_info = self._detectors[0].info
        self._factory.pages.attach(
            lambda control: control.attach(self._factory, pipeline, reconciler, follower, engine_info)
        )
        for info in (detector.info for detector in self._detectors):
            engine = f"engine {info.name}, precision {info.precision}"
            log.info("%s, device %s, model %s", engine, info.device, info.model)
        self._factory.placement.choose = pipeline.least_loaded_gpu
        self._unowned.pop_all()  # the pipeline closes sources and sinks, each on the thread that uses it
        gc.freeze()  # the collection after a lost source then skips all that is there now
        try:
            return pipeline.run(config.duration)
        finally:
            gc.unfreeze()
            self._ended.set()
            self.report = pipeline.report()
            if config.report is not None:
                self.report.write(config.report)

    @property
    def pages(self) -> Sequence[LivePage]:
        """The live pages that are served now."""
        return tuple(self._factory.pages.pages.values())

    def close(self) -> None:
        """Stops following and closes what is still open; doesn't wait for a file that hangs."""
        self._ended.set()
        self._unowned.close()
        failed = () if self.pipeline is None else self.pipeline.failed_detectors
        for detector in self._detectors:
            if detector not in failed:  # a GPU that hangs would hang this too
                detector.close()
        self._resources.close()
