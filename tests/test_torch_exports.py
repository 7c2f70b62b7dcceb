"""PyTorch's own exports of a NanoDet, not simplified: what people hand over most often."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from streamer.common.errors import EngineError
from streamer.detector import self_check
from streamer.detector.reference import reference_rows
from streamer.engines import open_engine
from streamer.models.file import load_model
from streamer.models.spec import ModelSpec, spec_for
from tests.quantized import normalised, pixels

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

pytestmark = pytest.mark.slow

SPEC = spec_for("nanodet-m-0.5x_320").with_input_size((128, 96))


def random_network() -> Any:
    """Random weights, whose scores differ from point to point."""
    from streamer.models.nanodet import build, fuse_batchnorm

    torch.manual_seed(0)
    built = build(SPEC)
    for parameter in built.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, a=0.1)
    fuse_batchnorm(built)
    return built.eval()


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network()


def export(network: Any, path: Path, spec: ModelSpec = SPEC, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, height = spec.input_size_wh
        images = (torch.zeros(1, 3, height, width),)
        torch.onnx.export(network, images, path, input_names=["data"], output_names=["output"], **options)
    return path


def compare(path: Path, spec: ModelSpec, most: float) -> None:
    """Each CPU engine gives what the untouched file does."""
    model = load_model(path, spec)
    wanted = reference_rows(model, pixels(spec))
    assert wanted is not None
    assert np.ptp(wanted) > 1
    for name in ("openvino", "onnxruntime"):
        with contextlib.closing(open_engine(name, model, slots=1, precision="f32")) as engine:
            engine.input(0)[:] = pixels(spec)
            engine.start(0)
            got = engine.wait(0)[0].copy()
            self_check.check(model, engine)
        assert np.abs(got - wanted)[:, : spec.num_classes].max() < most, name


@pytest.mark.parametrize("axes", [None, {"data": {0: "n"}}, {"data": {0: "n", 2: "h", 3: "w"}}])
@pytest.mark.parametrize("opset", [11, 17])
def test_the_legacy_exporter(network: Any, opset: int, axes: dict[str, Any] | None, tmp_path: Path) -> None:
    path = export(network, tmp_path / "m.onnx", dynamo=False, opset_version=opset, dynamic_axes=axes)
    compare(path, SPEC, 1e-3)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_new_exporter(network: Any, dynamic: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    shapes = ({0: torch.export.Dim("n", min=1, max=16)},) if dynamic else None
    path = export(network, tmp_path / "m.onnx", dynamo=True, dynamic_shapes=shapes, external_data=True)
    compare(path, SPEC, 1e-3)


def fake_quantised(network: Any, spec: ModelSpec, signed: bool, path: Path) -> Path:
    """Writes a network as training that knows of its quantisation leaves it, ranges taken from the packaged picture."""
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, PerChannelMinMaxObserver

    class Quantized(torch.nn.Module):
        def __init__(self, convolution: Any) -> None:
            super().__init__()
            self.convolution = convolution
            least, kind = (-128, torch.qint8) if signed else (0, torch.quint8)
            scheme = torch.per_tensor_symmetric if signed else torch.per_tensor_affine
            self.inputs = FakeQuantize(
                MovingAverageMinMaxObserver, quant_min=least, quant_max=least + 255, dtype=kind, qscheme=scheme
            )
            self.weights = FakeQuantize(
                PerChannelMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
                qscheme=torch.per_channel_symmetric, ch_axis=0,
            )  # fmt: skip

        def forward(self, images: Any) -> Any:
            inner = self.convolution
            return torch.nn.functional.conv2d(
                self.inputs(images), self.weights(inner.weight), inner.bias, inner.stride, inner.padding,
                inner.dilation, inner.groups,
            )  # fmt: skip

    def quantize(module: Any) -> None:
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Conv2d):
                setattr(module, name, Quantized(child))
            else:
                quantize(child)

    quantize(network)
    with torch.no_grad():
        network(torch.from_numpy(normalised(spec, pixels(spec))))
    for module in network.modules():
        if isinstance(module, FakeQuantize):
            module.disable_observer()
    return export(network, path, spec, dynamo=False, opset_version=17, dynamic_axes={"data": {0: "n"}})


@pytest.mark.shared
@pytest.mark.parametrize("signed", [True, False])
def test_fake_quantised_training(signed: bool, shared: Path, tmp_path: Path) -> None:
    """Scales are initializers, zero points Constant nodes, weights float behind Q/DQ, and much is behind Identity."""
    from calibration.checkpoint import load_checkpoint
    from streamer.models.nanodet import build, fuse_batchnorm, load_into

    spec = spec_for("nanodet-m_320")
    network = build(spec)
    load_into(network, load_checkpoint(shared / "weights" / "nanodet-m_320.pth")[0])
    fuse_batchnorm(network)
    path = fake_quantised(network.eval(), spec, signed, tmp_path / "m.onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"Constant", "Identity", "QuantizeLinear"} <= kinds
    compare(path, spec, 0.15)


def test_of_random_weights_rounding_is_named_as_the_cause(tmp_path: Path) -> None:
    """What rounds to the other side grows from layer to layer: no two programs agree, nor does one with itself."""
    path = fake_quantised(random_network(), SPEC, True, tmp_path / "m.onnx")
    model = load_model(path, SPEC)
    said = "from itself when the picture changes by a ten-thousandth"
    opened = contextlib.closing(open_engine("openvino", model, slots=1, precision="f32"))
    with opened as engine, pytest.raises(EngineError, match=said) as caught:
        self_check.check(model, engine)
    assert "\n" not in str(caught.value)
