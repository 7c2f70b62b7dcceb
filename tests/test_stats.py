from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.common.errors import SinkError
from streamer.common.stats import Rate, StageTimes, Window
from streamer.detector.base import EngineInfo
from streamer.runtime.report import RunError, RunReport, SourceReport

REPORT = RunReport(
    engine=EngineInfo("openvino", "bf16", "a cpu", "nanodet-g_416", "ab"),
    sources=(SourceReport("a", "a.mp4", 10, 9, 1, 0, 30.0, 27.0),),
    fps=4.5,
    wall_s=2.0,
    stages_ms={"inference": {"mean": 5.0, "p50": 5.0, "p95": 6.0, "p99": 7.0}},
    latency_ms={"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0},
    files=(Path("out.mp4"),),
)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 60))
def test_window_is_bounded_and_right(values: list[float], size: int) -> None:
    window = Window(size)
    for value in values:
        window.add(value)
    kept = values[-size:]
    summary = window.summary()
    assert summary is not None
    assert summary["mean"] == pytest.approx(np.mean(kept))
    assert summary["p95"] == pytest.approx(np.percentile(kept, 95))
    assert summary["max"] == max(values)
    assert window.percentiles(50) == (pytest.approx(np.percentile(kept, 50)),)


def test_nothing_measured() -> None:
    assert Window().summary() is None
    assert Window().percentiles(50) is None
    assert StageTimes().summary() == {}
    assert Rate().per_second() == 0.0
    assert Window.summary_of([]) is None
    assert Window.summary_of([Window()]) is None


def test_summary_of_several_windows() -> None:
    one, two = Window(2), Window(2)
    for value in (9.0, 1.0, 2.0):
        one.add(value)
    two.add(5.0)
    summary = Window.summary_of([one, two])
    assert summary is not None
    assert summary["mean"] == pytest.approx(8 / 3)
    assert summary["max"] == 9.0


def test_rate_counts_events(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("streamer.common.stats.time.perf_counter", lambda: now)
    rate = Rate()
    for _ in range(21):
        rate.tick()
        now += 0.05
    assert rate.per_second() == pytest.approx(20 / 1.05)
    now += 10
    assert rate.per_second() == 0.0


def test_report_has_the_contracts_fields(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert set(content) == {"version", "engine", "sources", "fps", "wall_s", "stages_ms", "latency_ms"}
    assert set(content["engine"]) == {"name", "precision", "device", "model", "model_sha256"}
    assert set(content["sources"][0]) == {
        "name", "uri", "frames_captured", "frames_processed", "frames_dropped", "reconnects", "fps_captured",
        "fps_processed",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_report_names_what_failed() -> None:
    failed = replace(REPORT, errors=(RunError("out.mp4", "disk full"),))
    assert list(failed.to_json()["errors"]) == [{"where": "out.mp4", "what": "disk full"}]


def test_report_names_why_a_preferred_engine_is_not_used() -> None:
    engine = replace(REPORT.engine, fallbacks=("GPU: out of memory",))
    assert json.loads(json.dumps(replace(REPORT, engine=engine).to_json()))["engine"]["fallbacks"] == [
        "GPU: out of memory"
    ]


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="can't write the report"):
        REPORT.write(tmp_path / "none" / "r.json")


def test_summary_is_one_line() -> None:
    line = REPORT.summary()
    for part in ("9 frames", "4.5 FPS", "5.0 ms mean", "6.0 ms p95", "1 dropped", "out.mp4", "openvino bf16"):
        assert part in line
    assert "\n" not in line
