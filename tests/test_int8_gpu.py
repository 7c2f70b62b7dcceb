"""The int8 engine on a GPU: against the same kernels on the CPU, and against ONNX Runtime."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import NON_BLOCKING, Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.detector.cuda import open_cuda_detector
from streamer.detector.self_check import packaged_frame
from streamer.engines.int8.tiles import Shape, Tile
from streamer.engines.int8_engine import Int8Engine
from streamer.models.file import ModelFile, load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from tests.int8_host import HostProgram
from tests.qdq_graphs import CLASSES, QdqGraph, pictures, run_whole
from tests.quantized import normalised, pixels
from tests.real_gpu import opened_gpu
from tests.test_int8_kernels import every_tile, layer

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """GPU 0; the test must free its buffers."""
    with opened_gpu() as opened:
        yield opened
        gc.collect()
        assert opened.device_bytes == 0


def outputs(
    model: ModelFile, gpu: Gpu, kernel_folder: Path, batch: int, choose: Callable[[Shape], Tile] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The network's output on the GPU and on the CPU for noise."""
    import pycuda.driver as drv

    host = HostProgram(model, kernel_folder, batch=batch)
    wanted = host.run(pictures(batch, model.spec.input_size_wh))
    engine = Int8Engine(model, gpu, choose=choose)
    buffers = [DeviceBuffer.holding(gpu, host.input), DeviceBuffer(gpu, host.output.nbytes)]
    found = np.empty_like(host.output)
    with gpu.active():
        stream = drv.Stream(NON_BLOCKING)
        buffers[1].write(np.full_like(found, np.nan))
        binding = engine.bind(batch, *(buffer.address for buffer in buffers), int(stream.handle))
        launch = binding.capture(binding.enqueue)
        assert launch is not None
        for _ in range(3):
            launch()
        stream.synchronize()
        buffers[1].read(found)
        del launch
        gc.collect()
        binding.close()
        engine.close()
    for buffer in buffers:
        buffer.free()
    return found.astype(np.float32), wanted


def assert_same(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """Bins are the same to the bit; scores go through another exponential function."""
    np.testing.assert_array_equal(found[..., CLASSES:], wanted[..., CLASSES:])
    assert np.abs(found - wanted).max() < 0.001


@pytest.mark.parametrize(("what", "tile"), [pytest.param(*rest, id=name) for name, *rest in every_tile()])
def test_every_tile_computes_the_same(
    what: tuple[int, int, int, int], tile: Tile, gpu: Gpu, kernel_folder: Path
) -> None:
    def choose(shape: Shape) -> Tile:
        fits = shape.unit == 16 and not (tile.patch and shape.kernel_width == 1)
        return tile if fits else shape.tiles[0]

    assert_same(*outputs(layer(*what).model(), gpu, kernel_folder, 1, choose))


@pytest.mark.parametrize("zero_point", [0, 5, None])
@pytest.mark.parametrize("batch", [1, 3])
def test_all_kinds_of_layers(zero_point: int | None, batch: int, gpu: Gpu, kernel_folder: Path) -> None:
    graph = QdqGraph((72, 56), zero_point=zero_point)
    tensor = graph.convolution(graph.pair("images", 0.02), 3, 24, stride=2)
    tensor = graph.node("MaxPool", [tensor], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    left = graph.convolution(graph.convolution(tensor, 24, 24, group=24, activation=""), 24, 58, 1)
    right = graph.convolution(graph.convolution(tensor, 24, 58, 1), 58, 58, 5, group=58)
    tensor = graph.shuffled([left, graph.convolution(right, 58, 58, 1)], 116, (14, 18))
    passing, taken = graph.halves(tensor, 58)
    tensor = graph.shuffled([passing, graph.convolution(taken, 58, 58, 1)], 116, (14, 18))
    small = graph.convolution(tensor, 116, 116, stride=2)
    total = graph.pair(graph.node("Add", [tensor, graph.pair(graph.resized(small, "linear"), 0.041)]), 0.053)
    floats = graph.convolution(total, 116, 32, 3, quantised=False, scale=0.037)
    graph.output(graph.convolution(graph.node("Concat", [total, total], axis=1), 232, 64), 64)
    graph.output(graph.convolution(floats, 32, 20, 5, stride=2), 20)
    assert_same(*outputs(graph.model(), gpu, kernel_folder, batch))


def test_detections_are_those_of_onnx_runtime() -> None:
    """Of the same file, node by node: as many, of the same classes, scores within 0.01."""
    path, spec = resolve_model("nanodet-g_416")
    model = load_model(path, spec)
    postprocessor = Postprocessor(model.spec, 0.3, 0.6)
    frame = packaged_frame()
    try:
        detector = open_cuda_detector(
            model, postprocessor, engine="auto", device="cuda", precision="auto", depth=2, batch=1
        )
    except EngineError as error:
        pytest.skip(str(error))
    with detector:
        assert (detector.info.name, detector.info.precision) == ("int8", "int8")
        detector.submit(frame)
        _, found, _ = detector.collect()
    image = normalised(model.spec, pixels(model.spec))
    output = run_whole(model.proto, image, ["output"])["output"]
    wanted = postprocessor(output[0], Letterbox.for_model(frame, model.spec))
    assert len(found) == len(wanted) > 0
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
    assert np.abs(found.scores - wanted.scores).max() < 0.01
    assert np.abs(found.boxes_xyxy - wanted.boxes_xyxy).max() < 3
