"""Part "cost" of ``benchmarks.recording``: processor time of recording a camera's packets, beside encoding them again.

One camera, 1280x720 at 30 a second, in a process of its own that doesn't count. Each contender runs alone, in turns.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.fleet_cameras import Cameras
from benchmarks.program import STREAMER, Cost, Program
from benchmarks.table import markdown_table

FPS = 30
DETECTED_A_S = 5
WANTED = 0.10
_LEFT_S = 4.0  # of the run behind what is measured: it ends by itself
_OFF = ("--detect-every", "0")
_SOME = ("--detect-every", str(FPS // DETECTED_A_S))
_PLAIN = ("--no-progress", "--no-overlay")
_DETECTIONS: Mapping[str, Sequence[str]] = {"off": _OFF, f"{DETECTED_A_S} a second": _SOME}
_PEER = "ffmpeg -c copy"


@dataclass
class Contender:
    """What one command took, round by round.

    Attributes:
        detection: how often it detects.
        name: the command's part that differs.
        steady_ms_a_s: processor milliseconds a second, once it runs.
        whole_s: processor seconds of the process, its start and end included.
        wall_s: how long the process ran.
    """

    detection: str
    name: str
    steady_ms_a_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    def add(self, steady: Cost, whole: Cost) -> None:
        """Notes a round."""
        self.steady_ms_a_s.append(steady.ms_a_s)
        self.whole_s.append(whole.cpu_s)
        self.wall_s.append(whole.wall_s)

    @property
    def steady(self) -> float:
        """The median of `steady_ms_a_s`."""
        return median(self.steady_ms_a_s)

    @property
    def whole(self) -> float:
        """The median of `whole_s`."""
        return median(self.whole_s)


def measure_cost(footage: Path, warm_up_s: float, seconds: float, rounds: int) -> list[Contender]:
    """Runs every contender so often, each for so long behind its start.

    Args:
        footage: a file of `write_footage`.
        warm_up_s: from a command's start until it is measured.
        seconds: that are measured of each.
        rounds: how often each runs.

    Raises:
        StreamerError: if a command fails.
        RuntimeError: if the camera doesn't start.
    """
    peers = [Contender("off", _PEER)] if shutil.which("ffmpeg") else []
    found = [Contender(detection, name) for detection in _DETECTIONS for name in ("--record", "--output")]
    with Cameras(footage, 1, fps=FPS) as cameras:
        for _ in range(rounds):
            for contender in [*peers, *found]:
                command = _command(contender, cameras.urls[0], warm_up_s + seconds + _LEFT_S)
                with tempfile.TemporaryDirectory() as folder, Program(command, Path(folder)) as program:
                    contender.add(program.steady(warm_up_s, seconds), program.wait())
    return [*peers, *found]


def _command(contender: Contender, url: str, seconds: float) -> list[str]:
    if contender.name == _PEER:
        return [
            "ffmpeg", "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-t", f"{seconds:g}",
            "-c", "copy", "out.mp4",
        ]  # fmt: skip
    run = ["--source", url, contender.name, "out.mp4", *_DETECTIONS[contender.detection]]
    return [*STREAMER, *run, "--duration", f"{seconds:g}", *_PLAIN]


def ratios(found: Sequence[Contender]) -> dict[str, dict[str, float]]:
    """Returns by detection the cost of ``--record`` over that of ``--output``: once running, and of all of it."""
    of = {(each.detection, each.name): each for each in found}
    return {
        detection: {
            "steady": of[detection, "--record"].steady / of[detection, "--output"].steady,
            "whole": of[detection, "--record"].whole / of[detection, "--output"].whole,
        }
        for detection in dict.fromkeys(detection for detection, name in of if name == "--record")
    }


def report_cost(found: Sequence[Contender], costs_s: Mapping[str, float]) -> str:
    """Returns the table, the bound and what was wanted; `costs_s` is as of `measure_finding`."""
    rows = [
        [
            each.name, each.detection, f"{each.steady:.0f}", f"{min(each.steady_ms_a_s):.0f} to "
            f"{max(each.steady_ms_a_s):.0f}", f"{each.whole:.1f}", f"{median(each.wall_s):.0f}",
        ]
        for each in found
    ]  # fmt: skip
    head = ("command", "detection", "CPU ms/s", "of all rounds", "whole process, CPU s", "its time, s")
    decode_ms, detect_ms = (costs_s[stage] * 1e3 for stage in ("decode", "detect"))
    copied = next((each.steady for each in found if each.name == _PEER), None)
    least_ms = FPS * decode_ms + DETECTED_A_S * detect_ms
    lines = []
    of = {(each.detection, each.name): each.steady for each in found}
    for detection, ratio in ratios(found).items():
        floor = (0.0 if detection == "off" else least_ms) + (copied or 0.0)
        reached = "reached" if ratio["steady"] <= WANTED else "missed"
        lines.append(
            f"- Detection {detection}: {ratio['steady']:.3f} of `--output` once running, {ratio['whole']:.3f} of the "
            f"whole process; wanted {WANTED:.2f}: {reached}. Bound: {floor:.0f} ms/s, "
            f"{floor / of[detection, '--output']:.3f} of `--output`."
        )
    copy = f"{copied:.0f} ms/s of {_PEER}" if copied is not None else f"{_PEER}, which isn't installed"
    return "\n\n".join(
        [
            f"One RTSP camera on loopback, H.264 1280x720 at {FPS} a second, in a process that doesn't count; "
            f"{len(found[0].whole_s)} rounds in turns, medians.",
            markdown_table(head, rows),
            f"Bound: with detection off {copy}; with {DETECTED_A_S} a second also {FPS} x {decode_ms:.2f} ms to decode "
            "(every picture is a reference of the next) and "
            f"{DETECTED_A_S} x {detect_ms:.1f} ms to detect, {least_ms:.0f} ms/s.",
            "\n".join(lines),
        ]
    )
