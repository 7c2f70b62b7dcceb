"""Real builds with TensorRT-RTX, which needs no GPU; for TensorRT its module under another name."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from streamer.common.errors import ConfigError, EngineError, ModelError
from streamer.engines.tensorrt.builder import BuiltEngine, build_engine, plan_build
from streamer.engines.tensorrt.log import shared_logger
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage
from streamer.models.file import ModelFile
from tests.tensorrt_models import float_model, quantized_graph, save
from tests.tensorrt_names import PACKAGE, builder_names
from tests.tiny import tiny_spec

trt = pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")

RTX = TensorRTPackage.TENSORRT_RTX
ROOT = Path(__file__).resolve().parent.parent

INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from streamer.models.file import load_model
from streamer.engines.tensorrt.builder import build_engine, plan_build
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage

plan = plan_build(load_model(Path(sys.argv[1])), TensorRTPackage.TENSORRT_RTX, BuildOptions(targets=("sm89",)))
before, phases = signal.getsignal(signal.SIGINT), []

def interrupt(phase, done, total):
    phases.append(phase)
    if len(phases) == 1:
        os.kill(os.getpid(), signal.SIGINT)

try:
    build_engine(plan, on_progress=interrupt)
except KeyboardInterrupt:
    print("interrupted")
print(len(phases))
print(signal.getsignal(signal.SIGINT) is before)
print(len(build_engine(plan).data) > 10_000)
"""


def build(model: ModelFile, **options: Any) -> BuiltEngine:
    options.setdefault("targets", ("sm89",))
    return build_engine(plan_build(model, RTX, BuildOptions(**options)))


def stand_in(model: ModelFile) -> ModelFile:
    """The same model with an operator that no parser knows, past the checks of `load_model`."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.opset_import.append(helper.make_opsetid("org.example", 1))
    proto.graph.node[-1].output[0] = "almost"
    odd = helper.make_node("Frobnicate", ["almost"], ["output"], name="the_odd_one", domain="org.example")
    proto.graph.node.append(odd)
    return dataclasses.replace(model, proto=proto)


class TestBuild:
    @pytest.mark.parametrize("targets", [("sm89",), ("sm120",), ("sm89", "sm120")])
    def test_a_float_engine(self, targets: tuple[str, ...], tmp_path: Path) -> None:
        built = build(float_model(tmp_path / "a.onnx"), targets=targets, max_batch=4)
        assert len(built.data) > 10_000
        assert built.report.fingerprint["targets"] == list(targets)
        spec = tiny_spec()
        (images,), (output,) = built.report.inputs, built.report.outputs
        assert (images.name, images.precision, images.shape) == ("images", "FP32", (-1, 3, 64, 64))
        assert (output.name, output.precision) == ("output", "FP32")
        assert output.shape == (-1, spec.num_points, spec.output_channels)
        assert {layer.precision for layer in built.report.layers} == {"FP32"}
        convolutions = {name for layer in built.report.layers for name in layer.onnx if name.startswith("node_of_conv")}
        assert convolutions == {"node_of_conv8", "node_of_conv16", "node_of_conv32"}

    def test_an_int8_engine_computes_its_convolutions_in_int8(self, tmp_path: Path) -> None:
        built = build(save(tmp_path / "a.onnx", quantized_graph()))
        reads = {layer.onnx[0]: layer.inputs for layer in built.report.layers if layer.kind == "correlation"}
        assert reads == {"conv8": "INT8", "conv16": "INT8", "conv32": "INT8"}

    def test_fp16_is_a_cast_of_the_graph(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        model = float_model(tmp_path / "a.onnx")
        built = build(model, fp16=True)
        assert "FP16" in {layer.inputs for layer in built.report.layers}
        assert (built.report.inputs[0].precision, built.report.outputs[0].precision) == ("FP32", "FP32")
        assert built.report.fingerprint["graph_sha256"] == build(model).report.fingerprint["graph_sha256"]

    def test_fp16_around_int8(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="casting to FP16 uses ONNX Runtime's converter")
        built = build(save(tmp_path / "a.onnx", quantized_graph()), fp16=True)
        assert {layer.inputs for layer in built.report.layers if layer.kind == "correlation"} == {"INT8"}

    def test_the_workspace_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        real = trt.IBuilderConfig.set_memory_pool_limit
        monkeypatch.setattr(
            trt.IBuilderConfig, "set_memory_pool_limit", lambda *words: (seen.append(words[1:]), real(*words))
        )
        build(float_model(tmp_path / "a.onnx"), workspace_mib=64)
        assert seen == [(trt.MemoryPoolType.WORKSPACE, 64 << 20)]

    @pytest.mark.parametrize("largest", [1, 4, 16])
    def test_the_profile_takes_every_batch_up_to_the_largest(
        self, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        real = trt.IOptimizationProfile.set_shape
        monkeypatch.setattr(
            trt.IOptimizationProfile, "set_shape", lambda *words: (seen.append(words[1:]), real(*words))
        )
        build(float_model(tmp_path / "a.onnx"), max_batch=largest)
        least, best, most = ((batch, 3, 64, 64) for batch in (1, largest, largest))
        assert seen == [("images", least, best, most)]

    def test_progress_is_reported(self, tmp_path: Path) -> None:
        told: list[tuple[str, int, int]] = []
        plan = plan_build(float_model(tmp_path / "a.onnx"), RTX, BuildOptions(targets=("sm89",)))
        build_engine(plan, on_progress=lambda *words: told.append(words))
        assert "Building engine" in {phase for phase, _, _ in told}
        assert all(1 <= done <= total for _, done, total in told)


class TestRefusals:
    @pytest.mark.parametrize(
        ("graph", "says"),
        [
            ({"bias": np.int32}, "'dqb8' dequantises 'b8' from int32"),
            ({"zero_point": 1}, "'q8' .* has zero point 1"),
            ({"activation": np.uint8}, "'q8' .* is uint8"),
        ],
    )
    def test_a_quantised_graph_it_cannot_take(self, graph: dict[str, Any], says: str, tmp_path: Path) -> None:
        model = save(tmp_path / "a.onnx", quantized_graph(**graph))
        with pytest.raises(ModelError, match=says):
            build(model)

    @pytest.mark.parametrize(
        ("graph", "says"),
        [
            ({"bias": np.int32}, r"node 'dqb8' \(DequantizeLinear\): .*has type Int32"),
            ({"zero_point": 1}, r"node 'q8' \(QuantizeLinear\): .*Non-zero zero point"),
        ],
    )
    def test_the_parser_would_refuse_it_too(
        self, graph: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("streamer.engines.tensorrt.builder.check_quantization", lambda proto, name: None)
        with pytest.raises(EngineError, match=says) as error:
            build(save(tmp_path / "a.onnx", quantized_graph(**graph)))
        assert "\n" not in str(error.value)
        assert "cudaError" not in str(error.value)

    def test_an_unknown_operator_is_named_with_its_node(self, tmp_path: Path) -> None:
        model = stand_in(float_model(tmp_path / "a.onnx"))
        with pytest.raises(EngineError, match=r"refuses a\.onnx: node 'the_odd_one' \(Frobnicate\): ") as error:
            build(model)
        assert "\n" not in str(error.value)

    def test_a_batch_the_graph_does_not_have(self, tmp_path: Path) -> None:
        model = float_model(tmp_path / "a.onnx")
        model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        with pytest.raises(ConfigError, match=r"a\.onnx has a fixed batch of 2: max_batch 4 doesn't fit it"):
            build(model, max_batch=4)
        assert build(model, max_batch=2).report.inputs[0].shape == (2, 3, 64, 64)

    @pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible"])
    def test_an_option_this_package_lacks(self, option: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"tensorrt-rtx .* has no {option.replace('_', '-')} engines"):
            build(float_model(tmp_path / "a.onnx"), **{option: True})

    def test_an_architecture_it_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"can't build for sm90: it knows sm75, sm80, sm86, sm89, sm120"):
            plan_build(float_model(tmp_path / "a.onnx"), RTX, BuildOptions(targets=("sm90",)))

    def test_a_failed_build_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trt.IOptimizationProfile, "set_shape", lambda *_: None)
        with pytest.raises(EngineError, match=r"tensorrt-rtx .* can't build a\.onnx: .*images") as error:
            build(float_model(tmp_path / "a.onnx"))
        assert "\n" not in str(error.value)


class TestInterruption:
    def test_ctrl_c_ends_only_the_build(self, tmp_path: Path) -> None:
        """In its own process: after other computing (with AMX) in the same one, the signal was fatal."""
        float_model(tmp_path / "a.onnx")
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.onnx")],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.splitlines() == ["interrupted", "1", "True", "True"], done.stderr

    def test_an_error_in_the_callback_reaches_the_caller(self, tmp_path: Path) -> None:
        plan = plan_build(float_model(tmp_path / "a.onnx"), RTX, BuildOptions(targets=("sm89",)))

        def fail(phase: str, done: int, total: int) -> None:
            raise RuntimeError("the terminal is gone")

        with pytest.raises(RuntimeError, match="the terminal is gone"):
            build_engine(plan, on_progress=fail)


class TestLogger:
    def test_there_is_one(self) -> None:
        assert shared_logger(trt) is shared_logger(trt)

    def test_it_forwards_errors_and_warnings(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = shared_logger(trt)
        with caplog.at_level(logging.DEBUG, logger="streamer.engines.tensorrt.log"):
            logger.log(trt.ILogger.ERROR, "out of memory")
            logger.log(trt.ILogger.WARNING, "slow")
            logger.log(trt.ILogger.VERBOSE, "chatter")
        assert [(r.levelname, r.message) for r in caplog.records] == [("ERROR", "out of memory"), ("WARNING", "slow")]

    def test_a_capture_ends_with_its_block(self) -> None:
        logger = shared_logger(trt)
        with logger.capture() as said:
            logger.log(trt.ILogger.ERROR, "in [a] cudaError 35: no driver")
            logger.log(trt.ILogger.INTERNAL_ERROR, "the\nreal  one")
        logger.log(trt.ILogger.ERROR, "later")
        assert said.first_error() == "the real one"
        assert len(said.errors) == 2


class TestTensorRT:
    """The code path of the package `tensorrt`: a module without architectures, on a machine with a GPU."""

    @pytest.fixture(autouse=True)
    def module(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        module = types.ModuleType("tensorrt")
        module.__dict__.update({name: value for name, value in vars(trt).items() if name != "ComputeCapability"})
        module.__version__ = "10.13.0"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(
            "streamer.engines.tensorrt.builder.present_gpu", lambda device: GpuModel("NVIDIA L4", "sm89")
        )
        return module

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_it_builds_for_the_present_gpu_with_a_timing_cache(self, tmp_path: Path) -> None:
        plan = plan_build(float_model(tmp_path / "a.onnx"), TensorRTPackage.TENSORRT, BuildOptions())
        assert plan.targets == ("sm89",)
        timings = tmp_path / "timings.cache"
        assert build_engine(plan, timing_cache=timings).data
        assert timings.stat().st_size > 0
        assert build_engine(plan, timing_cache=timings).data
        timings.write_bytes(b"damaged")
        assert build_engine(plan, timing_cache=timings).data
        assert timings.read_bytes() != b"damaged"

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_timings_that_cannot_be_stored_do_not_fail_the_build(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        plan = plan_build(float_model(tmp_path / "a.onnx"), TensorRTPackage.TENSORRT, BuildOptions())
        assert build_engine(plan, timing_cache=tmp_path / "none" / "timings.cache").data
        assert "can't store kernel timings" in caplog.text

    def test_it_builds_for_no_other_gpu(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="builds only for the present GPU, sm89"):
            plan_build(float_model(tmp_path / "a.onnx"), TensorRTPackage.TENSORRT, BuildOptions(targets=("sm120",)))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_version_compatible_is_a_flag(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        flags = []
        monkeypatch.setattr(trt.IBuilderConfig, "set_flag", lambda config, flag: flags.append(flag))
        plan = plan_build(
            float_model(tmp_path / "a.onnx"), TensorRTPackage.TENSORRT, BuildOptions(version_compatible=True)
        )
        build_engine(plan)
        assert trt.BuilderFlag.VERSION_COMPATIBLE in flags
        assert trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME not in flags
        alone = BuildOptions(version_compatible=True, exclude_lean_runtime=True)
        build_engine(plan_build(float_model(tmp_path / "a.onnx"), TensorRTPackage.TENSORRT, alone))
        assert trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME in flags


def test_every_name_used_exists_in_the_real_module() -> None:
    used = builder_names()
    assert {"Builder", "OnnxParser.parse", "IBuilderConfig.set_flag", "MemoryPoolType.WORKSPACE"} <= used
    missing = []
    for name in sorted(used):
        target: Any = trt
        for word in name.split("."):
            if not hasattr(target, word):
                missing.append(name)
                break
            target = getattr(target, word)
    assert missing == []


def test_nothing_imports_tensorrt_by_itself() -> None:
    for path in PACKAGE.glob("*.py"):
        assert not re.search(r"^\s*(import|from) (tensorrt|tensorrt_rtx)\b", path.read_text(encoding="utf-8"), re.M)
