"""The benchmark of many streams on several GPUs: how it divides and adds up, and a short run on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_fleet import Held, Part, main, parts_of, table, together
from streamer.common.errors import ConfigError
from tests.media import write_clip

HELD = Held(60, 4, 30.0, 1800.0, 1, 2, 5.0, 10.0, 20.0, 40.0, 12.0, {"write": 1.0, "inference": 3.0}, 0.6)


def test_one_process_has_all_gpus_and_streams() -> None:
    assert parts_of("cuda:0,cuda:1", (0, 1), (120, 240), 1) == [Part("cuda:0,cuda:1", (0, 1), (120, 240), (0, 0))]


def test_several_processes_divide_gpus_and_streams() -> None:
    assert parts_of("cuda:*", (0, 1), (120, 241), 2) == [
        Part("cuda:0", (0,), (60, 120), (0, 0)),
        Part("cuda:1", (1,), (60, 121), (60, 120)),
    ]


def test_a_process_without_streams_is_refused() -> None:
    with pytest.raises(ConfigError, match="--streams wants at least one for each of 2 processes, got 1"):
        parts_of("cuda:*", (0, 1), (1, 240), 2)


def test_figures_of_several_processes_are_added_and_times_are_the_worst() -> None:
    other = replace(HELD, dropped=3, p95_ms=30.0, p50_ms=4.0, stages_p99_ms={"write": 2.0}, cores=0.5)
    both = together([HELD, other])
    assert (both.streams, both.processes, both.delivered_fps, both.dropped) == (120, 8, 3600.0, 4)
    assert (both.p50_ms, both.p95_ms, both.cores, both.fps) == (5.0, 30.0, 1.1, 30.0)
    assert both.stages_p99_ms == {"write": 2.0, "inference": 3.0}


@pytest.mark.parametrize(("gpus", "wanted"), [(1, "wanted 140,"), (2, "wanted 240,")])
def test_the_table_says_what_was_held_and_wanted(gpus: int, wanted: str) -> None:
    said = table([replace(HELD, dropped=0), replace(HELD, streams=90)], 4500.0, gpus)
    assert "Held with no drops and p95 under 50 ms: 60 streams" in said
    assert wanted in said
    assert f"4500 frames a second with {8 * gpus} decoders" in said


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["1", "2"])
def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 60)
    status = main(
        [str(clip), "--decode", "cpu", "--device", "cpu", "--streams", "2", "4", "--seconds", "6", "--warm-up", "1",
         "--batch", "2", "--runs", runs, "--json", str(tmp_path / "held.json")]
    )  # fmt: skip
    captured = capsys.readouterr()
    assert status == 0, captured.err
    found = json.loads((tmp_path / "held.json").read_text())
    assert [held["streams"] for held in found["held"]] == [2, 4]
    assert all(held["delivered_fps"] > 0 for held in found["held"])
    assert found["runs"] == int(runs)
    assert f"{runs} detecting process" in captured.out
    assert "| 4 " in captured.out


def test_a_wrong_device_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 3)
    assert main([str(clip), "--device", "cuda:0,cuda:0"]) == 2
    assert capsys.readouterr().err == "error: device 'cuda:0,cuda:0' names GPU 0 twice\n"
