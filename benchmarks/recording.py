"""``python -m benchmarks.recording``: what recordings cost, how large they are, and that nothing is missing in them.

Its parts: "encoders" compares qualities of encoded videos; "cost" recording a camera's packets with encoding them;
"copy" its files with those of ``ffmpeg -c copy``; "cameras" finds how many are recorded and detected at once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bound import measure_finding
from benchmarks.fleet_cameras import write_footage
from benchmarks.isolated import isolated
from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import parser_of, positive, write_results
from benchmarks.parts import Part, measure_parts
from benchmarks.recording_cameras import measure_cameras, report_cameras
from benchmarks.recording_copy import measure_copy, report_copy
from benchmarks.recording_cost import FPS, measure_cost, ratios, report_cost
from benchmarks.recording_encoders import measure_encoders, report_encoders
from streamer.common.errors import StreamerError

_SAMPLE = Path(__file__).resolve().parent.parent / "streamer" / "data" / "sample.mp4"
_HD_WH, _FULL_HD_WH = (1280, 720), (1920, 1080)
_GROUP_S = 2
_SMOKE_CAMERAS = (2,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; returns the exit status: 0 done, 1 failed. Missing what is wanted is no failure."""
    options = _parser().parse_args(arguments)
    options.clip = options.clip or [_SAMPLE]
    if options.smoke:
        options.frames, options.warm_up, options.seconds, options.rounds = 12, 3, 2, 1
    machine, described = machine_line(), describe_machine()
    try:
        with tempfile.TemporaryDirectory() as folder:
            parts = measure_parts(options.parts, TITLES, lambda name: PARTS[name](options, Path(folder)))
    except (StreamerError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(machine)
    write_results(
        options,
        {"machine": described, **{name: part.figures for name, part in parts.items()}},
        {f"benchmarks.recording {name}": f"{part.text}\n\n{machine}." for name, part in parts.items()},
    )
    return 0


def _encoders(options: argparse.Namespace, folder: Path) -> Part:
    rows = measure_encoders(options.clip, options.encoder or ["libx264", "libx265"], options.frames)
    return Part({"rows": rows}, report_encoders(rows))


def _cost(options: argparse.Namespace, folder: Path) -> Part:
    footage = _footage(options, folder, _HD_WH)
    costs_s = isolated(measure_finding, footage, 1)
    found = measure_cost(footage, options.warm_up, options.seconds, options.rounds)
    figures = {"contenders": [asdict(each) for each in found], "costs_s": costs_s, "ratios": ratios(found)}
    return Part(figures, report_cost(found, costs_s))


def _copy(options: argparse.Namespace, folder: Path) -> Part:
    found = measure_copy(_footage(options, folder, _HD_WH), options.seconds)
    return Part([asdict(each) | {"off": each.off} for each in found], report_copy(found))


def _cameras(options: argparse.Namespace, folder: Path) -> Part:
    footage = _footage(options, folder, _FULL_HD_WH)
    costs_s = isolated(measure_finding, footage, 2)
    counts = options.cameras or (_SMOKE_CAMERAS if options.smoke else ())
    found = measure_cameras(footage, options.warm_up, options.seconds, counts)
    figures = {"fleets": [asdict(each) | {"holds": each.holds} for each in found], "costs_s": costs_s}
    return Part(figures, report_cameras(found, costs_s))


def _footage(options: argparse.Namespace, folder: Path, size_wh: tuple[int, int]) -> Path:
    """Returns what the cameras film, made once for each size."""
    made = folder / f"{size_wh[1]}.mp4"
    if not made.exists():
        pictures = FPS * _GROUP_S * (1 if options.smoke else 5)
        write_footage(options.clip, made, pictures, size_wh=size_wh, key_interval=FPS * _GROUP_S)
    return made


PARTS: dict[str, Callable[[argparse.Namespace, Path], Part]] = {
    "cost": _cost,
    "copy": _copy,
    "cameras": _cameras,
    "encoders": _encoders,
}
TITLES = {
    "cost": "A camera's own packets, or encoded again",
    "copy": "Beside ffmpeg -c copy",
    "cameras": "Many cameras",
    "encoders": "Encoders and qualities",
}


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.recording", __doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--encoder", action="append", help="default: libx264 and libx265", metavar="NAME")
    parser.add_argument("--frames", type=positive, default=250, help="of each clip at most, to encode (default: 250)")
    parser.add_argument(
        "--warm-up", type=positive, default=10, help="seconds before each run is measured (default: 10)"
    )
    parser.add_argument("--seconds", type=positive, default=40, help="of each run of cameras (default: 40)")
    parser.add_argument("--rounds", type=positive, default=3, help="of each command of cost (default: 3)")
    parser.add_argument("--cameras", type=positive, nargs="+", help="numbers to run, rather than to search the highest")
    parser.add_argument("--smoke", action="store_true", help="seconds only, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
