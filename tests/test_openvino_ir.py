"""OpenVINO IR as a model: the same numbers and detections as the ONNX file that it was made from, or one line."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from streamer.common.errors import ConfigError, ModelError, StreamerError  # noqa: E402
from streamer.detector import open_detector, self_check  # noqa: E402
from streamer.engines import open_engine  # noqa: E402
from streamer.models.file import load_model  # noqa: E402
from streamer.models.zoo import resolve_model  # noqa: E402
from tests.quantized import pixels  # noqa: E402
from tests.tiny import tiny_spec, write_tiny  # noqa: E402
from tests.variants import Variant, as_ir, build  # noqa: E402

DATA = Path(__file__).parent.parent / "streamer" / "data"
DESCRIPTION = """
name: tiny
family: nanodet
input_size_wh: [96, 64]
keep_ratio: true
mean_bgr: [103.53, 116.28, 123.675]
std_bgr: [57.375, 57.12, 58.395]
strides: [8, 16, 32]
reg_max: 3
anchor_offset: 0.5
activation: LeakyReLU
labels: [person, car, cat]
"""


def output(path: Path, spec: Any, engine: str) -> np.ndarray:
    model = load_model(path, spec)
    with contextlib.closing(open_engine(engine, model, slots=1, precision="f32")) as runner:
        runner.input(0)[:] = pixels(model.spec)
        runner.start(0)
        found = runner.wait(0)[0].copy()
        self_check.check(model, runner)
    return found


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("form", ["joint", "pairs-nchw", "levels"])
def test_an_ir_computes_what_its_onnx_file_does(form: str, half: bool, engine: str, tmp_path: Path) -> None:
    variant = Variant(form=form)
    path = build(variant, tmp_path)
    wanted = output(path, variant.spec(), engine)
    np.testing.assert_allclose(
        output(as_ir(path, half=half), variant.spec(), engine), wanted, atol=0.02 if half else 1e-4
    )


def test_a_quantised_ir_is_a_quantised_model(engine: str, tmp_path: Path) -> None:
    """The packaged INT8 model, foreign and as IR: its own integers, which stay what they are."""
    proto = onnx.load(DATA / "nanodet-g_416.onnx")
    spec = load_model(DATA / "nanodet-g_416.onnx").spec
    kept = [entry for entry in proto.metadata_props if entry.key.endswith("int8_convolution_ranges")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    ir = as_ir(path)
    with contextlib.closing(open_engine(engine, load_model(ir, spec), slots=1)) as runner:
        assert runner.precision == "int8"
    got, wanted = output(ir, spec, engine), output(path, spec, engine)
    if engine == "onnxruntime":
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_allclose(got[:, :80], wanted[:, :80], atol=0.05)  # OpenVINO sums in an order of its own


def test_an_ir_of_our_own_file_describes_itself(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((DATA / "nanodet-g_416_float.onnx").read_bytes())
    frame = self_check.packaged_frame()
    found = []
    for model in (path, as_ir(path)):
        with open_detector(model, engine=engine, device="cpu", precision="f32") as detector:
            detector.submit(frame)
            found.append(detector.collect()[1])
    one, other = found
    assert len(one.scores) == 2
    np.testing.assert_array_equal(one.class_ids, other.class_ids)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=0.01)


@pytest.mark.parametrize("ending", [".yaml", ".yml", ".json"])
def test_a_description_lies_beside_it(ending: str, tmp_path: Path) -> None:
    ir = as_ir(build(Variant(), tmp_path))
    with pytest.raises(ModelError, match="--model-config") as caught:
        load_model(ir)
    assert "\n" not in str(caught.value)
    text = DESCRIPTION if ending != ".json" else tiny_spec(size_wh=(96, 64)).model_dump_json(exclude_none=True)
    ir.with_suffix(ending).write_text(text)
    assert load_model(ir).spec.labels == ("person", "car", "cat")
    ir.with_suffix(ending).write_text("name: 3")
    with pytest.raises(ConfigError, match="missing"):
        load_model(ir)


def test_the_reference_of_an_ir_is_the_ir(tmp_path: Path) -> None:
    """Also where its tensors have no names, as in old ones."""
    variant = Variant(form="pairs-rows")
    ir = as_ir(build(variant, tmp_path))
    text = ir.read_text()
    ir.write_text(re.sub(r' names="[^"]*"', "", text))
    model = load_model(ir, variant.spec())
    from streamer.detector.reference import difference_of_rows, reference_rows

    rows = reference_rows(model, pixels(model.spec))
    assert rows is not None
    with contextlib.closing(open_engine("openvino", model, slots=1, precision="f32")) as runner:
        runner.input(0)[:] = pixels(model.spec)
        runner.start(0)
        assert difference_of_rows(rows, runner.wait(0)[0], model.spec) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.xml", b"<annotation><filename>1.jpg</filename></annotation>", "is no OpenVINO IR, whose XML begins"),
        ("m.xml", b"", "is no OpenVINO IR, whose XML begins"),
        ("m.xml", b"<?xml version='1.0'?><net name='m' version='11'><layers>", "can't be read by OpenVINO: "),
        ("m.param", b"7767517\n", "is an NCNN model: python -m calibration import .*m.param .* -o m.onnx makes"),
        ("m.tflite", b"\0\0\0\0TFL3", "is a TFLite model: python -m calibration import .*m.tflite "),
        ("m.bin", b"\0" * 8, "holds weights alone: give the file beside it"),
        ("m.pth", b"PK", "is a checkpoint: python -m calibration export "),
        ("m.mnn", b"", "is of a form that isn't read here: export the model to ONNX"),
        ("m.engine", b"", "is a TensorRT engine: give the ONNX file"),
    ],
)
def test_other_forms_are_refused_in_one_line(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"\0" * 8)
    (tmp_path / name).write_bytes(content)
    path, spec = resolve_model(str(tmp_path / name))
    with pytest.raises(ModelError, match=said) as caught:
        load_model(path, spec or tiny_spec())
    assert "\n" not in str(caught.value)


def test_the_name_of_a_missing_file_is_no_model_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(Path("tiny.onnx"))
    with pytest.raises(ConfigError, match=r"the model file 'tiny.xml' does not exist.*tiny.onnx"):
        resolve_model("tiny.xml")


def test_without_its_weights(tmp_path: Path) -> None:
    ir = as_ir(build(Variant(), tmp_path))
    ir.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"m?variant.bin: No such file.*two files"):
        load_model(ir, Variant().spec())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 10**9), mask=st.integers(1, 255), what=st.sampled_from(["xml", "cut", "bin"]))
def test_a_damaged_one_is_read_or_refused(place: int, mask: int, what: str, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = _whole(tmp_path_factory)
    for part in ("xml", "bin"):
        content = bytearray((whole / f"variant.{part}").read_bytes())
        at = place % len(content)
        if what == part:
            content[at] ^= mask
        elif what == "cut" and part == ("xml" if mask % 2 else "bin"):
            del content[at:]
        (folder / f"variant.{part}").write_bytes(content)
    try:
        load_model(folder / "variant.xml", Variant().spec())
    except StreamerError as error:
        assert "\n" not in str(error)


_made: list[Path] = []


def _whole(factory: Any) -> Path:
    if not _made:
        _made.append(factory.mktemp("whole"))
        as_ir(build(Variant(), _made[0]))
    return _made[0]
