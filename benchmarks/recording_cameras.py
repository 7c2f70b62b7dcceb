"""Part "cameras" of ``benchmarks.recording``: how many cameras are recorded and detected without a lost packet.

1920x1080 at 30 a second, in a process of its own; each recorded as it comes and detected at 5 a second, in one run.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av

from benchmarks.fleet_cameras import Cameras
from benchmarks.program import STREAMER, Program
from benchmarks.recording_cost import DETECTED_A_S, FPS
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores

MOST = 16
_LEAST_RATE = 0.99
_SHORT_S = 2.0  # that a recording may lack at both its ends together: a group of pictures


@dataclass(frozen=True)
class Fleet:
    """One number of cameras.

    Attributes:
        count: cameras.
        lost: pictures missing within the recordings, by their stamps.
        shortest_s: the length of the shortest recording, of `run_s`.
        run_s: how long the run was to be.
        detected_a_s: results a second of the camera that had the fewest.
        cores: that the program kept busy.
        camera_cores: that the simulated cameras did.
    """

    count: int
    lost: int
    shortest_s: float
    run_s: float
    detected_a_s: float
    cores: float
    camera_cores: float

    @property
    def is_recorded(self) -> bool:
        """Whether no picture is lost."""
        return not self.lost and self.shortest_s >= self.run_s - _SHORT_S

    @property
    def holds(self) -> bool:
        """Whether it is also detected at the wanted rate."""
        return self.is_recorded and self.detected_a_s >= _LEAST_RATE * DETECTED_A_S


def measure_cameras(footage: Path, warm_up_s: float, seconds: float, counts: Sequence[int] = ()) -> list[Fleet]:
    """Runs numbers of cameras for so long each: those given, or the most and what leads to the highest that holds.

    Args:
        footage: a file of `write_footage`, 1920x1080.
        warm_up_s: from a run's start until it is measured.
        seconds: that are measured of each.
        counts: numbers of cameras.

    Raises:
        StreamerError: if a run fails.
        RuntimeError: if the cameras don't start.
    """
    if counts:
        return [_run(footage, count, warm_up_s, seconds) for count in counts]
    found = [_run(footage, MOST, warm_up_s, seconds)]
    holds, fails = (MOST, MOST + 1) if found[0].holds else (0, MOST)
    while fails - holds > 1:
        found.append(_run(footage, (holds + fails) // 2, warm_up_s, seconds))
        holds, fails = (found[-1].count, fails) if found[-1].holds else (holds, found[-1].count)
    return sorted(found, key=lambda each: each.count)


def _run(footage: Path, count: int, warm_up_s: float, seconds: float) -> Fleet:
    run_s = warm_up_s + seconds
    with Cameras(footage, count, fps=FPS) as cameras, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [part for n, url in enumerate(cameras.urls) for part in ("--source", f"c{n}={url}")]
        command = [*STREAMER, *sources, "--record", "{source}.mp4", "--max-fps", str(DETECTED_A_S)]
        with Program([*command, "--duration", f"{run_s:g}", "--no-progress"], folder) as program:
            before_s = cameras.cpu_s()
            steady = program.steady(warm_up_s, seconds / 2)
            cameras_s = cameras.cpu_s() - before_s
            watched_s = warm_up_s + seconds / 2
            program.wait()
        videos = [folder / f"c{n}.mp4" for n in range(count)]
        stamps = [_stamps(video) for video in videos]
        lines = [_detected_a_s(video.with_suffix(".jsonl"), warm_up_s) for video in videos]
    lost = sum(round((b - a) * FPS) - 1 for each in stamps for a, b in itertools.pairwise(each))
    shortest_s = min(each[-1] - each[0] if each else 0.0 for each in stamps)
    return Fleet(
        count, lost, shortest_s, run_s, min(lines), steady.cpu_s / steady.wall_s, cameras_s / watched_s
    )  # fmt: skip


def _stamps(video: Path) -> list[float]:
    with av.open(str(video)) as container:
        packets = container.demux(container.streams.video[0])
        return sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)


def _detected_a_s(lines: Path, from_s: float) -> float:
    times = [json.loads(line)["pts_s"] for line in lines.read_text(encoding="utf-8").splitlines()]
    times = [at for at in times if at >= from_s]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def report_cameras(found: Sequence[Fleet], costs_s: Mapping[str, float]) -> str:
    """Returns the table, the bound and what was wanted; `costs_s` is as of `measure_finding`, for this footage."""
    head = (
        "cameras",
        "lost pictures",
        "shortest recording, s",
        "detected a second",
        "cores",
        "of the cameras",
        "holds",
    )
    rows = [
        [
            str(each.count), str(each.lost), f"{each.shortest_s:.1f} of {each.run_s:g}", f"{each.detected_a_s:.2f}",
            f"{each.cores:.2f}", f"{each.camera_cores:.2f}", "yes" if each.holds else "no",
        ]
        for each in found
    ]  # fmt: skip
    decode_ms, detect_ms = (costs_s[stage] * 1e3 for stage in ("decode", "detect"))
    each_ms = FPS * decode_ms + DETECTED_A_S * detect_ms
    cores = available_cores()
    simulated = max(each.camera_cores / each.count for each in found) * 1e3
    best = max((each.count for each in found if each.holds), default=0)
    recorded = max((each.count for each in found if each.is_recorded), default=0)
    return "\n\n".join(
        [
            f"RTSP cameras on loopback, H.264 1920x1080 at {FPS} a second, recorded with `--record` and detected at "
            f"{DETECTED_A_S} a second in one run. Cores: what the program and the simulated cameras kept busy.",
            markdown_table(head, rows),
            f"Bound: {FPS} x {decode_ms:.2f} ms to decode + {DETECTED_A_S} x {detect_ms:.1f} ms to detect = "
            f"{each_ms:.0f} ms/s a camera, and {simulated:.0f} ms/s of its simulation on the same cores: "
            f"{cores * 1e3 / (each_ms + simulated):.1f} cameras on {cores} cores, without the packets' own cost.",
            f"- Highest number without a lost picture at {DETECTED_A_S} detections a second: {best}, wanted {MOST}: "
            f"{'reached' if best >= MOST else 'missed'}\n"
            f"- Highest number measured without a lost picture, whatever detection reaches: {recorded}",
        ]
    )
