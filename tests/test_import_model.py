"""`import`: models in other forms become ONNX files that compute the same, or are refused in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from calibration.cli import main  # noqa: E402
from calibration.import_model import import_model  # noqa: E402
from calibration.ncnn_graph import read_ncnn  # noqa: E402
from streamer.common.errors import ConfigError, ModelError, StreamerError  # noqa: E402
from streamer.models.file import load_model  # noqa: E402
from tests.ncnn_files import HALF, PLAIN, TABLE, NcnnFile, from_onnx  # noqa: E402
from tests.quantized import network, normalised, pixels  # noqa: E402
from tests.variants import Variant, build, reference  # noqa: E402

TFLITE = Path(__file__).parent / "data" / "tiny.tflite"  # a network of random weights as onnx2tf 1.29.24 writes it
SPEC = Variant().spec()
needs_ncnn = pytest.mark.skipif(not importlib.util.find_spec("ncnn"), reason="ncnn is not installed")
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="OpenVINO is not installed")


def run_onnx(proto: onnx.ModelProto, values: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: dict[str, np.ndarray] = dict(
        zip(names, session.run(names, {session.get_inputs()[0].name: values}), strict=True)
    )
    return found


def rows_of(path: Path) -> np.ndarray:
    """The one output of an imported file for the packaged picture."""
    model = load_model(path)
    (output,) = run_onnx(model.proto, normalised(model.spec, pixels(model.spec))).values()
    return np.asarray(output[0])


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize(("storage", "most"), [(PLAIN, 1e-5), (HALF, 0.01), (TABLE, 0.2)])
def test_an_ncnn_model_computes_what_its_onnx_file_does(storage: str, most: float, rows: bool, tmp_path: Path) -> None:
    original = network(SPEC)
    param = from_onnx(original, tmp_path / "m.param", storage, rows=rows)
    import_model(param, SPEC, tmp_path / "m.onnx")
    wanted = run_onnx(original, normalised(SPEC, pixels(SPEC)))
    levels = []
    for stride in SPEC.strides:
        scores, boxes = (
            wanted[f"{kind}{stride}"][0].reshape(-1, *wanted[f"{kind}{stride}"].shape[2:]) for kind in ("cls", "dis")
        )
        level = [1 / (1 + np.exp(-scores)), boxes]
        levels.append(np.concatenate([part.reshape(len(part), -1).T for part in level], axis=1))
    np.testing.assert_allclose(rows_of(tmp_path / "m.onnx"), np.concatenate(levels), atol=most)


@needs_openvino
def test_a_tflite_model_computes_what_openvino_does(tmp_path: Path) -> None:
    from streamer.common.openvino_core import shared_core

    path = tmp_path / "m.tflite"
    path.write_bytes(TFLITE.read_bytes())
    with pytest.raises(ConfigError, match="say --model nanodet-m_320 or the like, or --model-config FILE"):
        import_model(path, None, tmp_path / "m.onnx")
    import_model(path, SPEC, tmp_path / "m.onnx")
    compiled = shared_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (wanted,) = compiled(normalised(SPEC, pixels(SPEC)).transpose(0, 2, 3, 1)).values()
    got = rows_of(tmp_path / "m.onnx")
    assert np.ptp(got) > 1
    np.testing.assert_allclose(got, wanted[0], atol=1e-4)


@needs_openvino
def test_an_ir_becomes_a_file_that_describes_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import openvino as ov

    path = build(Variant(), tmp_path)
    ov.save_model(ov.convert_model(path), tmp_path / "m.xml", compress_to_fp16=False)
    (tmp_path / "m.json").write_text(SPEC.model_dump_json(exclude_none=True))
    assert main(["import", str(tmp_path / "m.xml"), "-o", str(tmp_path / "m.onnx")]) == 0
    assert "sha256" in capsys.readouterr().out
    np.testing.assert_allclose(rows_of(tmp_path / "m.onnx")[:, :3], reference(Variant(), path)[:, :3], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["m.onnx", "--model", "nanodet-m_320"], 2, "wanted an OpenVINO IR"),
        (["m.param"], 1, "doesn't say its input's size"),
        (["m.param", "--input-size", "96x64"], 2, "--input-size goes with --model"),
        (["m.param", "--model", "nanodet-m_320"], 1, "does not fit its description"),
        (["gone.param", "--model", "nanodet-m_320"], 1, "can't read the model"),
        (["gone.tflite", "--model", "nanodet-m_320"], 1, "can't read the model"),
        (["m.tflite", "--model", "nanodet-m_320"], 1, "can't be read by OpenVINO"),
    ],
)
def test_refusals(
    arguments: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.chdir(tmp_path)
    from_onnx(network(SPEC), tmp_path / "m.param")
    (tmp_path / "m.tflite").write_bytes(TFLITE.read_bytes()[:4000])
    (tmp_path / "m.onnx").write_bytes(b"")
    assert main(["import", *arguments, "-o", "out.onnx"]) == status
    error = capfd.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out.onnx").exists()


Add = Callable[[NcnnFile], None]
SIZE = (6, 8, 10)


def layer(kind: str, *, weights: tuple[tuple[str, tuple[int, ...]], ...] = (), **values: Any) -> Add:
    def add(file: NcnnFile) -> None:
        file.layer(kind, ["x"], ["y"], **values)
        for how, shape in weights:
            getattr(file, how)(np.random.default_rng(sum(shape)).uniform(0.2, 1, shape))

    return add


def chain(*adds: tuple[str, list[str], list[str], dict[str, Any]]) -> Add:
    def add(file: NcnnFile) -> None:
        for kind, inputs, outputs, values in adds:
            file.layer(kind, inputs, outputs, **values)

    return add


def convolution(kind: str = "Convolution", **values: Any) -> Add:
    groups = values.get("p7", 1)
    shape = (values["p0"], 6 // groups, values.get("p11", values["p1"]), values["p1"])
    weights: tuple[tuple[str, tuple[int, ...]], ...] = (("tagged", shape),)
    if values.get("p5"):
        weights = (*weights, ("plain", (values["p0"],)))
    return layer(kind, weights=weights, p6=int(np.prod(shape)), **values)


LAYERS: dict[str, Add] = {
    "convolution": convolution(p0=4, p1=3, p3=2, p4=1, p5=1),
    "uneven": convolution(p0=4, p1=3, p11=1, p3=1, p13=2, p4=1, p14=0, p15=2, p16=1),
    "dilated": convolution(p0=4, p1=3, p2=2, p4=2),
    "same upper": convolution(p0=4, p1=3, p3=2, p4=-233, p5=1),
    "same lower": convolution(p0=4, p1=3, p3=2, p4=-234),
    "depthwise": convolution("ConvolutionDepthWise", p0=6, p1=3, p4=1, p5=1, p7=6),
    "groups": convolution("ConvolutionDepthWise", p0=4, p1=3, p4=1, p7=2),
    **{
        f"activation {kind}": convolution(p0=4, p1=1, p5=1, p9=kind, p10=values)
        for kind, values in ((1, [0.0]), (2, [0.1]), (3, [0.5, 2.0]), (4, [0.0]), (5, [0.0]), (6, [0.1666667, 0.5]))
    },
    "linear": layer("InnerProduct", weights=(("tagged", (5, 480)), ("plain", (5,))), p0=5, p1=1, p2=2400),
    "max pooling": layer("Pooling", p0=0, p1=3, p2=2, p3=1, p5=1),
    "max pooling, full": layer("Pooling", p0=0, p1=3, p2=2, p5=0),
    "average pooling": layer("Pooling", p0=1, p1=3, p2=2, p3=1, p5=1),
    "average pooling with padding": layer("Pooling", p0=1, p1=3, p2=2, p3=1, p5=1, p6=1),
    "global": layer("Pooling", p0=1, p4=1),
    "adaptive": layer("Pooling", p0=1, p7=1, p8=1),
    "nearest": layer("Interp", p0=1, p1=2.0, p2=1.5),
    "bilinear": layer("Interp", p0=2, p1=2.0, p2=2.0),
    "bilinear, smaller": layer("Interp", p0=2, p1=0.5, p2=0.5),
    "bilinear, corners": layer("Interp", p0=2, p3=13, p4=17, p6=1),
    "bicubic": layer("Interp", p0=3, p1=2.0, p2=2.0),
    "shuffle": layer("ShuffleChannel", p0=3),
    "shuffle back": layer("ShuffleChannel", p0=3, p1=1),
    "reshape": layer("Reshape", p0=-1, p1=6),
    "reshape, copied": layer("Reshape", p0=0, p1=-1, p2=3),
    "reshape to one": layer("Reshape", p0=-1),
    "flatten": layer("Flatten"),
    **{f"order {order}": layer("Permute", p0=order) for order in range(6)},
    **{f"cut along {axis}": chain(
        ("Slice", ["x"], ["a", "b"], {"p0": [2, -233], "p1": axis}), ("Concat", ["b", "a"], ["y"], {"p0": axis})
    ) for axis in (0, 1, -1)},
    "crop": layer("Crop", p9=[1, 2], p10=[5, -233], p11=[0, 2]),
    **{f"scalar {kind}": layer("BinaryOp", p0=kind, p1=1, p2=1.7) for kind in (0, 1, 2, 3, 4, 5, 7, 8)},
    **{f"two {kind}": chain(
        ("Split", ["x"], ["a", "b"], {}), ("ReLU", ["b"], ["c"], {"p0": 0.3}),
        ("BinaryOp", ["a", "c"], ["y"], {"p0": kind}),
    ) for kind in (0, 1, 2, 4, 5, 7)},
    "by channel": chain(
        ("Split", ["x"], ["a", "b"], {}), ("Pooling", ["b"], ["c"], {"p0": 1, "p4": 1}),
        ("BinaryOp", ["a", "c"], ["y"], {"p0": 2}),
    ),
    **{f"eltwise {kind}": chain(
        ("Split", ["x"], ["a", "b"], {}), ("Sigmoid", ["b"], ["c"], {}), ("Eltwise", ["a", "c"], ["y"], {"p0": kind})
    ) for kind in range(3)},
    "batch norm": layer("BatchNorm", weights=(("plain", (4, 6)),), p0=6, p1=0.001),
    "scale": layer("Scale", weights=(("plain", (2, 6)),), p0=6, p1=1),
    "bias": layer("Bias", weights=(("plain", (6,)),), p0=6),
    "relu": layer("ReLU"),
    "leaky": layer("ReLU", p0=0.1),
    "prelu": layer("PReLU", weights=(("plain", (6,)),), p0=6),
    "clip": layer("Clip", p0=-0.4, p1=0.6),
    **{kind: layer(kind) for kind in ("Sigmoid", "TanH", "AbsVal", "Mish", "HardSwish", "HardSigmoid", "Swish", "ELU")},
    **{kind: layer(kind) for kind in ("SELU", "GELU", "Noop", "Dropout")},
    "softmax": layer("Softmax", p0=0, p1=1),
    **{f"unary {kind}": layer("UnaryOp", p0=kind) for kind in (0, 1, 2, 3, 7, 16)},
    "padding": layer("Padding", p0=1, p1=2, p2=3, p3=0, p5=0.5),
    "mean": layer("Reduction", p0=3, p1=0, p3=[1, 2], p4=1, p5=1),
    "greatest": layer("Reduction", p0=4, p1=0, p3=[0], p4=0, p5=1),
}  # fmt: skip


def one_layer(add: Add, path: Path) -> Path:
    file = NcnnFile()
    file.layer("Input", [], ["x"])
    add(file)
    return file.write(path)


@pytest.fixture
def six_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibration.ncnn_graph.COLOURS", SIZE[0])


@needs_ncnn
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_the_same(name: str, six_channels: None, tmp_path: Path) -> None:
    import ncnn

    path = one_layer(LAYERS[name], tmp_path / "m.param")
    values = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    (got,) = run_onnx(read_ncnn(path, SIZE[:0:-1]), values[None]).values()
    net = ncnn.Net()
    for option in ("use_vulkan_compute", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(path.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(values).clone())
    wanted = np.array(extractor.extract("y")[1])
    assert got[0].shape == wanted.shape
    np.testing.assert_allclose(got[0], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_the_shape_that_is_said(name: str, six_channels: None, tmp_path: Path) -> None:
    proto = read_ncnn(one_layer(LAYERS[name], tmp_path / "m.param"), SIZE[:0:-1])
    values = np.random.default_rng(0).standard_normal((2, *SIZE)).astype(np.float32)
    (got,) = run_onnx(proto, values).values()
    said = [dimension.dim_value for dimension in proto.graph.output[0].type.tensor_type.shape.dim]
    assert list(got.shape) == [2, *said[1:]]


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (layer("DetectionOutput"), r"layer 'DetectionOutput_1' \(DetectionOutput\): isn't a layer that is read"),
        (convolution(p0=4, p1=3, p8=2), "is quantised to INT8, which isn't read: import the float model"),
        (layer("Convolution", p0=4, p1=3, p6=216), "the .bin file ends before its weights"),
        (layer("ReLU", weights=(("plain", (4,)),)), "leaves 16 bytes of its .bin file unread"),
        (layer("Permute", p0=9), "out of range"),
        (convolution(p0=4, p1=30), "the input is too small"),
        (layer("Interp", p0=2, p5=1), "a computed size isn't read"),
    ],
)
def test_a_layer_that_is_not_read(add: Add, said: str, six_channels: None, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        read_ncnn(one_layer(add, tmp_path / "m.param"), SIZE[:0:-1])
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_one_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = from_onnx(network(SPEC), tmp_path / "m.param")
    part = data.draw(st.sampled_from([path, path.with_suffix(".bin")]))
    content = bytearray(part.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8))
    else:
        del content[at:]
    part.write_bytes(content)
    try:
        read_ncnn(path, (96, 64))
    except StreamerError as error:
        assert "\n" not in str(error)
