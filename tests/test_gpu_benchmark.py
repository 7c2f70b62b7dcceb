"""The benchmark of FP16 beside INT8: its arithmetic, its starts in other processes, and one short run on fake GPUs."""

from __future__ import annotations

import itertools
import json
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import gpu, gpu_roofline, gpu_stages, gpu_start
from benchmarks.gpu_roofline import Cost, Rates, bound_of, costs_of
from benchmarks.gpu_sides import HEAD, Goal, Row
from benchmarks.gpu_stages import goal_of
from benchmarks.gpu_start import caches_in, first_detection
from streamer.common.errors import EngineError
from streamer.models.file import load_model
from streamer.models.graph.constants import Constants
from streamer.models.zoo import resolve_model
from tests.fake_cuda import FakeCuda, install, install_torch
from tests.fake_graphs import install_graphs

RATES = Rates(
    copy_bytes_s=5e10, device_bytes_s=1e12, float16_ops_s=1e14, int8_ops_s=2e14, kernel_ms=2e-3,
    overlapped_kernel_ms=1e-3,
)  # fmt: skip


# --- arithmetic ---


def _macs(name: str) -> int:
    """Counts a float file's multiplications from its shapes alone."""
    path, _ = resolve_model(name)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.value_info}
    weights = Constants(onnx.load(path))
    found = 0
    for node in graph.node:
        if node.op_type == "Conv":
            weight = weights.get(node.input[1])
            assert weight is not None
            found += weight.size * math.prod(shapes[node.output[0]][2:])
    return found


def test_costs_are_those_of_the_networks_convolutions() -> None:
    fp16, int8 = costs_of(load_model(*resolve_model("nanodet-g_416")))
    macs = _macs("nanodet-g_416_float")
    assert fp16.float16_macs == int8.int8_macs + int8.float16_macs == macs > 2e9
    assert int8.float16_macs == 0, "the packaged file quantises every layer"
    assert fp16.weight_bytes == 2 * int8.weight_bytes
    assert int8.activation_bytes < fp16.activation_bytes < 2 * int8.activation_bytes
    assert fp16.launches is None and int8.launches is not None and 30 < int8.launches < 80


@pytest.mark.parametrize(
    ("cost", "batch", "ms", "limit"),
    [
        (Cost(10**9, 0, 10**6, 10**6, 38, True), 1, 0.038, "launches"),
        (Cost(10**9, 0, 10**6, 10**6, 38, False), 1, 0.076, "launches"),
        (Cost(10**9, 0, 10**6, 10**6, None, True), 1, 0.01, "operations"),
        (Cost(0, 10**9, 10**6, 10**6, None, True), 1, 0.02, "operations"),
        (Cost(10**6, 0, 10**8, 10**7, 38, True), 2, 0.12, "bytes"),
    ],
)
def test_bound_is_the_largest_of_bytes_operations_and_launches(cost: Cost, batch: int, ms: float, limit: str) -> None:
    bound = bound_of(cost, RATES, batch)
    assert (bound.ms, bound.limit) == (pytest.approx(ms), limit)


def test_bound_counts_what_is_around_the_network() -> None:
    cost = Cost(0, 0, 0, 10**6, 10, True)
    assert bound_of(cost, RATES, 2, more_launches=3).launches_ms == pytest.approx(0.016)
    assert bound_of(cost, RATES, 2, more_bytes=10**6).bytes_ms == pytest.approx(4e-3)


@pytest.mark.parametrize(
    ("unit", "fp16", "int8", "goal", "met"),
    [
        ("ms", 0.3, 0.15, Goal(0.16, 0.53), True),
        ("ms", 0.3, 0.17, Goal(0.2, 0.53), False),
        ("ms", 0.4, 0.17, Goal(0.16, 0.53), False),
        ("/s", 100.0, 200.0, Goal(150.0, 1.9), True),
        ("/s", 100.0, 180.0, Goal(150.0, 1.9), False),
        ("s", None, 1.0, Goal(1.5, 0.5), True),
        ("MB", None, 0.0, Goal(0), True),
        ("MB", None, 4096.0, Goal(0), False),
        ("MB", 1.0, 4096.0, Goal(), None),
    ],
)
def test_goals_are_limits_and_ratios(unit: Any, fp16: float | None, int8: float, goal: Goal, met: bool | None) -> None:
    assert Row("x", unit, (fp16, int8), goal).is_met is met


def test_row_says_what_is_wanted_and_whether_it_is_reached() -> None:
    row = Row("network", "ms", (0.3, 0.15), Goal(0.16, 0.53), "launches")
    assert row.cells() == (
        "network", "<= 0.160 ms, <= 0.53 x FP16: reached", "0.300 ms", "0.150 ms", "0.50", "launches",
    )  # fmt: skip
    row = Row("frames", "/s", (None, 17_000.0), Goal(18_000))
    assert row.cells() == ("frames", ">= 18000 /s: missed", "", "17000 /s", "", "")
    assert len(row.cells()) == len(HEAD)


def test_other_networks_need_not_be_slower_than_fp16() -> None:
    assert goal_of("nanodet-g_416", "latency") == Goal(0.22, 0.6)
    assert goal_of("nanodet-m_416", "latency") == Goal(None, 1.0)
    assert goal_of("nanodet-m_416", "start, warm") == Goal()


# --- processes ---


def test_caches_are_a_folders_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANODET_STREAMER_CACHE", "before")
    monkeypatch.setenv("TRITON_CACHE_DIR", "triton")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with caches_in(tmp_path / "new"):
        assert Path(os.environ["NANODET_STREAMER_CACHE"]) == tmp_path / "new"
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path / "new"
        assert "TRITON_CACHE_DIR" not in os.environ
        os.environ["TRITON_CACHE_DIR"] = "PyTorch sets it"
    assert os.environ["NANODET_STREAMER_CACHE"] == "before"
    assert os.environ["TRITON_CACHE_DIR"] == "triton"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_start_is_timed_in_a_process_of_its_own() -> None:
    pytest.importorskip("onnxruntime")
    path, _ = resolve_model("nanodet-g_416")
    found = first_detection(path, "onnxruntime", "cpu")
    assert found["start_s"] > found["open_s"] + found["first_s"] > 0


def test_a_start_that_fails_gives_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"onnxruntime with none\.onnx .* status 2: error: .*none\.onnx"):
        first_detection(tmp_path / "none.onnx", "onnxruntime", "cpu")


# --- a whole run ---


class _NoKernels:
    """Compiled kernels that do nothing."""

    def __init__(self, *_: Any) -> None:
        self.launched = 0

    def launcher(self, *_: Any) -> Callable[[], None]:
        return lambda: None

    def close(self) -> None:
        """Frees nothing."""


class _FirstTile:
    def __init__(self, *_: Any) -> None:
        """Measures nothing."""

    def tune(self, *_: Any) -> None:
        """Measures nothing."""

    def best(self, shape: Any) -> Any:
        return shape.tiles[0]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A fake GPU with what only the benchmark uses, PyTorch and the int8 engine on it; nothing is computed."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    fake = install(monkeypatch, 1)
    install_torch(monkeypatch, fake)
    install_graphs(monkeypatch, fake)
    import pycuda.driver as drv

    attributes = {"clock": 1_000_000, "units": 100}
    drv.device_attribute = types.SimpleNamespace(CLOCK_RATE="clock", MULTIPROCESSOR_COUNT="units")
    drv.Device.get_attribute = lambda self, name: attributes[name]
    clock_ms = itertools.count()
    drv.Event.time_since = lambda self, other: float(next(clock_ms))
    drv.memcpy_htod_async = lambda address, array, stream: drv.memcpy_htod(address, array)
    drv.memcpy_dtod_async = lambda target, source, nbytes, stream: None
    monkeypatch.setattr(gpu_roofline, "KernelModule", _NoKernels)
    monkeypatch.setattr("streamer.engines.int8_engine.KernelModule", _NoKernels)
    monkeypatch.setattr("streamer.engines.int8_engine.TileChoice", _FirstTile)
    monkeypatch.setattr("streamer.engines.int8_engine.cubin", lambda *_: b"")
    return fake


@pytest.mark.parametrize(("name", "engine"), [("nanodet-g_416_float", "torch"), ("nanodet-g_416", "int8")])
def test_memory_is_that_of_the_engine_without_its_input_and_output(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, engine: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 5_000_000)
    monkeypatch.setattr(gpu_start, "_torch_launches", lambda body: body() or 44)
    assert gpu_start.main(["memory", name, engine, "1,4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["launches"] == (44 if engine == "torch" else None)
    one, four = found["1"]["allocated_bytes"], found["4"]["allocated_bytes"]
    if engine == "torch":
        assert one == four == 5_000_000
    else:
        assert 3_700_000 < one < 3_700_000 + four - one < 12_000_000
    assert found["1"]["driver_bytes"] == 0, "the fake driver's account doesn't move"
    assert not cuda.blocks, "all memory is freed"


@pytest.mark.slow
def test_smoke_run_holds_both_engines_against_each_other(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def start(model: Path, engine: str) -> dict[str, float]:
        asked.append((engine, os.environ["NANODET_STREAMER_CACHE"]))
        return {"open_s": 1.0, "first_s": 1.0, "start_s": 20.0 if engine == "torch" else 1.0}

    def footprint(model: Path, engine: str, batches: tuple[int, ...]) -> dict[str, Any]:
        sizes = {"allocated_bytes": 10_000_000, "driver_bytes": 20_000_000}
        return {str(batch): sizes for batch in batches} | {"launches": 50 if engine == "torch" else None}

    monkeypatch.setattr(gpu_stages, "first_detection", start)
    monkeypatch.setattr(gpu_stages, "footprint", footprint)
    path = tmp_path / "figures.json"
    stages = ["start", "memory", "network", "latency", "throughput", "batch"]
    assert gpu.main(["--smoke", "--json", str(path), "--stages", *stages]) == 0
    assert [engine for engine, _ in asked] == ["torch", "int8"] * 2
    assert len({folder for _, folder in asked}) == 2, "each engine fills a folder of its own"
    found = json.loads(path.read_text())
    (pair,) = found["pairs"]
    assert [model["engine"] for model in found["models"]] == ["torch", "int8"]
    assert found["models"][0]["cost"]["launches"] == 50
    rows = {row["what"]: row for row in pair["rows"]}
    assert len(rows) == len(pair["rows"]) == 13
    for row in rows.values():
        assert row["fp16"] > 0 and row["int8"] > 0 and row["ratio"] > 0
    printed = capsys.readouterr().out
    assert "nanodet-g_416_float (FP16) and nanodet-g_416 (INT8)" in printed
    assert printed.count("\n|") == 2 + len(rows)
    assert cuda.primary == [0] or cuda.primary == [1], "PyTorch keeps its own"
    assert not cuda.blocks, "all memory is freed"
