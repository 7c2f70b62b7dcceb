"""How long models take for a picture on this machine, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamer.common.cpu_info import available_cores
from streamer.detector.base import Detector
from streamer.frames.frame import Frame

_WARM_UP = 5
_TIMED = 40


@dataclass(frozen=True)
class Speed:
    """Times of one picture, with one in flight.

    Attributes:
        network_ms: median of the network alone.
        frame_ms: median from a decoded frame to its detections.
        turns: how many were measured.
        threads: processor cores to use; None on a GPU.
    """

    network_ms: float
    frame_ms: float
    turns: int
    threads: int | None


def speeds(detectors: Sequence[Detector], frames: Sequence[Frame], threads: int | None = None) -> list[Speed]:
    """Measures each detector on the same frames, in turns, so that a change of the machine's load affects all alike.

    Args:
        detectors: idle ones, opened with a depth of 1.
        frames: at least one, taken in turn.
        threads: that the detectors were opened with.
    """
    network_ms: list[list[float]] = [[] for _ in detectors]
    frame_ms: list[list[float]] = [[] for _ in detectors]
    for turn in range(_WARM_UP + _TIMED):
        frame = frames[turn % len(frames)]
        for place, detector in enumerate(detectors):
            began_s = time.perf_counter()
            detector.submit(frame)
            _, _, times = detector.collect()
            if turn >= _WARM_UP:
                frame_ms[place].append((time.perf_counter() - began_s) * 1e3)
                network_ms[place].append(times.inference_ms)
    return [
        Speed(
            float(np.median(network_ms[place])),
            float(np.median(frame_ms[place])),
            _TIMED,
            (threads or available_cores()) if detector.gpu is None else None,
        )
        for place, detector in enumerate(detectors)
    ]
