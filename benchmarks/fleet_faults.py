"""Part "faults" of ``benchmarks.fleet``: how faulty cameras affect healthy ones in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet_cameras import CORRUPT_SHARE, FPS, Cameras
from benchmarks.fleet_watch import (
    ON_THEIR_WAY,
    STRETCH_HEAD,
    Span,
    Stretch,
    Watch,
    most_behind,
    stretch,
    stretch_cells,
    watching,
)
from benchmarks.table import markdown_table

FAULTS = ("frozen", "killed", "corrupted")
WANTED_CHANGE = 0.10


@dataclass(frozen=True)
class Timing:
    """How long things last, in seconds.

    Attributes:
        settle_s: before each phase of health, for the sick to come back.
        phase_s: each phase.
        kill_every_s: from one kill to the next; it is away half of that.
        times: how often health and faults follow each other.
    """

    settle_s: float
    phase_s: float
    kill_every_s: float
    times: int


@dataclass(frozen=True)
class Sick:
    """A camera that is sick in some phases: what it gave in health and in fault phases, and its reconnects."""

    fault: str
    health: Stretch
    faults: Stretch
    reconnects: int


@dataclass(frozen=True)
class Faults:
    """What the cameras gave that are never sick, together, and what the sick ones gave.

    Attributes:
        healthy: how many are never sick.
        phases: each phase's kind ("health" or "faults") and figures, in order.
        health, faults: all phases of a kind taken together.
        whole: from the first phase's beginning to the last one's end.
        behind: see `benchmarks.fleet_watch.most_behind`.
        reconnects: of the healthy cameras.
        sick: the others.
    """

    healthy: int
    phases: list[tuple[str, Stretch]]
    health: Stretch
    faults: Stretch
    whole: Stretch
    behind: int
    reconnects: int
    sick: list[Sick]

    @property
    def unrest(self) -> float:
        """How far the phases of health are from each other: the longest p95 above the shortest, as a share of it."""
        p95s = [one.p95_ms for kind, one in self.phases if kind == "health"]
        return max(p95s) / min(p95s) - 1

    @property
    def change(self) -> float:
        """How much longer the p95 of latency is in phases of faults, as a share of that in health."""
        return self.faults.p95_ms / self.health.p95_ms - 1


def measure_faults(footage: Path, count: int, timing: Timing) -> Faults:
    """Runs phases of health and of faults in turn; the last three cameras are the sick ones.

    Raises:
        StreamerError: if the run fails.
        RuntimeError: if the cameras don't start.
    """
    healthy = count - len(FAULTS)
    spans: list[tuple[str, Span]] = []
    with Cameras(footage, count) as cameras, watching(cameras.urls) as watch:
        watch.wait_for_all()
        for _ in range(timing.times):
            watch.rest(timing.settle_s)
            spans.append(("health", watch.rest(timing.phase_s)))
            spans.append(("faults", _make_sick(cameras, watch, healthy, timing)))
        got, sent = watch.got, cameras.sent()
        reconnects = [part.reconnects for part in watch.pipeline.report().sources]
    well = got[:healthy]
    health, faults = ([span for kind, span in spans if kind == wanted] for wanted in ("health", "faults"))
    return Faults(
        healthy,
        [(kind, stretch(well, [span])) for kind, span in spans],
        stretch(well, health),
        stretch(well, faults),
        stretch(well, [(spans[0][1][0], spans[-1][1][1])]),
        most_behind(sent[:healthy], well),
        sum(reconnects[:healthy]),
        [
            Sick(fault, stretch([got[number]], health), stretch([got[number]], faults), reconnects[number])
            for number, fault in enumerate(FAULTS, healthy)
        ],
    )


def _make_sick(cameras: Cameras, watch: Watch, healthy: int, timing: Timing) -> Span:
    """Has the last three cameras sick for one phase; returns when it began and ended."""
    frozen, killed, corrupted = range(healthy, healthy + len(FAULTS))
    cycles = max(1, round(timing.phase_s / timing.kill_every_s))
    half_s = timing.phase_s / cycles / 2
    cameras.freeze(frozen)
    cameras.corrupt(corrupted)
    rests = []
    for _ in range(cycles):
        cameras.kill(killed)
        rests.append(watch.rest(half_s))
        cameras.start(killed)
        rests.append(watch.rest(half_s))
    cameras.thaw(frozen)
    cameras.corrupt(corrupted, 0.0)
    return rests[0][0], rests[-1][1]


def report_faults(faults: Faults, timing: Timing) -> str:
    """Returns the tables, and what was wanted."""
    rows = [[f"{number}: {kind}", *stretch_cells(one)] for number, (kind, one) in enumerate(faults.phases, 1)]
    rows += [["all health", *stretch_cells(faults.health)], ["all faults", *stretch_cells(faults.faults)]]
    sick = [[one.fault, f"{one.health.rate:.2f}", f"{one.faults.rate:.2f}", str(one.reconnects)] for one in faults.sick]
    change, lost, behind = faults.change, faults.whole.lost, faults.behind
    missed = lost + max(0, behind - ON_THEIR_WAY)
    return "\n\n".join(
        [
            f"{faults.healthy + len(faults.sick)} cameras as in the part before. {timing.phase_s:g} s in health, then "
            f"{timing.phase_s:g} s in which one is frozen (connection open, nothing sent), one is killed every "
            f"{timing.kill_every_s:g} s and away for half of that, and one sends {CORRUPT_SHARE:.0%} of its packets "
            f"damaged; {timing.times} times. The {faults.healthy} other cameras, together:",
            markdown_table(["phase", *STRETCH_HEAD], rows),
            f"From the first phase to the last, the time between phases included, they lost {lost} of "
            f"{faults.whole.frames + lost:,} frames and connected again {faults.reconnects} times; at the end at most "
            f"{behind} pictures that one had sent were on their way. The sick ones ({FPS} frames a second in "
            "health):",
            markdown_table(["camera", "frames/s in health", "in faults", "reconnects"], sick),
            f"- Frames that healthy cameras lost: {missed}, wanted 0: {'missed' if missed else 'reached'}\n"
            f"- Their p95 beside sick ones against health: {change:+.1%}, wanted at most {WANTED_CHANGE:+.0%}: "
            f"{'reached' if change <= WANTED_CHANGE else 'missed'} (phases of health differ by {faults.unrest:.1%})",
        ]
    )
