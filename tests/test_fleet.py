"""The benchmark of many streams: its arithmetic, its clips, its cameras and its verdicts."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import clips, fleet_files
from benchmarks.fleet_cameras import Cameras
from benchmarks.fleet_faults import Faults, Sick, Timing, report_faults
from benchmarks.fleet_files import Files, FilesRound, slope
from benchmarks.fleet_peer import Flow, flow
from benchmarks.fleet_watch import Got, Stretch, most_behind, stretch
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from tests.fakes import wait_for
from tests.media import write_clip
from tests.rtsp.camera import answers

# --- arithmetic ---


def _got(*frames: tuple[float, int, float]) -> list[Got]:
    return [Got(*frame) for frame in frames]


def test_stretch_counts_what_came_within_its_spans_and_what_is_missing() -> None:
    first = _got((0.5, 0, 9.0), (1.0, 1, 1.0), (1.5, 3, 2.0), (2.5, 5, 9.0), (3.0, 6, 3.0), (4.0, 8, 9.0))
    second = _got((1.2, 7, 4.0), (3.9, 8, 5.0))
    found = stretch([first, second], [(1.0, 2.0), (3.0, 4.0)])
    assert (found.frames, found.rate, found.lost) == (5, 1.25, 1)
    assert (found.p50_ms, found.p99_ms) == (3.0, pytest.approx(4.96))


def test_stretch_counts_what_is_lost_at_its_edges() -> None:
    assert stretch([_got((0.5, 0, 1.0), (1.5, 2, 1.0), (2.5, 4, 1.0))], [(1.0, 2.0)]).lost == 1
    assert stretch([_got((0.5, 0, 1.0), (1.5, 2, 1.0), (2.5, 4, 1.0))], [(0.0, 3.0)]).lost == 2


def test_stretch_without_frames_has_no_latency() -> None:
    found = stretch([_got((5.0, 0, 1.0))], [(1.0, 2.0)])
    assert (found.frames, found.rate, found.lost) == (0, 0.0, 0)
    assert math.isnan(found.p95_ms)


def test_most_behind_is_of_the_slowest_camera() -> None:
    assert most_behind([10, 10], [_got((1.0, 9, 1.0)), _got((1.0, 6, 1.0))]) == 3


def test_flow_holds_the_longest_gap_against_the_spans_edges_too() -> None:
    assert flow([[0.5, 1.0, 1.5, 2.0], [1.0, 9.0], [1.2, 1.4]], (1.0, 3.0)) == Flow(0.5, 1.0, 2.0)
    assert flow([[]], (1.0, 3.0)) == Flow(0.0, 0.0, 2.0)


def test_slope_is_what_each_stream_adds() -> None:
    assert slope({1: 100.0, 4: 900.0, 16: 250.0}) == 10.0
    with pytest.raises(ValueError, match="at least two numbers of streams, got 1"):
        slope({1: 100.0})


# --- clips and cameras ---


def test_every_stream_has_its_own_clip_as_long_as_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "SIZE_WH", (96, 64))
    footage = [write_clip(tmp_path / "one.mp4", 8)]
    made = fleet_files.write_clips(footage, tmp_path, [1, 4], 24, loop_frames=8)
    assert [clips.count_frames(clip) for clip in made] == [24, 8, 8, 8]
    assert len({clip.read_bytes() for clip in made}) == 4


def test_cameras_send_freeze_break_off_and_come_back(tmp_path: Path) -> None:
    footage = write_clip(tmp_path / "film.mp4", 20, codec_options={"bf": "0", "g": "10"})
    with Cameras(footage, 2) as cameras:
        first, second = cameras.urls
        with open_source(first, options=SourceOptions(overflow_policy=OverflowPolicy.BLOCK)) as source:
            assert [frame.index for frame in islice(source, 3)] == [0, 1, 2]
            assert cameras.sent()[0] >= 3
        port = int(second.rpartition(":")[2].partition("/")[0])
        assert answers(port)
        cameras.freeze(1)
        assert not answers(port, 0.3)
        cameras.thaw(1)
        assert answers(port)
        cameras.kill(1)
        assert not answers(port)
        cameras.start(1)
        wait_for(lambda: answers(port))


# --- what is printed ---


def test_files_report_holds_the_most_streams_against_the_best_and_the_bound() -> None:
    def rounds(fps: float, peak_mb: float) -> list[FilesRound]:
        return [FilesRound(100, fps + change, 2.0, 1.0, int(peak_mb * 1e6), 0.25) for change in (-1.0, 0.0, 2.0)]

    costs = dict.fromkeys(("decode", "detect"), 0.0025 * fleet_files.available_cores())
    text = fleet_files.report(Files({1: rounds(100.0, 200.0), 16: rounds(90.0, 500.0)}, {1: 2, 16: 4}, [costs]))
    (row,) = (line for line in text.splitlines() if line.startswith("| 16"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["16", "4", "90.0", "89.0 - 92.0", "0.90", "0.45", "50.0", "10.0", "0.25", "500"]
    assert "16 streams / the best: 0.90, wanted 0.95: missed" in text
    assert "from 1 to 16: 20.0 MB, wanted under 40 MB: reached" in text


@pytest.mark.parametrize(
    ("lost", "behind", "p95_ms", "verdicts"),
    [
        (0, 2, 21.0, ("lost: 0, wanted 0: reached", "+5.0%, wanted at most +10%: reached")),
        (3, 4, 24.0, ("lost: 5, wanted 0: missed", "+20.0%, wanted at most +10%: missed")),
    ],
)
def test_faults_report_counts_frames_that_never_came(
    lost: int, behind: int, p95_ms: float, verdicts: tuple[str, str]
) -> None:
    health, faults = Stretch(50, 5.0, 0, 10.0, 20.0, 30.0), Stretch(50, 5.0, lost, 10.0, p95_ms, 30.0)
    phases, sick = [("health", health), ("faults", faults)], [Sick("frozen", health, faults, 1)]
    found = Faults(13, phases, health, faults, faults, behind, 0, sick)
    text = report_faults(found, Timing(1.0, 10.0, 5.0, 1))
    assert all(verdict in text for verdict in verdicts)
    assert "(phases of health differ by 0.0%)" in text
