"""The benchmark of damaged inputs: the damage, the verdicts, and a worker that survives what it is there to survive."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import corrupt
from benchmarks.corrupt_cases import Kind, case_of, cases_a_round, kinds
from benchmarks.corrupt_worker import PEAK_BYTES, Result, Worker, judge
from benchmarks.damage import HOWS, damage, damage_graph, damage_values
from streamer.runtime.threads import STUCK
from tests.tiny import tiny_model, tiny_spec

END = "4 frames in 0.1 s, 40.0 FPS, 0 dropped\n"
ERROR = "error: source 'x' is empty (0 bytes); copy or record it again\n"


# --- damage ---


@given(st.binary(min_size=2, max_size=20_000), st.integers(0, 10**6))
def test_a_seed_decides_the_damage(content: bytes, seed: int) -> None:
    changed, how = damage(content, Random(seed))
    assert damage(content, Random(seed)) == (changed, how)
    kind = how.partition(":")[0].partition(" at ")[0]
    sizes = {"bits flipped": 0, "bytes overwritten": 0, "cut off": -1, "block twice": 1, "block removed": -1}
    assert np.sign(len(changed) - len(content)) in (0, sizes[kind])


def test_all_ways_occur_and_reach_all_parts_of_a_file() -> None:
    content = bytes(100_000)
    results = [damage(content, Random(seed)) for seed in range(300)]
    assert {next(way for way in HOWS if how.startswith(way)) for _, how in results} == set(HOWS)
    places = [changed.index(bytes([max(changed)])) for changed, _ in results if any(changed)]
    thirds = np.histogram(places, [0, 4096, 95_904, 100_000])[0]
    assert thirds.min() > 0.1 * thirds.sum()


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_a_damaged_graph_can_still_be_parsed(seed: int) -> None:
    content = tiny_model(tiny_spec()).SerializeToString()
    changed, how = damage_graph(content, Random(seed))
    assert (changed, how) == damage_graph(content, Random(seed))
    assert changed != content
    onnx.load_model_from_string(changed)


def test_damaged_values_change_one_line() -> None:
    text = "source: clip.mp4\nconf: 0.4\noutput: x\n"
    seen = set()
    for seed in range(200):
        changed, _ = damage_values(text.encode(), Random(seed))
        lines = zip(text.splitlines(), changed.decode().splitlines(), strict=True)
        (new,) = (after for before, after in lines if before != after)
        assert new.partition(":")[0] in yaml.safe_load(text)
        seen.add(new)
    assert len(seen) > 50


# --- cases ---


def test_cases_go_round_the_kinds() -> None:
    first = [case_of(number)[0] for number in range(cases_a_round())]
    assert [case_of(number)[0] for number in range(cases_a_round(), 2 * cases_a_round())] == first
    assert set(first) == set(kinds())
    assert [case_of(number)[0] for number in range(-len(kinds()), 0)] == list(reversed(kinds()))
    assert case_of(-1)[1] is None and case_of(7)[1] == 7


# --- verdicts ---

PICTURES = next(kind for kind in kinds() if kind.pictures == 4)
VIDEO = next(kind for kind in kinds() if kind.group == "video")


@pytest.mark.parametrize(
    ("kind", "status", "text", "outcome"),
    [
        (VIDEO, 0, END, "normal run"),
        (VIDEO, 0, f"INFO: replacing out.mp4\n{END}", "normal run"),
        (VIDEO, 0, f"{END}WARNING: skipped 3 damaged packets\n", "counted skip"),
        (VIDEO, 1, ERROR, "clear error"),
        (VIDEO, 2, ERROR, "clear error"),
        (VIDEO, 1, f"{END}{ERROR}", "clear error"),
        (VIDEO, 1, "error: KeyError: 'x' (--log-level debug shows where)\n", "traceback"),
        (VIDEO, 0, f"{END}Traceback (most recent call last):\n  File x\nKeyError: 'x'\n", "traceback"),
        (VIDEO, 1, f"WARNING: {STUCK} 1.5 s: detect\n{ERROR}", "hang"),
        (VIDEO, 0, "", "unclear"),
        (VIDEO, 0, f"{END}{ERROR}", "unclear"),
        (VIDEO, 1, END, "unclear"),
        (VIDEO, 1, f"{ERROR}{ERROR}", "unclear"),
        (VIDEO, 1, f"{ERROR}second line of it\n", "unclear"),
        (VIDEO, 3, ERROR, "unclear"),
        (VIDEO, 0, f"[h264 @ 0x1] no frame!\n{END}", "unclear"),
        (PICTURES, 0, END, "normal run"),
        (PICTURES, 0, f"Corrupt JPEG data: 2 extraneous bytes before marker 0xd9\n{END}", "normal run"),
        (PICTURES, 0, f"{END.replace('4', '3', 1)}WARNING: skipped 2.jpg (0 bytes)\n", "counted skip"),
        (PICTURES, 0, END.replace("4", "3", 1), "lost picture"),
    ],
)
def test_verdict(kind: Kind, status: int, text: str, outcome: str) -> None:
    assert judge(kind, status, text, 0) == outcome


def test_too_much_memory_is_a_verdict() -> None:
    assert judge(VIDEO, 0, END, PEAK_BYTES + 1) == "memory"


def result(case: int, outcome: str) -> Result:
    kind = case_of(case)[0]
    return Result(case, kind.group, kind.name, "cut off at 3", ["--source", "x"], outcome, 0, 0.1, 1 << 20, "printed")


def test_report_counts_by_kind_and_outcome() -> None:
    text = corrupt.report([result(0, "normal run"), result(1, "clear error"), result(cases_a_round(), "hang")], 3.0)
    (row,) = (line for line in text.splitlines() if line.startswith(f"| video: {VIDEO.name} "))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["3", "1", "0", "1", *"000010"]
    assert "2 of 3 fine, in 3 s." in text


# --- the worker: what it runs here stands in for the program ---


def die_or_hang_or_end(arguments: list[str]) -> int:
    """Does what the damaged file's first byte says."""
    first = Path(arguments[1]).read_bytes()[:1]
    if first == b"k":
        os.kill(os.getpid(), signal.SIGSEGV)
    if first == b"h":
        threading.Event().wait()
    if first == b"m":
        np.ones(PEAK_BYTES + (1 << 26), np.uint8)
    print(END, end="")
    return 0


@pytest.mark.parametrize(
    ("first", "outcome", "status"),
    [(b"k", "crash", -signal.SIGSEGV), (b"h", "hang", None), (b"m", "memory", 0), (b"x", "normal run", 0)],
)
def test_a_worker_outlives_its_program(tmp_path: Path, first: bytes, outcome: str, status: int | None) -> None:
    originals = tmp_path / "originals"
    originals.mkdir()
    whole = next(number for number in range(-len(kinds()), 0) if case_of(number)[0] is VIDEO)
    limit_s = 5 if first == b"h" else 60  # which the case after it must keep as well
    with Worker(originals, tmp_path / "work", die_or_hang_or_end, limit_s) as worker:
        for content, wanted in ((first, (outcome, status)), (b"x", ("normal run", 0))):
            (originals / "h264.mp4").write_bytes(content)
            found = worker.run(whole)
            assert (found.outcome, found.status) == wanted
            assert found.case == whole and found.how == "h264.mp4: whole"


@pytest.mark.slow
def test_a_round_of_whole_and_damaged_inputs_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert corrupt.main(["--case", "20", "--case", "0", "--keep", str(tmp_path / "kept")]) == 0
    told = capsys.readouterr().out
    assert "case 0: video, H.264 mp4" in told and "nanodet-stream --source h264.mp4 --output null" in told
    assert (tmp_path / "kept" / "case0" / "h264.mp4").is_file()
    assert corrupt.main(["--cases", "1", "--markdown", str(page)]) == 0
    assert "1 of 1 fine" in page.read_text()
