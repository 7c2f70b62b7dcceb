"""Part "live" of ``benchmarks.fleet``: many cameras through one engine, all in health."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet_cameras import FPS, Cameras
from benchmarks.fleet_files import costs_line
from benchmarks.fleet_watch import STRETCH_HEAD, Stretch, most_behind, stretch, stretch_cells, watching
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores

WANTED_P95_MS = 250.0
WANTED_RATE = 0.99


@dataclass(frozen=True)
class Live:
    """Many cameras in health.

    Attributes:
        each: of each camera.
        whole: of all together.
        behind: the most pictures that a camera had sent and that had not reached its sink at the end.
        cores: how many the pipeline kept busy.
        camera_cores: how many the simulated cameras did.
    """

    each: list[Stretch]
    whole: Stretch
    behind: int
    cores: float
    camera_cores: float


def measure_live(footage: Path, count: int, warm_up_s: float, seconds: float, *, staggered: bool) -> Live:
    """Runs many cameras for so long, after a warm-up.

    Raises:
        StreamerError: if the run fails.
        RuntimeError: if the cameras don't start.
    """
    with Cameras(footage, count, staggered=staggered) as cameras, watching(cameras.urls) as watch:
        watch.wait_for_all()
        watch.rest(warm_up_s)
        cpu_s, camera_cpu_s = time.process_time(), cameras.cpu_s()
        span = watch.rest(seconds)
        cpu_s, camera_cpu_s = time.process_time() - cpu_s, cameras.cpu_s() - camera_cpu_s
        got, sent = watch.got, cameras.sent()
    took_s = span[1] - span[0]
    return Live(
        [stretch([one], [span]) for one in got],
        stretch(got, [span]),
        most_behind(sent, got),
        cpu_s / took_s,
        camera_cpu_s / took_s,
    )


def report_live(staggered: Live, at_once: Live, costs_s: Mapping[str, float]) -> str:
    """Returns the table, the bound, and what was wanted."""
    costs, cost_s = costs_line([costs_s])
    count = len(staggered.each)
    needed = count * FPS * cost_s / available_cores()
    rows = [[f"camera {number}", *stretch_cells(one)] for number, one in enumerate(staggered.each, 1)]
    rows.append([f"all {count}", *stretch_cells(staggered.whole)])
    rows.append([f"all {count}, at the same moments", *stretch_cells(at_once.whole)])
    least = min(one.rate for one in staggered.each) / FPS
    p95_ms = staggered.whole.p95_ms
    return "\n\n".join(
        [
            f"{count} RTSP cameras on loopback, H.264 1280x720 at {FPS} a second, to JSON lines. Latency is from "
            "capture to the written line. The cameras' moments are spread evenly over the frame interval, but in the "
            "last row.",
            markdown_table(["cameras", *STRETCH_HEAD], rows),
            f"Bound: {count} x {FPS} x ({costs}) / {available_cores()} cores = {needed:.0%} of the machine is needed. "
            f"The pipeline took {staggered.cores:.2f} cores, the simulated cameras {staggered.camera_cores:.2f}; with "
            f"all at the same moments {at_once.cores:.2f} and {at_once.camera_cores:.2f}. At the end at most "
            f"{max(staggered.behind, at_once.behind)} pictures that a camera had sent were on their way (FFmpeg's "
            "parser holds one until the next begins).",
            f"- Least rate of a camera / {FPS}: {least:.3f}, wanted {WANTED_RATE:g}: "
            f"{'reached' if least >= WANTED_RATE else 'missed'}\n"
            f"- p95 of all: {p95_ms:.1f} ms, wanted under {WANTED_P95_MS:g} ms: "
            f"{'reached' if p95_ms < WANTED_P95_MS else 'missed'}",
        ]
    )
