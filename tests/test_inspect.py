"""`inspect` and `build`: what they print, and what they refuse."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from onnx import TensorProto, helper

from calibration import build, inspect_model
from calibration.inspect_model import NodePrecision, node_precisions
from streamer.common.errors import ConfigError, EngineError, ModelError
from streamer.engines.tensorrt.builder import BuiltEngine, EngineReport, TensorInfo
from streamer.engines.tensorrt.cache import read_engine, read_report, report_path, write_engine
from streamer.engines.tensorrt.layers import Layer
from streamer.models.file import ModelFile
from tests.tensorrt_models import float_model, quantized_graph, save
from tests.tiny import tiny_model, tiny_spec
from tests.variants import Variant
from tests.variants import build as build_variant

SCALES = {"s": 0.5, "s2": 0.5, "s3": 0.25}


def run(verb: ModuleType, *words: object) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    status: int = verb.run(parser.parse_args([str(word) for word in words]))
    return status


def by_name(model: ModelFile) -> dict[str, NodePrecision]:
    return {node.name: node for node in node_precisions(model.proto)}


def engine_of(fingerprint: dict[str, Any], metadata: dict[str, str], ports: Any, layers: Any) -> BuiltEngine:
    digest = hashlib.sha256(b"engine").hexdigest()
    return BuiltEngine(b"engine", EngineReport(digest, 6, fingerprint, metadata, ports, ports, layers, ()))


class TestPrecisions:
    def test_a_float_model(self, tmp_path: Path) -> None:
        nodes = node_precisions(float_model(tmp_path / "a.onnx").proto)
        assert {node.precision for node in nodes} == {"FP32"}
        assert [node.op for node in nodes].count("Conv") == 3

    def test_a_quantised_model(self, tmp_path: Path) -> None:
        nodes = by_name(save(tmp_path / "a.onnx", quantized_graph()))
        assert {nodes[f"conv{stride}"].precision for stride in (8, 16, 32)} == {"INT8"}
        assert nodes["scores"].precision == "FP32"
        assert not {"q8", "dq8", "dqw8"} & set(nodes)

    def test_a_layer_left_in_float(self, tmp_path: Path) -> None:
        proto = quantized_graph()
        next(node for node in proto.graph.node if node.name == "conv16").input[0] = "images"
        nodes = by_name(save(tmp_path / "a.onnx", proto))
        assert (nodes["conv16"].precision, nodes["conv8"].precision) == ("FP32", "INT8")

    def test_int8_passes_through_what_only_rearranges(self, tmp_path: Path) -> None:
        proto = quantized_graph()
        conv = next(node for node in proto.graph.node if node.name == "conv8")
        at = list(proto.graph.node).index(conv)
        pool = helper.make_node("MaxPool", [conv.input[0]], ["pooled"], kernel_shape=[1, 1], name="pool")
        conv.input[0] = "pooled"
        proto.graph.node.insert(at, pool)
        nodes = by_name(save(tmp_path / "a.onnx", proto))
        assert (nodes["pool"].precision, nodes["conv8"].precision) == ("INT8", "INT8")

    @pytest.mark.parametrize(
        ("second", "precision"), [("same scale", "INT8"), ("another scale", "FP32"), ("images", "FP32")]
    )
    def test_joined_tensors_are_int8_with_one_scale_only(self, second: str, precision: str, tmp_path: Path) -> None:
        model = float_model(tmp_path / "a.onnx")
        nodes = [
            helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["first"]),
            helper.make_node("DequantizeLinear", ["q", "s2", "z"], ["same scale"]),
            helper.make_node("DequantizeLinear", ["q", "s3", "z"], ["another scale"]),
            helper.make_node("Concat", ["first", second], ["joined"], axis=1),
            helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["w"]),
            helper.make_node("Conv", ["joined", "w"], ["output"], name="conv"),
        ]
        constants = [
            *(helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in SCALES.items()),
            helper.make_tensor("z", TensorProto.INT8, [], [0]),
            helper.make_tensor("wq", TensorProto.INT8, [1, 6, 1, 1], [1] * 6),
        ]
        image = model.proto.graph.input[0]
        output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "joined", [image], [output], constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        assert by_name(dataclasses.replace(model, proto=proto))["conv"].precision == precision

    def test_weights_stored_as_float16(self, tmp_path: Path) -> None:
        model = float_model(tmp_path / "a.onnx")
        weight = next(i for i in model.proto.graph.initializer if i.name == "weight8")
        half = helper.make_tensor("half", TensorProto.FLOAT16, weight.dims, bytes(len(weight.raw_data) // 2), raw=True)
        model.proto.graph.initializer.remove(weight)
        model.proto.graph.initializer.append(half)
        model.proto.graph.node.insert(0, helper.make_node("Cast", ["half"], ["weight8"], to=TensorProto.FLOAT))
        nodes = by_name(save(tmp_path / "b.onnx", model.proto))
        assert (nodes["conv8"].precision, nodes["conv8"].stored) == ("FP32", "FP16")
        assert nodes["conv16"].stored == ""
        assert len(nodes) == len(node_precisions(model.proto))

    def test_a_type_the_file_does_not_tell_is_unknown(self, tmp_path: Path) -> None:
        model = float_model(tmp_path / "a.onnx")
        model.proto.opset_import.append(helper.make_opsetid("org.example", 1))
        odd = helper.make_node("Odd", ["images"], ["somewhere"], name="odd", domain="org.example")
        model.proto.graph.node.append(odd)
        assert by_name(model)["odd"].precision == "unknown"


class TestInspect:
    def test_a_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = save(tmp_path / "a.onnx", quantized_graph())
        assert run(inspect_model, model.path) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith(f"sha256 {model.sha256}")
        assert "input  images FP32 [batch, 3, 64, 64]" in lines
        assert "output output FP32 [batch, 84, 19]" in lines
        assert 'metadata nanodet.name: "tiny"' in lines
        assert "layers Conv: 3 INT8" in lines
        assert "layers Sigmoid: 1 FP32" in lines
        assert re.fullmatch(r"conv16 +Conv +INT8", next(line for line in lines if line.startswith("conv16")))

    def test_a_file_without_a_description_is_shown_as_it_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = build_variant(Variant(form="pairs-nchw", scores="logits", axes="four"), tmp_path)
        assert run(inspect_model, path) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "opsets onnx 17; made by unknown; quantised not at all" in lines
        assert "input  images FP32 [4, 3, 64, 96]" in lines
        assert "output out0 FP32 [4, 3, 8, 12]" in lines
        assert "not described: --model-config FILE shows how it would be used" in lines
        assert any(line.startswith("layers Conv: ") for line in lines)
        assert not any(line.startswith("used as") for line in lines)

    def test_a_described_file_is_shown_as_it_is_and_as_it_is_used(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        variant = Variant(form="distances", scores="logits", axes="four")
        path = build_variant(variant, tmp_path)
        described = {**variant.spec().model_dump(mode="json"), "input_size_wh": [96, 64], "nms": "diou"}
        described |= {"padding": "top-left", "class_agnostic": True, "channel_order": "RGB", "activation": "Mish"}
        (tmp_path / "m.yaml").write_text(json.dumps(described), encoding="utf-8")
        assert run(inspect_model, path, "--model-config", tmp_path / "m.yaml") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines.index("input  images FP32 [4, 3, 64, 96]") < lines.index("input  images.2 FP32 [1, 3, 64, 96]")
        assert "read   images: batch 4, float32, channels first, RGB" in lines
        assert any("padded top-left" in line and "NMS by DIOU over all classes" in line for line in lines)
        scores = "scores from out0 channels 4 to 6, before a sigmoid, which is added"
        assert f"read   {scores}; boxes from out0 channels 0 to 3, as distances" in lines
        assert "output output FP32 [batch, 126, 19]" in lines

    def test_an_engine(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = float_model(tmp_path / "a.onnx")
        layers = (
            Layer("kernel_1", "correlation", "INT8", "INT8", "FP32", ("/a/Conv", "/a/Act")),
            Layer("kernel_2", "mystery", "unknown", "", "unknown", ()),
        )
        fingerprint = {"format": 1, "package": "tensorrt", "targets": ["sm89"], "gpu": None, "options": {"fp16": True}}
        port = TensorInfo("images", "FP32", (-1, 3, 64, 64))
        metadata = {entry.key: entry.value for entry in model.proto.metadata_props}
        write_engine(tmp_path / "a.engine", engine_of(fingerprint, metadata, (port,), layers))
        assert run(inspect_model, tmp_path / "a.engine") == 0
        lines = capsys.readouterr().out.splitlines()
        for line in (
            "input  images FP32 [-1, 3, 64, 64]",
            "package: tensorrt",
            "targets: sm89",
            "gpu: -",
            "fp16: True",
            'metadata nanodet.name: "tiny"',
            "layers 2 kernels: 1 INT8 > FP32, 1 unknown",
        ):
            assert line in lines
        assert re.fullmatch(r"kernel_1 +correlation +INT8 +INT8 +FP32 +/a/Conv /a/Act", lines[-2])
        assert re.fullmatch(r"kernel_2 +mystery +unknown +- +unknown", lines[-1])

    def test_an_engine_whose_builder_told_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_engine(tmp_path / "a.engine", engine_of({"format": 1}, {}, (), ()))
        assert run(inspect_model, tmp_path / "a.engine") == 0
        assert capsys.readouterr().out.endswith("the builder reported no layers: precision unknown\n")

    def test_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("x", encoding="utf-8")
        (tmp_path / "a.onnx").write_text("x", encoding="utf-8")
        (tmp_path / "a.engine").write_text("x", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"ends in \.onnx or \.engine"):
            run(inspect_model, tmp_path / "a.txt")
        with pytest.raises(ModelError):
            run(inspect_model, tmp_path / "a.onnx")
        with pytest.raises(EngineError, match="has no report beside it"):
            run(inspect_model, tmp_path / "a.engine")
        with pytest.raises(ModelError, match="No such file"):
            run(inspect_model, tmp_path / "none.onnx")


class TestBuild:
    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))

    def words(self, path: Path, output: Path, *more: object) -> list[object]:
        return [path, "--flavour", "tensorrt-rtx", "--target", "sm89,sm120", "-o", output, *more]

    def test_an_engine_and_its_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")
        model = save(tmp_path / "a.onnx", quantized_graph())
        assert run(build, *self.words(model.path, tmp_path / "a.engine", "--max-batch", 2, "--workspace", 99)) == 0
        out = capsys.readouterr().out
        report = read_report(tmp_path / "a.engine")
        assert "for sm89, sm120 by tensorrt-rtx" in out
        assert f"batch 1 to 2, {report.size_bytes / 1e6:.2f} MB, sha256 {report.sha256}" in out
        assert "3 INT8 > FP32" in out
        assert report.fingerprint["options"]["workspace_mib"] == 99
        assert len(read_engine(tmp_path / "a.engine")) == report.size_bytes
        assert run(inspect_model, tmp_path / "a.engine") == 0
        assert "targets: sm89, sm120" in capsys.readouterr().out

    @pytest.mark.parametrize(("fixed", "largest"), [(None, 16), (1, 1)])
    def test_by_default_it_takes_every_batch_that_a_run_asks_for(
        self, fixed: int | None, largest: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")
        proto = tiny_model(tiny_spec())
        if fixed:
            proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed
        model = save(tmp_path / "a.onnx", proto)
        assert run(build, *self.words(model.path, tmp_path / "a.engine")) == 0
        assert f"batch 1 to {largest}, " in capsys.readouterr().out
        assert read_report(tmp_path / "a.engine").fingerprint["options"]["max_batch"] == largest

    @pytest.mark.parametrize(
        ("output", "says"),
        [("a.bin", r"ends in \.engine"), ("folder.engine", "is a folder"), ("none/a.engine", "folder doesn't exist")],
    )
    def test_a_wrong_place_is_refused_before_any_work(self, output: str, says: str, tmp_path: Path) -> None:
        (tmp_path / "folder.engine").mkdir()
        model = float_model(tmp_path / "a.onnx")
        with pytest.raises(ConfigError, match=says):
            run(build, *self.words(model.path, tmp_path / output))

    def test_a_refused_model_writes_nothing(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")
        model = save(tmp_path / "a.onnx", quantized_graph(zero_point=1))
        with pytest.raises(ModelError, match="has zero point 1"):
            run(build, *self.words(model.path, tmp_path / "a.engine"))
        assert not (tmp_path / "a.engine").exists()
        assert not report_path(tmp_path / "a.engine").exists()

    def test_wrong_words(self, tmp_path: Path) -> None:
        model = float_model(tmp_path / "a.onnx")
        with pytest.raises(SystemExit):
            run(build, model.path, "--flavour", "tensorflow", "-o", tmp_path / "a.engine")
        with pytest.raises(ConfigError, match="an architecture is written sm89"):
            run(build, model.path, "--flavour", "tensorrt-rtx", "--target", "ada", "-o", tmp_path / "a.engine")
        with pytest.raises(ConfigError, match="does not exist"):
            run(build, *self.words(tmp_path / "b.onnx", tmp_path / "a.engine"))
