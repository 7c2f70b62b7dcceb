"""What ``benchmarks.recording`` computes from what it measures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.program import Program
from benchmarks.recording_cameras import Fleet, report_cameras
from benchmarks.recording_copy import Copied, report_copy
from benchmarks.recording_cost import Contender, ratios, report_cost
from streamer.common.errors import StreamerError


def test_a_program_costs_what_it_uses_and_says_why_it_failed(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    with Program([sys.executable, "-c", busy], tmp_path) as program:
        assert program.wait().cpu_s >= 0.3
        assert program.said == "done\n"
    with (
        Program([sys.executable, "-c", "raise SystemExit('no camera')"], tmp_path) as program,
        pytest.raises(StreamerError, match="failed: no camera"),
    ):
        program.wait()


def test_the_ratio_is_of_medians_and_stands_beside_its_bound() -> None:
    found = [Contender(detection, name) for detection in ("5 a second",) for name in ("--record", "--output")]
    for each, figures in zip(found, ([50.0, 40.0, 60.0], [500.0, 400.0, 900.0]), strict=True):
        each.steady_ms_a_s, each.whole_s, each.wall_s = figures, figures, figures
    assert ratios(found) == {"5 a second": {"steady": 0.1, "whole": 0.1}}
    said = report_cost(found, {"decode": 0.001, "detect": 0.002})
    assert "0.100 of `--output` once running" in said and "Bound: 40 ms/s" in said


@pytest.mark.parametrize(
    ("lost", "shortest_s", "detected_a_s", "is_recorded", "holds"),
    [
        (0, 49.0, 5.0, True, True),
        (1, 49.0, 5.0, False, False),
        (0, 40.0, 5.0, False, False),
        (0, 49.0, 4.0, True, False),
    ],
)
def test_cameras_hold_where_nothing_is_missing(
    lost: int, shortest_s: float, detected_a_s: float, is_recorded: bool, holds: bool
) -> None:
    fleet = Fleet(16, lost, shortest_s, 50.0, detected_a_s, 1.5, 0.2)
    assert (fleet.is_recorded, fleet.holds) == (is_recorded, holds)
    assert f"detections a second: {16 if holds else 0}," in report_cameras([fleet], {"decode": 0.005, "detect": 0.03})


def test_a_copy_is_reached_within_its_limit() -> None:
    assert "-0.90%, wanted within 1%: reached" in report_copy([Copied(".mp4", 90, 99, 99, 99.1, 100.0, True)])
    assert "NOT the same" in report_copy([Copied(".mp4", 90, 99, 99, 99.0, 90.0, False)])
