"""What the program makes of its options before it runs: the detector that it asks for, and how long a batch waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.app.cli import main
from streamer.common.errors import EngineError
from streamer.common.queues import OverflowPolicy
from streamer.detector import cpu, open_detector
from streamer.runtime import pipeline as pipelines
from streamer.runtime.pipeline import DEFAULT_BATCH_TIMEOUT_S, Pipeline, StreamSpec
from streamer.sources import SourceOptions
from streamer.sources.base import Pace
from tests.fakes import CountingSource, MemorySink, SlowDetector
from tests.media import write_clip


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", frames=3)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize(
    ("sources", "options", "asked"),
    [
        (1, [], {"depth": None, "batch": None, "streams": 1, "live": False}),
        (1, ["--pace", "source"], {"depth": 1, "batch": None, "streams": 1, "live": True}),
        (1, ["--pace", "source", "--depth", "3"], {"depth": 3, "streams": 1}),
        (3, [], {"depth": None, "batch": "auto", "streams": 3, "live": False}),
        (3, ["--pace", "source"], {"depth": None, "batch": "auto", "streams": 3, "live": True}),
        (3, ["--batch", "4"], {"batch": 4, "streams": 3}),
    ],
)
def test_what_is_asked_of_the_detector(
    sources: int, options: list[str], asked: dict[str, Any], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}

    def refuse(model: str, **wanted: Any) -> None:
        got.update(wanted)
        raise EngineError("asked")

    monkeypatch.setattr("streamer.detector.open_detector", refuse)
    named = [f"--source=s{number}={clip}" for number in range(sources)]
    assert main([*named, "--output", "null", *options]) == 1
    assert {key: got[key] for key in asked} == asked


@pytest.mark.parametrize(("options", "timeout_s"), [([], 0.005), (["--batch-timeout", "20"], 0.02)])
def test_how_long_a_batch_waits(
    options: list[str], timeout_s: float, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Noting(Pipeline):
        def run(self, duration_s: float | None = None) -> Any:
            waits.append(self.status().batch_timeout_s)
            return super().run(duration_s)

    monkeypatch.setattr("streamer.detector.open_detector", lambda model, **wanted: SlowDetector())
    monkeypatch.setattr(pipelines, "Pipeline", Noting)
    assert main(["--source", str(clip), "--output", "null", *options]) == 0
    assert waits == [pytest.approx(timeout_s)]


@pytest.mark.parametrize(
    ("live", "paced", "pace", "policy"),
    [
        (True, False, Pace.LIVE, OverflowPolicy.DROP_OLDEST),
        (True, True, Pace.LIVE, OverflowPolicy.DROP_OLDEST),
        (False, True, Pace.SOURCE, OverflowPolicy.DROP_OLDEST),
        (False, False, Pace.MAX, OverflowPolicy.BLOCK),
    ],
)
def test_the_pace_decides_what_is_dropped(live: bool, paced: bool, pace: Pace, policy: OverflowPolicy) -> None:
    spec = StreamSpec(CountingSource(1, live=live), [("m", MemorySink())], paced=paced)
    assert (spec.pace, spec.overflow_policy) == (pace, policy)
    assert pace.is_realtime == (live or paced)
    for wanted in OverflowPolicy:
        assert pace.overflow_policy(wanted) is wanted
    drops = SourceOptions(overflow_policy=OverflowPolicy.DROP_OLDEST)
    assert drops.drops_stale(live=live) == live
    assert not SourceOptions(overflow_policy=OverflowPolicy.BLOCK).drops_stale(live=live)


def test_the_batch_timeout_is_the_batchers() -> None:
    assert DEFAULT_BATCH_TIMEOUT_S == 0.005
    plan = StreamSpec(CountingSource(1), [("m", MemorySink())])
    assert Pipeline([plan], SlowDetector()).status().batch_timeout_s == DEFAULT_BATCH_TIMEOUT_S
    assert Pipeline([plan], SlowDetector(), batch_timeout_s=0.25).status().batch_timeout_s == 0.25


@pytest.mark.parametrize("streams", [1, 2, 16])
def test_requests_are_measured_for_the_streams_there_are(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[int]] = []

    class Chosen(Exception):
        pass

    def choose(key: object, sizes: list[int], measure: object) -> int:
        measured.append(sizes)
        raise Chosen

    monkeypatch.setattr(cpu, "tune_batch", choose)
    monkeypatch.setattr(cpu, "available_cores", lambda: 8)
    with pytest.raises(Chosen):
        open_detector(device="cpu", batch="auto", streams=streams, self_check=False)
    assert measured == [[1] if streams == 1 else [1, 8, cpu.REQUESTS_PER_STREAM * 8]]
