"""``python -m benchmarks.fleet``: many streams through one engine on a CPU, each figure with its bound or rival."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import fleet_faults, fleet_files, fleet_live, fleet_peer
from benchmarks.bound import measure_finding
from benchmarks.clips import find_footage
from benchmarks.fleet_cameras import write_footage
from benchmarks.isolated import isolated
from benchmarks.machine import describe_machine, machine_line
from benchmarks.measure import Miscounted
from benchmarks.options import parser_of, write_results
from benchmarks.parts import Part, measure_parts
from streamer.common.errors import StreamerError

_CAMERA_PICTURES = 370


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        counts: numbers of file streams.
        frames: of all file streams together, a run.
        rounds: runs of each number of file streams.
        cameras: how many.
        pictures: that the cameras repeat.
        warm_up_s: before cameras are measured.
        live_s: how long all of them are, in health.
        faults: of the phases of health and faults.
        peer: of the comparison.
        peer_cameras: how many are in it.
    """

    counts: tuple[int, ...]
    frames: int
    rounds: int
    cameras: int
    pictures: int
    warm_up_s: float
    live_s: float
    faults: fleet_faults.Timing
    peer: fleet_peer.Timing
    peer_cameras: int


FULL = Size(
    counts=(1, 2, 4, 8, 16),
    frames=4000,
    rounds=3,
    cameras=16,
    pictures=_CAMERA_PICTURES,
    warm_up_s=10.0,
    live_s=60.0,
    faults=fleet_faults.Timing(settle_s=15.0, phase_s=60.0, kill_every_s=10.0, times=2),
    peer=fleet_peer.Timing(warm_up_s=10.0, healthy_s=30.0, frozen_s=30.0, after_s=10.0),
    peer_cameras=16,
)
SMOKE = Size(
    counts=(2, 4),
    frames=48,
    rounds=1,
    cameras=4,
    pictures=20,
    warm_up_s=0.5,
    live_s=1.0,
    faults=fleet_faults.Timing(settle_s=1.0, phase_s=2.0, kill_every_s=2.0, times=1),
    peer=fleet_peer.Timing(warm_up_s=0.5, healthy_s=1.0, frozen_s=1.5, after_s=0.5),
    peer_cameras=2,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed. Missing what is wanted is no failure."""
    options = _parser().parse_args(arguments)
    size = SMOKE if options.smoke else FULL
    machine, described = machine_line(), describe_machine()
    try:
        footage = options.clip or find_footage(smoke=options.smoke)
        with tempfile.TemporaryDirectory() as folder:
            filmed = Path(folder, "cameras.mp4")
            if set(options.parts) - {"files"}:
                write_footage(footage, filmed, size.pictures)
            parts = measure_parts(options.parts, TITLES, lambda name: PARTS[name](footage, filmed, size))
    except (StreamerError, Miscounted, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = ", ".join(path.name for path in footage)
    write_results(
        options,
        {"machine": described, **{name: part.figures for name, part in parts.items()}},
        {f"benchmarks.fleet {name}": f"{part.text}\n\nFootage: {names}. {machine}." for name, part in parts.items()},
    )
    return 0


def _files(footage: Sequence[Path], filmed: Path, size: Size) -> Part:
    found = fleet_files.measure(footage, size.counts, size.frames, size.rounds)
    return Part(asdict(found), fleet_files.report(found))


def _live(footage: Sequence[Path], filmed: Path, size: Size) -> Part:
    costs_s = isolated(measure_finding, filmed, size.cameras)
    staggered, at_once = (
        isolated(fleet_live.measure_live, filmed, size.cameras, size.warm_up_s, size.live_s, staggered=staggered)
        for staggered in (True, False)
    )
    figures = {"costs_s": costs_s, "staggered": asdict(staggered), "at_once": asdict(at_once)}
    return Part(figures, fleet_live.report_live(staggered, at_once, costs_s))


def _faults(footage: Sequence[Path], filmed: Path, size: Size) -> Part:
    found = isolated(fleet_faults.measure_faults, filmed, size.cameras, size.faults)
    return Part(asdict(found), fleet_faults.report_faults(found, size.faults))


def _peer(footage: Sequence[Path], filmed: Path, size: Size) -> Part:
    rows = [
        isolated(fleet_peer.measure_peer, filmed, size.peer_cameras, name, size.peer) for name in fleet_peer.CONTENDERS
    ]
    return Part([asdict(row) for row in rows], fleet_peer.report_peer(rows, size.peer_cameras, size.peer))


PARTS: dict[str, Callable[[Sequence[Path], Path, Size], Part]] = {
    "files": _files,
    "live": _live,
    "faults": _faults,
    "peer": _peer,
}
TITLES = {
    "files": "Files",
    "live": "Cameras",
    "faults": "Sick cameras among healthy ones",
    "peer": "Beside the loop everyone writes",
}


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.fleet", __doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--smoke", action="store_true", help="seconds only, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
