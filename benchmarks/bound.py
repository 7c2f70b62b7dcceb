"""The most that this program's stages allow on a machine: cores / (processor seconds a frame of all stages)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from benchmarks.contenders import CONF, IOU
from streamer.detections import Detections
from streamer.detector import open_detector
from streamer.draw import Annotator
from streamer.sinks import open_sink
from streamer.sources import open_source

STAGES = ("decode", "detect", "draw", "encode")
_KEPT_FRAMES = 200  # held decoded in memory, 1.4 MB each
_WARM_UP_FRAMES = 20


def bound_fps(cores: int, stages_cpu_s: Mapping[str, float]) -> float:
    """Returns the frame rate at which the stages keep `cores` cores busy all the time.

    Args:
        cores: how many the process may use.
        stages_cpu_s: processor seconds a frame by stage.

    Raises:
        ValueError: if there is no core, or the stages take no time.
    """
    total_s = sum(stages_cpu_s.values())
    if cores < 1 or total_s <= 0:
        raise ValueError(f"wanted at least one core and stages that take time, got {cores} and {total_s:g} s")
    return cores / total_s


def measure_stages(model: str, clip: Path, output: Path) -> dict[str, float]:
    """Runs every stage alone, one after another, on the same frames.

    ``detect`` is preprocessing, the network and decoding of its output, with as many frames in flight as in the
    pipeline; it runs some frames before it is timed. Opening a stage is left out; closing the video is in ``encode``.
    As in the pipeline, what a timed stage has made is let go at once, so that its memory is used again.

    Args:
        model: name or file.
        clip: its first frames are used.
        output: a video file to write, which doesn't exist yet.

    Returns:
        Processor seconds a frame, all threads of the process together, by the names in `STAGES`.
    """
    costs: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        costs[stage] = (time.process_time() - began) / len(frames)

    with open_source(str(clip)) as source:
        frames = list(islice(source, _KEPT_FRAMES))
        info = source.info
    with open_source(str(clip)) as source, timed("decode"):
        for _ in islice(source, _KEPT_FRAMES):
            pass
    found: list[Detections] = []
    with open_detector(model, conf=CONF, iou=IOU) as detector:
        list(detector.stream(frames[:_WARM_UP_FRAMES]))
        with timed("detect"):
            found.extend(detections for _, detections in detector.stream(frames))
        labels = detector.labels
        head = f"{detector.info.name} {detector.info.precision}"
    annotator = Annotator(labels)
    overlay = ("100.0 FPS  10 / 20 ms p50 / p95", f"0 dropped  {head}")
    with timed("draw"):
        for frame, one in zip(frames, found, strict=True):
            annotator.annotate(frame, one, overlay)
    drawn = [annotator.annotate(frame, one, overlay) for frame, one in zip(frames, found, strict=True)]
    with open_sink(str(output), info, labels=labels) as sink, timed("encode"):
        for frame, one in zip(drawn, found, strict=True):
            sink.write(frame, one)
        sink.close()
    return {stage: costs[stage] for stage in STAGES}
