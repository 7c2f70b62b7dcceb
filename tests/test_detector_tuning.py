"""Choosing how many frames to compute together."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from streamer.common.errors import ConfigError
from streamer.detector import open_detector, tuning
from streamer.detector.tuning import Speed, choose, tuned
from tests.tiny import write_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("streamer.detector.tuning._is_busy", lambda: False)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("speeds", "wanted"),
    [
        ([Speed(1, 100, 10), Speed(2, 104, 20)], 1),  # hardly more for twice the wait
        ([Speed(1, 100, 10), Speed(2, 150, 14)], 2),
        ([Speed(1, 100, 10), Speed(4, 300, 13), Speed(16, 305, 39)], 4),
        ([Speed(1, 100, 10), Speed(16, 900, 41)], 1),  # too long a wait
        ([Speed(1, 5, 200), Speed(4, 19, 210)], 1),  # nothing is quick: the least wait
    ],
)
def test_the_smallest_that_is_nearly_best(speeds: list[Speed], wanted: int) -> None:
    assert choose(speeds).batch == wanted


def test_it_is_measured_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked: list[int] = []

    def measure(size: int) -> Speed:
        asked.append(size)
        return Speed(size, 100.0 * size - len(asked), 5.0)  # each time a little slower: the best counts

    assert tuned(["a"], [1, 4], measure) == 4
    assert asked == [1, 4, 1, 4, 1, 4]
    assert tuned(["a"], [1, 4], measure) == 4
    assert len(asked) == 6
    assert "batch size 4 (1: 99 fps, 5.0 ms; 4: 398 fps, 5.0 ms)" in caplog.messages
    assert tuned(["b"], [1, 4], measure) == 4
    assert len(asked) == 12
    assert tuned(["a"], [4], lambda size: pytest.fail("nothing to choose")) == 4


@pytest.mark.parametrize("content", ["", "[" * 100_000, "{}", "[]", "[1]", '[{"batch": "many"}]', '{"batch": 1}'])
def test_a_damaged_memory_is_measured_again(content: str, own_cache: Path) -> None:
    tuned(["a"], [1, 2], lambda size: Speed(size, 10.0 * size, 5.0))
    (path,) = (own_cache / "batch").iterdir()
    assert len(json.loads(path.read_text())) == 2
    path.write_text(content)
    assert tuned(["a"], [1, 2], lambda size: Speed(size, 10.0 / size, 5.0)) == 1


def test_a_cache_that_cannot_be_written_is_no_failure(own_cache: Path) -> None:
    own_cache.write_text("a file in the folder's place")
    assert tuned(["a"], [1, 2], lambda size: Speed(size, 10.0 * size, 5.0)) == 2


def test_on_a_busy_machine_nothing_is_remembered(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([100.0, 50.0] * 20)
    assert tuned(["unsteady"], [1, 2], lambda size: Speed(size, next(speeds) if size == 1 else 10.0, 5.0)) == 1
    assert not (own_cache / "batch").exists()
    monkeypatch.setattr("streamer.detector.tuning._is_busy", lambda: True)
    assert tuned(["busy"], [1, 2], lambda size: Speed(size, 10.0 * size, 5.0)) == 2
    assert not (own_cache / "batch").exists()


def test_a_load_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0.0, 0.0))
    assert tuning._is_busy()
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 9.0, 9.0))
    assert not tuning._is_busy()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_on_a_cpu_requests_side_by_side_are_measured(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    monkeypatch.setattr("streamer.detector.cpu.available_cores", lambda: 2)
    monkeypatch.setattr("streamer.detector.tuning._STEADY", float("inf"))
    caplog.set_level(logging.INFO)
    path = write_tiny(tmp_path / "tiny.onnx")
    for _ in range(2):
        with open_detector(path, engine=engine, device="cpu", batch="auto", streams=16) as detector:
            assert detector.depth in (1, 2, 4)
            assert detector.batch == 1
    assert sum("measured the batch sizes 1, 2" in line for line in caplog.messages) == 1
    assert sum(line.startswith("batch size ") for line in caplog.messages) == 2


def test_a_number_is_taken_as_it_is(tmp_path: Path, own_cache: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    with open_detector(path, device="cpu", batch=3, streams=16) as detector:
        assert detector.depth == 3
    with open_detector(path, device="cpu", batch=3, depth=2, streams=16) as detector:
        assert detector.depth == 2
    assert not (own_cache / "batch").exists()
    with pytest.raises(ConfigError, match="batch wants 1 to 256 frames, got 0"):
        open_detector(path, batch=0)
