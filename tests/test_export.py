"""Exported files: what is in them, that every engine computes what PyTorch does, and that a failure leaves nothing."""

from __future__ import annotations

import argparse
import hashlib
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="export runs PyTorch")
onnx = pytest.importorskip("onnx", reason="export writes ONNX")
pytest.importorskip("openvino", reason="exported files are run in OpenVINO")
onnxruntime = pytest.importorskip("onnxruntime", reason="export is checked in ONNX Runtime")
pytest.importorskip("onnxsim", reason="export simplifies the graph with onnxsim")

from calibration.checkpoint import load_checkpoint  # noqa: E402
from calibration.export import add_arguments, export, run  # noqa: E402
from streamer.common.errors import ConfigError, ModelError  # noqa: E402
from streamer.common.openvino_core import shared_core  # noqa: E402
from streamer.models import nanodet  # noqa: E402
from streamer.models.spec import ModelSpec, packaged_config, spec_for  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
FAMILIES = ("nanodet-m-0.5x_64", "nanodet-g_96x64", "nanodet-plus-m_64x96")


def one_class(name: str) -> ModelSpec:
    return spec_for(name).model_copy(update={"labels": ("gear",)})


def network_of(spec: ModelSpec, *, fused: bool = False) -> nanodet.NanoDet:
    torch.manual_seed(0)
    network = nanodet.build(spec)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
    if fused:
        nanodet.fuse_batchnorm(network)
    return network


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "one_class.pth"
    torch.save({"state_dict": network_of(one_class(FAMILIES[0])).state_dict()}, path)
    return path


def images_for(spec: ModelSpec, batch: int) -> np.ndarray:
    width, height = spec.input_size_wh
    return np.random.RandomState(1).randn(batch, 3, height, width).astype(np.float32)


def wanted_of(network: nanodet.NanoDet, images: np.ndarray) -> np.ndarray:
    network.sigmoid_scores = True
    with torch.inference_mode():
        output: np.ndarray = network(torch.from_numpy(images)).numpy()
    return output


def in_onnxruntime(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(["output"], {"images": images})[0]
    return output


def in_openvino(path: Path, images: np.ndarray) -> np.ndarray:
    compiled = shared_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output: np.ndarray = compiled({"images": images})["output"]
    return output


def folder_is_clean(path: Path, *kept: Path) -> bool:
    return sorted(path.iterdir()) == sorted(kept)


class Exported(NamedTuple):
    """A network and the file that it was exported to."""

    network: nanodet.NanoDet
    path: Path
    is_float16: bool


@pytest.fixture(scope="module", params=[(name, half) for name in FAMILIES for half in (False, True)], ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network of each family, also with weights in float16; class weights of all levels but the first are equal."""
    name, is_float16 = request.param
    network, folder = network_of(one_class(name)), tmp_path_factory.mktemp("exported")
    for level in list(network.head.gfl_cls)[1:]:
        for parameter in level.parameters():
            parameter.data.fill_(0 if parameter.ndim > 1 else -2)  # equal parameters must not be merged into one
    torch.save(network.state_dict(), folder / "a.pth")
    export(network.spec, folder / "a.pth", folder / "a.onnx", float16_weights=is_float16)
    return Exported(network, folder / "a.onnx", is_float16)


def test_engines_compute_what_pytorch_does(exported: Exported) -> None:
    network, path, is_float16 = deepcopy(exported.network), exported.path, exported.is_float16
    spec = network.spec
    tolerance = 5e-3 if is_float16 else 1e-4
    for batch in (1, 3):
        images = images_for(spec, batch)
        wanted = wanted_of(network, images)
        for engine in (in_onnxruntime, in_openvino):
            got = engine(path, images)
            assert got.shape == (batch, spec.num_points, spec.output_channels)
            assert np.abs(got[..., 0] - wanted[..., 0]).max() <= tolerance
            assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def test_the_file_describes_itself(tmp_path: Path, checkpoint: Path) -> None:
    spec = one_class(FAMILIES[0])
    report = export(spec, checkpoint, tmp_path / "a.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    assert (report.path, report.size_bytes) == (tmp_path / "a.onnx", len(content))
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert 0 <= report.relative_error <= 1e-4

    model = onnx.load(tmp_path / "a.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelSpec.from_metadata(metadata) == spec.model_copy(update={"checkpoint_sha256": report.checkpoint_sha256})
    assert model.producer_name == "nanodet-streamer"
    assert model.opset_import[0].version == 17
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 3, 64, 64], "output": ["batch", spec.num_points, 33]}
    assert str(tmp_path).encode() not in content and str(Path(__file__).parent.parent).encode() not in content


def test_the_network_can_be_rebuilt_from_the_file(exported: Exported) -> None:
    network, float16_weights = deepcopy(exported.network), exported.is_float16
    spec = network.spec
    nanodet.fuse_batchnorm(network)
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(exported.path).graph.initializer}
    stored = {key: torch.from_numpy(tensors[key].copy()) for key in network.state_dict() if key in tensors}
    assert {value.dtype for value in stored.values() if value.ndim == 4} == {
        torch.float16 if float16_weights else torch.float32
    }
    rebuilt = nanodet.build(spec)
    nanodet.fuse_batchnorm(rebuilt)
    nanodet.load_into(rebuilt, stored)
    for key, value in network.state_dict().items():
        if not key.startswith(nanodet.NEVER_APPLIED):
            expected = value.half().float() if float16_weights and value.ndim == 4 else value
            assert torch.equal(rebuilt.state_dict()[key], expected), key


def test_the_same_inputs_give_the_same_bytes_and_float16_weights_half_of_them(tmp_path: Path, checkpoint: Path) -> None:
    spec = one_class(FAMILIES[0])
    one, same = (export(spec, checkpoint, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert one.sha256 == same.sha256
    half = export(spec, checkpoint, tmp_path / "c.onnx", float16_weights=True)
    assert half.size_bytes < 0.65 * one.size_bytes


def test_a_failed_check_writes_nothing_and_leaves_the_old_file(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "a.onnx"
    output.write_bytes(b"old")
    monkeypatch.setattr("calibration.export.MAX_RELATIVE_ERROR", -1.0)
    with pytest.raises(ModelError, match="nothing was written"):
        export(one_class(FAMILIES[0]), checkpoint, output)
    assert output.read_bytes() == b"old"
    assert folder_is_clean(folder, output)


def test_outputs_that_are_not_numbers_fail_the_check(tmp_path: Path) -> None:
    network = network_of(one_class(FAMILIES[0]))
    network.backbone.conv1[0].weight.data.fill_(1e38)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match="relative error nan"):
        export(one_class(FAMILIES[0]), tmp_path / "a.pth", tmp_path / "a.onnx")
    assert folder_is_clean(tmp_path, tmp_path / "a.pth")


def test_a_failed_write_leaves_nothing(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        export(one_class(FAMILIES[0]), checkpoint, folder / "a.onnx")
    assert folder_is_clean(folder)


def test_an_unreadable_checkpoint_writes_nothing(tmp_path: Path, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cut short"):
        export(one_class(FAMILIES[0]), checkpoint, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="No such file"):
        export(one_class(FAMILIES[0]), tmp_path / "none.pth", tmp_path / "a.onnx")
    assert folder_is_clean(tmp_path, checkpoint)


def test_a_checkpoint_of_another_class_count_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="has 1 class, the model description 80 labels"):
        export(spec_for(FAMILIES[0]), checkpoint, tmp_path / "a.onnx")


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    spec = one_class(FAMILIES[0])
    network = network_of(spec)
    network.head.gfl_cls[0].weight.data[0] = 1e6
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"head\.gfl_cls\.0\.weight exceeds float16's range"):
        export(spec, tmp_path / "a.pth", tmp_path / "a.onnx", float16_weights=True)


def test_a_wrong_place_is_refused_before_any_work(tmp_path: Path, checkpoint: Path) -> None:
    spec = one_class(FAMILIES[0])
    for output, says in [
        (checkpoint, "the input itself"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a.onnx", "folder doesn't exist"),
    ]:
        with pytest.raises(ConfigError, match=says):
            export(spec, checkpoint, output)


class TestCommandLine:
    def parse(self, *words: object) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return parser.parse_args([str(word) for word in words])

    def test_a_model_of_ones_own(self, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = packaged_config("nanodet-m-0.5x").read_text(encoding="utf-8")
        (tmp_path / "mine.yaml").write_text(text.replace("labels: coco", "labels: [gear]"), encoding="utf-8")
        words = ["--model-config", tmp_path / "mine.yaml", "--checkpoint", checkpoint, "-o", tmp_path / "a.onnx"]
        assert run(self.parse(*words, "--input-size", "96x64")) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{tmp_path / 'a.onnx'}: nanodet-m-0.5x 96x64, 1 class, ")
        assert printed.count("\n") == 1
        model = onnx.load(tmp_path / "a.onnx")
        spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props})
        assert (spec.input_size_wh, spec.labels) == ((96, 64), ("gear",))

    def test_wrong_words(self, tmp_path: Path, checkpoint: Path) -> None:
        rest = ["--checkpoint", checkpoint, "-o", tmp_path / "a.onnx"]
        with pytest.raises(SystemExit):
            self.parse(*rest)
        with pytest.raises(ConfigError, match="nanodet-m_320"):
            run(self.parse("--model", "nanodet_m_320", *rest))
        with pytest.raises(ConfigError, match="W or WxH"):
            run(self.parse("--model", "nanodet-m_320", "--input-size", "big", *rest))


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared weights are not here")
@pytest.mark.parametrize("model", ["nanodet-m_320", "nanodet-g_416", "nanodet-plus-m_416"])
def test_real_weights(model: str, tmp_path: Path) -> None:
    spec = spec_for(model)
    checkpoint = SHARED / "weights" / f"{model}.pth"
    report = export(spec, checkpoint, tmp_path / "a.onnx")
    assert report.relative_error <= 1e-4
    weights, _ = load_checkpoint(checkpoint)
    network = nanodet.build(spec)
    nanodet.load_into(network, weights)
    images = images_for(spec, 2)
    wanted = wanted_of(network, images)
    for engine in (in_onnxruntime, in_openvino):
        got = engine(tmp_path / "a.onnx", images)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
