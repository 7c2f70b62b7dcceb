"""Video files written by a sink and read back, for the tests of several files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.options import DEFAULT_ENCODING, Encoding
from streamer.sinks.video.sink import VideoSink
from streamer.sources.base import SourceInfo
from tests.media import number_of, picture

ENDINGS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".ts")
"""Of every video."""
EXACT_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".ts")
"""Of containers that say how long the last picture is seen, and whose times don't start over after 26 h."""
NOTHING = Detections.empty()
SIZE_WH = (96, 64)


def info(fps: float | None = 30.0, path: Path | None = None) -> SourceInfo:
    return SourceInfo("clip", "clip.mp4", fps=fps, path=path)


def frames(times_s: Sequence[float], size_wh: tuple[int, int] = SIZE_WH) -> Iterator[Frame]:
    for number, time_s in enumerate(times_s):
        yield Frame(picture(number, size_wh), "clip", number, time_s, 0.0)


def write(path: Path, source: SourceInfo, pictures: Iterator[Frame], encoding: Encoding = DEFAULT_ENCODING) -> None:
    with VideoSink(path, source, encoding=encoding) as sink:
        for frame in pictures:
            sink.write(frame, NOTHING)


def even(count: int, fps: float = 30.0) -> list[float]:
    return [index / fps for index in range(count)]


def read(path: Path) -> tuple[list[int], list[float], float]:
    """Returns the numbers and the times of a file's pictures, times from the first, and how long pictures are seen."""
    with av.open(str(path)) as opened:
        decoded = list(opened.decode(video=0))
        numbers = [number_of(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)) for frame in decoded]
        times_s = [frame.time - decoded[0].time for frame in decoded]
        stream = opened.streams.video[0]
        if stream.duration is not None and stream.time_base is not None:
            return numbers, times_s, float(stream.duration * stream.time_base)
    with av.open(str(path)) as opened:  # Matroska only says how long pictures and sound last together
        last = [packet for packet in opened.demux(video=0) if packet.pts is not None][-1]
        return numbers, times_s, times_s[-1] + float(last.duration * last.time_base)


def as_planes(frame: Frame, colorspace: int = 5, color_range: int = 1, format: str = "yuv420p") -> Frame:
    picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24").reformat(
        format=format, dst_colorspace=colorspace, dst_color_range=color_range
    )
    picture.colorspace, picture.color_range = colorspace, color_range
    return Frame(Yuv420(picture), frame.source, frame.index, frame.pts_s, frame.captured_at_s)
