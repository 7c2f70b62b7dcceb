"""Choosing how many frames to compute together."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import pytest

from streamer.common.errors import ConfigError
from streamer.detector import open_detector
from streamer.detector.tuning import BatchSpeed, choose, tune_batch
from tests.tiny import write_tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("speeds", "wanted"),
    [
        ([BatchSpeed(1, 100, 10), BatchSpeed(2, 104, 20)], 1),  # little more at twice the latency
        ([BatchSpeed(1, 100, 10), BatchSpeed(2, 150, 14)], 2),
        ([BatchSpeed(1, 100, 10), BatchSpeed(4, 300, 13), BatchSpeed(16, 305, 39)], 4),
        ([BatchSpeed(1, 100, 10), BatchSpeed(16, 900, 41)], 1),  # too much latency
        ([BatchSpeed(1, 5, 200), BatchSpeed(4, 19, 210)], 1),  # none is quick: the least latency
    ],
)
def test_the_smallest_nearly_best_batch_is_chosen(speeds: list[BatchSpeed], wanted: int) -> None:
    assert choose(speeds).batch == wanted


def test_it_is_measured_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked: list[int] = []

    def measure(size: int) -> BatchSpeed:
        asked.append(size)
        return BatchSpeed(size, 100.0 * size - len(asked), 5.0)  # each time a little slower: the best counts

    assert tune_batch(["a"], [1, 4], measure) == 4
    assert asked == [1, 4, 1, 4, 1, 4]
    assert tune_batch(["a"], [1, 4], measure) == 4
    assert len(asked) == 6
    assert "batch size 4 (1: 99 fps, 5.0 ms; 4: 398 fps, 5.0 ms)" in caplog.messages
    assert tune_batch(["b"], [1, 4], measure) == 4
    assert len(asked) == 12
    assert tune_batch(["a"], [4], lambda size: pytest.fail("nothing to choose")) == 4


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, "{}", "[]", "[1]", '[{"batch": "many"}]', '{"batch": 1}', '[{"batch": Infinity}]'],
)
def test_damaged_speeds_are_measured_again(content: str, own_cache: Path) -> None:
    tune_batch(["a"], [1, 2], lambda size: BatchSpeed(size, 10.0 * size, 5.0))
    (path,) = (own_cache / "batch").iterdir()
    assert len(json.loads(path.read_text())) == 2
    path.write_text(content)
    assert tune_batch(["a"], [1, 2], lambda size: BatchSpeed(size, 10.0 / size, 5.0)) == 1


def test_an_unwritable_cache_is_no_error(own_cache: Path) -> None:
    own_cache.write_text("a file in the folder's place")
    assert tune_batch(["a"], [1, 2], lambda size: BatchSpeed(size, 10.0 * size, 5.0)) == 2


def test_unsteady_speeds_are_not_stored(own_cache: Path) -> None:
    speeds = iter([100.0, 50.0] * 20)
    assert tune_batch(["a"], [1, 2], lambda size: BatchSpeed(size, next(speeds) if size == 1 else 10.0, 5.0)) == 1
    assert not (own_cache / "batch").exists()


@pytest.mark.parametrize(("load", "is_stored"), [(1.5, False), (0.5, True)])
def test_speeds_of_a_busy_machine_are_not_stored(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, load: float, is_stored: bool
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    assert tune_batch(["a"], [1, 2], lambda size: BatchSpeed(size, 10.0 * size, 5.0)) == 2
    assert (own_cache / "batch").exists() is is_stored


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_on_a_cpu_parallel_requests_are_measured(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    monkeypatch.setattr("streamer.detector.cpu.available_cores", lambda: 2)
    steady = functools.partial(tune_batch, max_spread=float("inf"))
    monkeypatch.setattr("streamer.detector.cpu.tune_batch", steady)
    caplog.set_level(logging.INFO)
    path = write_tiny(tmp_path / "tiny.onnx")
    for _ in range(2):
        with open_detector(path, engine=engine, device="cpu", batch="auto", streams=16) as detector:
            assert detector.depth in (1, 2, 4)
            assert detector.batch == 1
    assert sum("measured the batch sizes 1, 2" in line for line in caplog.messages) == 1
    assert sum(line.startswith("batch size ") for line in caplog.messages) == 2


def test_a_given_number_is_used(tmp_path: Path, own_cache: Path) -> None:
    path = write_tiny(tmp_path / "tiny.onnx")
    with open_detector(path, device="cpu", batch=3, streams=16) as detector:
        assert detector.depth == 3
    with open_detector(path, device="cpu", batch=3, depth=2, streams=16) as detector:
        assert detector.depth == 2
    assert not (own_cache / "batch").exists()
    with pytest.raises(ConfigError, match="batch wants 1 to 256 frames, got 0"):
        open_detector(path, batch=0)
