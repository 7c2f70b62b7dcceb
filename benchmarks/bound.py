"""The most that this program's stages allow on a machine: cores / (processor seconds a frame of all stages)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

from benchmarks.contenders import CONF, IOU
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.sinks import open_sink
from streamer.sinks.base import Sink
from streamer.sources import open_source

STAGES = ("decode", "detect", "draw", "encode")
_KEPT_FRAMES = 200  # held decoded in memory, 1.4 MB each


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

    ``decode`` goes through the whole clip, the others through its first frames, kept decoded in memory. ``detect`` is
    preprocessing, the network and decoding of its output, with as many frames in flight as in the pipeline; it has
    seen the frames once before it is timed. Opening a stage is left out; closing the video belongs to ``encode``. As
    in the pipeline, what a stage has made is let go at once, so that its memory is used again.

    Args:
        model: name or file.
        clip: what to read.
        output: a video file to write, which doesn't exist yet.

    Returns:
        Processor seconds a frame, all threads of the process together, by the names in `STAGES`.
    """
    with open_source(str(clip)) as source:
        frames = list(islice(source, _KEPT_FRAMES))
        info = source.info
    with open_source(str(clip)) as source:
        decode_s = _cpu_s_per_item(source)
    with open_detector(model, device="cpu", conf=CONF, iou=IOU) as detector:
        found = [detections for _, detections in detector.stream(frames)]
        detect_s = _cpu_s_per_item(detector.stream(frames))
        labels = detector.labels
    annotator = Annotator(labels)
    work = list(zip(frames, found, strict=True))
    draw_s = _cpu_s_per_item(annotator.annotate(frame, detections) for frame, detections in work)
    drawn = [(annotator.annotate(frame, detections), detections) for frame, detections in work]
    with open_sink(str(output), info, labels=labels) as sink:
        encode_s = _cpu_s_per_item(_writing(sink, drawn))
    return dict(zip(STAGES, (decode_s, detect_s, draw_s, encode_s), strict=True))


def measure_finding(clip: Path, streams: int) -> dict[str, float]:
    """Runs reading and finding alone, as `measure_stages` does, with the packaged model as for that many streams.

    Returns:
        Processor seconds a frame, all threads of the process together, of ``decode`` and ``detect``.
    """
    with open_source(str(clip)) as source:
        frames = list(islice(source, _KEPT_FRAMES))
    with open_source(str(clip)) as source:
        decode_s = _cpu_s_per_item(source)
    batch: Literal["auto"] | None = "auto" if streams > 1 else None
    with open_detector(DEFAULT_MODEL, device="cpu", batch=batch, streams=streams, live=False) as detector:
        for _ in detector.stream(frames):
            pass
        detect_s = _cpu_s_per_item(detector.stream(frames))
    return {"decode": decode_s, "detect": detect_s}


def _writing(sink: Sink, drawn: Iterable[tuple[Frame, Detections]]) -> Iterator[None]:
    """Writes one frame for each item that is asked for, and closes the sink behind the last."""
    for frame, detections in drawn:
        sink.write(frame, detections)
        yield
    sink.close()


def _cpu_s_per_item(work: Iterable[object]) -> float:
    began = time.process_time()
    count = sum(1 for _ in work)
    return (time.process_time() - began) / count
