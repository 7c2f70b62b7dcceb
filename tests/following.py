"""A run that follows its configuration file: a real pipeline and a real file, made-up sources and sinks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamer.app.run as app
from streamer.app.config import StreamConfig, read_config
from streamer.app.gpu_placement import GpuPlacement
from streamer.app.live_pages import LivePages
from streamer.app.stream_filters import StreamFilters
from streamer.app.watched_file import WatchedFile
from streamer.common.errors import ConfigError, SourceError
from streamer.detector.base import Detector
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.report import RunReport
from streamer.sources.base import SourceInfo
from streamer.sources.spec import SourceSpec
from streamer.web.page import LivePage
from tests.fakes import CountingSource, MemorySink, SlowDetector, wait_for

ENDLESS = 10_000_000


def refuse(spec: SourceSpec) -> Exception | None:
    """Returns an error for URIs with ``refused`` or ``broken`` in them."""
    if "refused" in str(spec):
        return SourceError(f"source {str(spec)!r} refused the connection")
    return ValueError("no such thing") if "broken" in str(spec) else None


class Streams:
    """Opens made-up sources and sinks in the place of `StreamFactory`.

    Attributes:
        sources: every source opened, with its URI.
        opened: the URI and the sink of every stream opened, by name.
        released: the names of removed sources.
        gate: sources with ``slow`` in their URI wait for it.
        sinks: those of some URIs.
        refuse: returns why a source can't be opened, None where it can.
        refused: URIs whose outputs are refused where there are several sources.
    """

    def __init__(self, config: StreamConfig, config_file: Path | None) -> None:
        self.sources: list[tuple[str, CountingSource]] = []
        self.opened: dict[str, list[tuple[str, MemorySink]]] = {}
        self.released: list[str] = []
        self.placement = GpuPlacement(())
        self.pages = LivePages(config, config_file)
        self.pages.open(config.output)
        self.outputs = config.output
        self.filters = StreamFilters(config)
        self.filters.labels = ["thing"]
        self.gate: threading.Event | None = None
        self.sinks: dict[str, MemorySink] = {}
        self.refused: set[str] = set()
        self.refuse: Callable[[SourceSpec], Exception | None] = refuse

    def open_source(self, config: StreamConfig, spec: SourceSpec, *, patient: bool = True) -> CountingSource:
        uri = str(spec)
        if self.gate is not None and "slow" in uri:
            assert self.gate.wait(20)
        error = self.refuse(spec)
        if error is not None and spec.name != "kept":
            raise error
        source = CountingSource(3 if "short" in uri else ENDLESS, name=spec.name)
        source.info = replace(source.info, uri=uri)
        self.sources.append((uri, source))
        return source

    def open_streams(self, sources: list[CountingSource], labels: object, stack: object) -> list[StreamSpec]:
        return [self.open_stream(None, source) for source in sources]

    def open_stream(self, config: object, source: CountingSource) -> StreamSpec:
        name, uri = source.info.name, source.info.uri
        sink = self.sinks.get(uri) or MemorySink()
        self.opened.setdefault(name, []).append((uri, sink))
        return StreamSpec(source, [("out", sink)])

    def check_outputs(self, config: StreamConfig, name: str, info: SourceInfo | None = None) -> None:
        if len(config.source) > 1 and self.refused & {str(spec) for spec in config.source if spec.name == name}:
            raise ConfigError("several sources can't share it")

    def release_name(self, name: str) -> None:
        self.released.append(name)


class Following:
    """A run that follows a file."""

    def __init__(self, path: Path, meanwhile: str | None = None, detector: Detector | None = None) -> None:
        self.path = path
        config = read_config(path, {})
        self.streams = Streams(config, path)
        self.opened = self.streams.opened
        self.result: list[RunReport | BaseException] = []
        sources = [self.streams.open_source(config, spec) for spec in config.source]
        if meanwhile is not None:
            self.write(meanwhile)
        self.reads = 0
        self.may_read = threading.Event()
        self.may_read.set()
        self.file = WatchedFile(path, self._read)
        factory: Any = self.streams
        self.run = app.Run(config, factory, sources, [detector or SlowDetector()], self.file, poll_s=0.01)
        self.thread = threading.Thread(target=self._body, daemon=True)
        self.thread.start()
        wait_for(lambda: self.run.pipeline is not None and self.run.pipeline.status().is_running)

    @property
    def pipeline(self) -> Pipeline:
        assert self.run.pipeline is not None
        return self.run.pipeline

    def write(self, text: str) -> None:
        """Replaces the file at once, as editors do."""
        partial = self.path.with_suffix(".new")
        partial.write_text(text)
        os.replace(partial, self.path)

    @property
    def page(self) -> LivePage:
        """Its page, where its output is one."""
        (page,) = self.streams.pages.pages.values()
        return page

    @property
    def names(self) -> list[str]:
        return sorted(stream.name for stream in self.pipeline.streams)

    def flows(self, name: str) -> None:
        """Waits for more frames of a source."""
        sink = self.opened[name][-1][1]
        count = len(sink.indices)
        wait_for(lambda: len(sink.indices) > count)

    def _body(self) -> None:
        try:
            self.result.append(self.run.execute())
        except BaseException as error:
            self.result.append(error)

    def _read(self) -> StreamConfig:
        self.reads += 1
        self.may_read.wait(20)
        return read_config(self.path, {}, names_source=True)

    def end(self) -> None:
        """Stops the run and waits for its end."""
        self.pipeline.stop()
        self.thread.join(20)
        self.run.close()
        self.streams.pages.close()
        assert not self.thread.is_alive()

    def finish(self) -> None:
        """Ends the run; nothing of it may have failed but an edit."""
        self.end()
        unadded = "can't be" in str(self.result[0])
        assert isinstance(self.result[0], RunReport) or unadded, self.result


@contextmanager
def following(path: Path, detector: Detector | None = None) -> Iterator[Following]:
    """Starts a run that follows a file, which it has read; and finishes it."""
    started = Following(path, detector=detector)
    wait_for(lambda: started.file.is_current)
    yield started
    started.finish()
