from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamer.common.errors import ModelError
from streamer.detector.cpu import CpuDetector
from streamer.engines import open_engine
from streamer.frames.frame import Frame
from streamer.models.file import load_model
from streamer.models.postprocess import Postprocessor
from tests.tiny import tiny_model, tiny_spec, write_tiny


def picture() -> Frame:
    return Frame(np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8), "test", 0, 0.0, 0.0)


def expected(seed: int = 0) -> np.ndarray:
    """What the tiny network gives for `picture`, through the reference evaluator and NumPy preprocessing."""
    import cv2
    from onnx.reference import ReferenceEvaluator

    spec = tiny_spec()
    resized = cv2.resize(picture().image, (64, 48), interpolation=cv2.INTER_LINEAR)
    padded = np.zeros((64, 64, 3), np.float32)
    padded[8:56] = resized
    images = ((padded - np.array(spec.mean_bgr)) / np.array(spec.std_bgr)).astype(np.float32).transpose(2, 0, 1)[None]
    return ReferenceEvaluator(tiny_model(spec, seed=seed)).run(None, {"images": images})[0][0]


def output_of(path: Path, engine: str, spec: object = None) -> np.ndarray:
    from streamer.models.letterbox import Letterbox

    model = load_model(path, spec)  # type: ignore[arg-type]
    runner = open_engine(engine, model, slots=1, precision="f32")
    try:
        Letterbox.fit((120, 90), (64, 64), True).apply(picture(), runner.input(0))
        runner.start(0)
        return runner.wait(0)[0].copy()
    finally:
        runner.close()


def test_engines_compute_what_the_graph_says(tmp_path: Path, engine: str) -> None:
    np.testing.assert_allclose(output_of(write_tiny(tmp_path / "m.onnx"), engine), expected(), rtol=1e-3, atol=1e-3)


def test_official_export_without_sigmoid_or_description(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "official.onnx"
    onnx.save(tiny_model(tiny_spec(), sigmoid=False), path)
    np.testing.assert_allclose(output_of(path, engine, tiny_spec()), expected(), rtol=1e-3, atol=1e-3)
    with pytest.raises(ModelError, match="--model-config"):
        load_model(path)


@pytest.mark.parametrize("planar", [False, True])
def test_six_outputs_in_any_order(tmp_path: Path, engine: str, planar: bool) -> None:
    spec = tiny_spec()
    model = tiny_model(spec, sigmoid=False)
    graph = model.graph
    del graph.output[:], graph.node[-1]
    sizes = np.array([spec.num_classes, spec.output_channels - spec.num_classes], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(sizes, "sizes"))
    for stride in spec.strides:
        side = 64 // stride
        parts = [f"cls{stride}", f"dis{stride}"]
        source, axis = (f"conv{stride}", 1) if planar else (f"rows{stride}", 2)
        graph.node.append(helper.make_node("Split", [source, "sizes"], parts, axis=axis))
        for part, channels in zip(parts, sizes, strict=True):
            shape = ["batch", int(channels), side, side] if planar else ["batch", side * side, int(channels)]
            graph.output.insert(0, helper.make_tensor_value_info(part, TensorProto.FLOAT, shape))
    path = tmp_path / "six.onnx"
    onnx.save(model, path)
    np.testing.assert_allclose(output_of(path, engine, spec), expected(), rtol=1e-3, atol=1e-3)


def test_input_size_of_the_graph_wins(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.onnx", tiny_spec(size_wh=(96, 64)), described=False)
    assert load_model(path, tiny_spec()).spec.input_size_wh == (96, 64)


@pytest.mark.parametrize("side", [8, 65_536])
def test_an_input_of_no_usable_size_is_refused(tmp_path: Path, side: int) -> None:
    model = tiny_model(tiny_spec())
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = side
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"m.onnx' is not a NanoDet: .*32 to 4096 pixels a side, got {side}x64"):
        load_model(tmp_path / "m.onnx", tiny_spec())


def test_labels_of_the_wrong_length(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.onnx", described=False)
    with pytest.raises(ModelError, match="for 2 labels"):
        load_model(path, tiny_spec(labels=("a", "b")))


def test_wrong_family(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.onnx", described=False)
    with pytest.raises(ModelError, match="does not fit its description"):
        load_model(path, tiny_spec(family="nanodet-plus"))


def other_network(inputs: int = 1, shape: tuple[int, ...] = (1, 10)) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(inputs)]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    node = helper.make_node("Sum", names, ["y"])
    return helper.make_model(helper.make_graph([node], "other", infos, [out]), ir_version=9)


@pytest.mark.parametrize("model", [other_network(), other_network(2), other_network(1, (1, 3, 64, 64))])
def test_onnx_that_is_not_a_nanodet(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="not a NanoDet|does not fit"):
        load_model(path, tiny_spec())


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 20, b"\x00" * 100])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="broken.onnx") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_flipped_files_end_in_an_error_or_a_model(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "m.onnx").read_bytes()
    random = np.random.default_rng(3)
    refused = 0
    for step in range(60):
        data = bytearray(whole)
        if step % 2:
            data = data[: random.integers(1, len(data))]
        else:
            for place in random.integers(0, len(data), 20):
                data[place] ^= 1 << random.integers(0, 8)
        path = tmp_path / "damaged.onnx"
        path.write_bytes(data)
        try:
            load_model(path)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 20


def with_constants(path: Path, values: dict[str, np.ndarray]) -> Path:
    """A tiny model with other values for some of its constants."""
    model = tiny_model(tiny_spec())
    for constant in model.graph.initializer:
        if constant.name in values:
            constant.CopyFrom(onnx.numpy_helper.from_array(values[constant.name], constant.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"\0" * 40])
def test_a_constant_of_another_size_than_it_says_is_refused(tmp_path: Path, content: bytes) -> None:
    model = tiny_model(tiny_spec())
    split = next(constant for constant in model.graph.initializer if constant.name == "split")
    split.raw_data = content
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m.onnx' is (damaged at its constant 'split'|not a readable ONNX file)"):
        load_model(tmp_path / "m.onnx", tiny_spec())


def test_a_shape_that_only_computing_tells_is_taken_as_declared(tmp_path: Path, engine: str) -> None:
    model = tiny_model(tiny_spec())
    graph = model.graph
    graph.initializer.append(helper.make_tensor("sizes", TensorProto.INT64, [3], [0, 19, -20]))
    graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [], [0]))
    graph.node.insert(0, helper.make_node("CumSum", ["sizes", "axis"], ["computed"]))
    for node in graph.node:
        if node.op_type == "Reshape":
            node.input[1] = "computed"
    onnx.save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(output_of(tmp_path / "m.onnx", engine, tiny_spec()), expected(), rtol=1e-3, atol=1e-3)
    graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="does not fit its description"):
        load_model(tmp_path / "m.onnx", tiny_spec())


def test_an_output_of_fewer_points_than_declared_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tiny_spec())
    (strides,) = model.graph.node[0].attribute
    strides.ints[:] = [16, 16]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"'.*m.onnx' does not fit its description.*84 points.*found \[1, 36, 19\]"):
        load_model(tmp_path / "m.onnx", tiny_spec())


def test_a_reshape_that_makes_more_of_less_is_refused(tmp_path: Path) -> None:
    # 64 and 16 points really. The sum is right, so that nothing else tells; OpenVINO reads beyond the first's end.
    shapes = {"shape8": np.array([0, 19, 65], np.int64), "shape16": np.array([0, 19, 15], np.int64)}
    path = with_constants(tmp_path / "m.onnx", shapes)
    with pytest.raises(
        ModelError, match=r"'.*m.onnx' contradicts itself \(Reshape makes \[1, 19, 65\] of \[1, 19, 8, 8"
    ):
        load_model(path, tiny_spec())


def test_shapes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    path = with_constants(tmp_path / "m.onnx", {"shape8": np.array([0, 5, -1], np.int64)})
    with pytest.raises(ModelError, match=r"contradicts itself for an input of 64x64 \(\(op_type:Reshape") as caught:
        load_model(path, tiny_spec())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pads", [2**31, 2**62])
def test_a_huge_tensor_is_refused(tmp_path: Path, pads: int) -> None:
    model = tiny_model(tiny_spec())
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [pads, 0, 0, 0]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"has a tensor '\w+' of|contradicts itself"):
        load_model(tmp_path / "m.onnx", tiny_spec())


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't read"):
        load_model(tmp_path / "missing.onnx")


def test_detector_keeps_order_with_frames_in_flight(tmp_path: Path, engine: str) -> None:
    model = load_model(write_tiny(tmp_path / "m.onnx"))
    random = np.random.default_rng(0)
    frames = [Frame(random.integers(0, 256, (64, 64, 3), np.uint8), "t", i, i / 30, 0.0) for i in range(12)]
    alone = CpuDetector(model, open_engine(engine, model, slots=1, precision="f32"), Postprocessor(model.spec, 0.1))
    with alone:
        wanted = [found for _, found in alone.stream(frames)]
    many = CpuDetector(model, open_engine(engine, model, slots=3, precision="f32"), Postprocessor(model.spec, 0.1))
    with many:
        results = list(many.stream(frames))
        with pytest.raises(ValueError, match="no frame is in flight"):
            many.collect()
        for frame in frames[:3]:
            many.submit(frame)
        with pytest.raises(ValueError, match="in flight already"):
            many.submit(frames[3])
    assert [frame.index for frame, _ in results] == list(range(12))
    for (_, found), want in zip(results, wanted, strict=True):
        np.testing.assert_allclose(found.boxes_xyxy, want.boxes_xyxy, atol=1e-2)
        np.testing.assert_array_equal(found.class_ids, want.class_ids)
    assert any(len(found) for found in wanted)


def test_an_rgb_file_gets_its_channels_in_its_own_order(tmp_path: Path, engine: str) -> None:
    spec = tiny_spec()
    model = tiny_model(spec)
    for constant in model.graph.initializer:
        if constant.name.startswith("weight"):
            weight = onnx.numpy_helper.to_array(constant)[:, ::-1]
            constant.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weight), constant.name))
    onnx.save(model, tmp_path / "rgb.onnx")
    rgb = spec.model_copy(update={"channel_order": "RGB"})
    np.testing.assert_allclose(output_of(tmp_path / "rgb.onnx", engine, rgb), expected(), rtol=1e-3, atol=1e-3)
    assert load_model(tmp_path / "rgb.onnx", rgb).spec == spec  # what engines get is BGR


def test_an_input_with_the_channels_last(tmp_path: Path, engine: str) -> None:
    model = tiny_model(tiny_spec())
    image = model.graph.input[0]
    model.graph.node.insert(0, helper.make_node("Transpose", ["pictures"], [image.name], perm=[0, 3, 1, 2]))
    image.CopyFrom(helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [1, 64, 64, 3]))
    onnx.save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(output_of(tmp_path / "m.onnx", engine, tiny_spec()), expected(), rtol=1e-3, atol=1e-3)


def test_a_sigmoid_over_some_other_channels_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tiny_spec())
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Sigmoid", ["half"], ["output"]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="has a Sigmoid before channels of 'output' that are neither"):
        load_model(tmp_path / "m.onnx", tiny_spec())
