"""Part "encoders" of ``benchmarks.recording``: size, likeness and cost of encoded videos, by quality and encoder.

Each clip's own frames, without boxes, are written by this program's `VideoSink` and compared with what was decoded.
CPU time is that of the process in `VideoSink` alone. It doesn't measure how a run is slowed: see `benchmarks.run`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import av
import numpy as np
import numpy.typing as npt

from benchmarks.quality import psnr_db
from benchmarks.table import markdown_table
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.options import QUALITIES, Encoding, crf_of
from streamer.sinks.video.sink import VideoSink
from streamer.sources import open_source

HEAD = ("clip", "encoder", "quality", "crf", "Mb/s", "times the source", "PSNR dB", "SSIM", "CPU ms a frame")
_SSIM_EVERY = 10
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
Plane = npt.NDArray[np.uint8]


def measure_encoders(clips: Sequence[Path], wanted: Sequence[str], count: int) -> list[dict[str, str]]:
    """Returns a row of `HEAD` for each clip, encoder and quality.

    Args:
        clips: videos.
        wanted: FFmpeg's names of encoders.
        count: frames of each clip at most.

    Raises:
        StreamerError: if a clip can't be read, or an encoder isn't there.
    """
    rows = [row for clip in clips for row in _rows(clip, wanted, count)]
    return [dict(zip(HEAD, row, strict=True)) for row in rows]


def report_encoders(rows: Sequence[dict[str, str]]) -> str:
    """Returns the table."""
    return markdown_table(HEAD, [list(row.values()) for row in rows])


def _rows(clip: Path, wanted: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Returns a line of the table for each encoder and quality."""
    with open_source(str(clip)) as source:
        frames = list(itertools.islice(source, count))
    fps = source.info.fps or 25.0
    own = _packet_bytes(clip, count)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for encoder, (quality, number) in itertools.product(wanted, QUALITIES.items()):
            written = Path(folder, "out.mp4")
            began_s = time.process_time()
            with VideoSink(written, source.info, encoding=Encoding(crf_of(number), encoder), audio=False) as sink:
                for frame in frames:
                    sink.write(frame, Detections.empty())
            cpu_ms = (time.process_time() - began_s) * 1e3 / len(frames)
            size = _packet_bytes(written, count)
            psnr, ssim = _likeness(frames, written)
            megabits = size * 8 * fps / len(frames) / 1e6
            figures = (f"{megabits:.2f}", f"{size / own:.2f}", f"{psnr:.1f}", f"{ssim:.3f}", f"{cpu_ms:.1f}")
            rows.append((clip.stem, encoder, quality, str(crf_of(number)), *figures))
    return rows


def _packet_bytes(path: Path, count: int) -> int:
    with av.open(str(path)) as opened:
        return sum(packet.size for packet in itertools.islice(opened.demux(video=0), count))


def _likeness(frames: Sequence[Frame], path: Path) -> tuple[float, float]:
    """Returns PSNR in dB over all frames, and the mean SSIM of every tenth, both of the luma."""
    errors, likenesses = [], []
    with open_source(str(path)) as written:
        for index, (given, seen) in enumerate(zip(frames, written, strict=True)):
            one, other = _luma(given), _luma(seen)
            errors.append(float(np.square(one.astype(np.float32) - other).mean()))
            if index % _SSIM_EVERY == 0:
                likenesses.append(_ssim(one, other))
    return psnr_db(sum(errors) / len(errors)), sum(likenesses) / len(likenesses)


def _luma(frame: Frame) -> Plane:
    pixels = frame.host_pixels
    return pixels.y if isinstance(pixels, Yuv420) else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8)


def _ssim(one: Plane, other: Plane) -> float:
    """Returns the structural similarity of two (H, W) planes, 11 x 11 Gaussian windows (Wang et al. 2004)."""

    def mean(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(plane, (11, 11), 1.5), np.float32)

    a, b = one.astype(np.float32), other.astype(np.float32)
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    likeness /= (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return float(likeness.mean())
