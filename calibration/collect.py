"""The verb `collect`: frames worth labelling, from live sources or files."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from tqdm import tqdm

from calibration.collection import Collection, CollectionLimits
from calibration.frame_choice import ChoiceRule, FrameChooser
from streamer.common.errors import ConfigError
from streamer.common.interrupt import Interrupt
from streamer.common.terminal import say
from streamer.common.units import parse_bytes, parse_seconds
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.detector.base import Detector
from streamer.engines import ENGINE_NAMES, PRECISIONS
from streamer.engines.gpu_engines import GPU_ENGINES
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink
from streamer.sources import Source, SourceInfo, SourceOptions, SourceSpec, open_source

_LEAST_CONF = 0.05
T = TypeVar("T")

if TYPE_CHECKING:
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.stream_spec import StreamSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb `collect`."""
    parser.add_argument(
        "--source", action="append", required=True, metavar="[NAME=]URI", help="camera, stream or file; may come again"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where to collect, or to go on")
    strategy = parser.add_mutually_exclusive_group()
    strategy.add_argument(
        "--near-threshold", action="store_true", help="frames that the model is uncertain of (this is the default)"
    )
    strategy.add_argument("--all-frames", action="store_true", help="a frame each --every, whatever is in it")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=f"({DEFAULT_MODEL})")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of a foreign ONNX file")
    parser.add_argument("--engine", default="auto", choices=("auto", *ENGINE_NAMES, *GPU_ENGINES))
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="most pictures in the folder (200)")
    parser.add_argument("--max-size", default="2GB", metavar="SIZE", help="most bytes in the folder (2GB)")
    parser.add_argument("--every", default="2s", metavar="TIME", help="at most one frame of a source in this time (2s)")
    parser.add_argument("--duration", metavar="TIME", help="how long to run (to the end of the sources)")
    parser.add_argument(
        "--conf", type=float, default=0.4, metavar="0..1", help="score from which boxes are shown (0.4)"
    )
    parser.add_argument(
        "--band", type=float, default=0.15, metavar="0..1", help="uncertain is this near to --conf (0.15)"
    )
    parser.add_argument("--random", type=float, default=0.1, metavar="0..1", help="share of random frames (0.1)")
    parser.add_argument("--labels", default="yolo", choices=("yolo", "none"), help="what the model found, to correct")
    parser.add_argument("--label-conf", type=float, metavar="0..1", help="least score of such a label (--conf)")


class CollectingSink(Sink):
    """Puts the frames of one source that are worth labelling into a collection."""

    needs_pixels = False

    def __init__(self, collection: Collection, chooser: FrameChooser, source: Source) -> None:
        """Takes the source for its name and address alone."""
        self._collection, self._chooser, self._source = collection, chooser, source

    @property
    def _info(self) -> SourceInfo:
        return self._source.info

    def write(self, frame: Frame, detections: Detections) -> None:
        chosen = self._chooser.add(frame, detections)
        if chosen is not None:
            self._collection.add(chosen, self._info)

    def close(self) -> None:
        for chosen in self._chooser.finish():
            self._collection.add(chosen, self._info)


def run(options: argparse.Namespace) -> int:
    """Collects until the folder is full, the sources end, the time is over, or a signal comes.

    Raises:
        ConfigError: an option is wrong, or the folder can't be written.
        SourceError: a source failed; what others gave is kept.
    """
    from streamer.runtime.pipeline import Pipeline

    _check(options)
    every_s = _parsed("--every", options.every, parse_seconds)
    duration_s = None if options.duration is None else _parsed("--duration", options.duration, parse_seconds)
    size_bytes = _parsed("--max-size", options.max_size, parse_bytes)
    limits = CollectionLimits(options.count, size_bytes, options.random, every_s)
    rule = ChoiceRule(options.conf, options.band, every_s, options.all_frames)
    label_conf = options.conf if options.label_conf is None else options.label_conf
    specs = _specs(options.source)
    with _open_detector(options, specs, min(options.conf - options.band, label_conf)) as detector:
        collection = Collection(
            options.output,
            detector.labels,
            limits,
            model=detector.info.model,
            label_conf=None if options.labels == "none" else label_conf,
        )
        if collection.is_full:
            say(f"{collection.summary()}: full; give a larger --count or --max-size to go on")
            return 0
        progress: tqdm[NoReturn] = tqdm(total=options.count, initial=collection.count, unit=" pictures", disable=None)
        with ExitStack() as unowned, closing(progress):
            streams = _open_streams(unowned, specs, rule, collection, detector.gpu)
            poll = _follow(collection, progress, options.interrupt)
            pipeline = Pipeline(streams, detector, overlay=False, on_poll=poll)
            unowned.pop_all()  # the pipeline closes the sources
            try:
                pipeline.run(duration_s)
            finally:
                progress.close()
                say(collection.summary())
    if collection.failure is not None:
        raise collection.failure
    return 0


def _specs(sources: Sequence[str]) -> list[SourceSpec]:
    specs = [SourceSpec.parse_configured(text) for text in sources]
    for place, spec in enumerate(specs):
        if any(spec.name == other.name for other in specs[:place]):
            raise ConfigError(f"two sources are named {spec.name!r}: name them, as in door={spec}")
    return specs


def _open_detector(options: argparse.Namespace, specs: Sequence[SourceSpec], least_conf: float) -> Detector:
    return open_detector(
        options.model,
        model_config=options.model_config,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        conf=max(_LEAST_CONF, least_conf),
        batch="auto" if len(specs) > 1 else None,
        streams=len(specs),
        live=any(spec.kind.is_live for spec in specs),
    )


def _open_streams(
    stack: ExitStack, specs: Sequence[SourceSpec], rule: ChoiceRule, collection: Collection, gpu: int | None
) -> list[StreamSpec]:
    """Opens the sources; `stack` closes them."""
    from streamer.runtime.stream_spec import StreamSpec

    streams = []
    for place, spec in enumerate(specs):
        source = stack.enter_context(open_source(spec, options=SourceOptions(gpu=gpu)))
        chooser = FrameChooser(rule, np.random.default_rng(place), collection.random_is_due)
        streams.append(StreamSpec(source, [(spec.name, CollectingSink(collection, chooser, source))], gpu=gpu))
    return streams


def _follow(
    collection: Collection, progress: tqdm[NoReturn], interrupt: Interrupt | None
) -> Callable[[Pipeline], None]:
    """Returns what ends the pipeline in good order, once the collection is full or has failed, or a signal has come."""
    if interrupt is not None:
        interrupt.defer()

    def poll(pipeline: Pipeline) -> None:
        progress.update(collection.count - progress.n)
        if collection.is_full or collection.failure is not None or (interrupt is not None and interrupt.happened):
            pipeline.stop()
        if interrupt is not None and interrupt.happened:
            interrupt.report_progress(pipeline.progress)

    return poll


def _check(options: argparse.Namespace) -> None:
    if options.count < 1:
        raise ConfigError(f"--count wants at least 1, got {options.count}")
    for name, low in (("conf", 0.0), ("band", 1e-3), ("random", 0.0), ("label_conf", 0.0)):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and low <= value <= 1):
            raise ConfigError(f"--{name.replace('_', '-')} wants a number from {low:g} to 1, got {value:g}")
    if options.output.exists() and not options.output.is_dir():
        raise ConfigError(f"{options.output}: is a file; -o wants a folder")


def _parsed(name: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: {error}") from None
