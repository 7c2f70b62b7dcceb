"""The GPU path on a GPU: context, buffers, kernels, slots, the detector. Skipped where there is none."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.common.errors import EngineError, StreamerError
from streamer.cuda.engine import Binding, CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.kernels import CANDIDATE_CAPACITY, Kernels
from streamer.cuda.memory import DeviceBuffer, PinnedBuffer
from streamer.cuda.slot import CudaSlot
from streamer.cuda.staging import StagingPool
from streamer.detector.cuda import CudaDetector, open_cuda_detector
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv_matrix import Matrix
from streamer.models.file import ModelFile, load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from tests.real_gpu import opened_gpu
from tests.test_cuda_kernels import Planes, expected, frame_of, random_output
from tests.tiny import tiny_spec, write_tiny

pytestmark = pytest.mark.gpu
RNG = np.random.default_rng(5)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """GPU 0; the test must free its buffers."""
    with opened_gpu() as opened:
        yield opened
        gc.collect()
        assert opened.device_bytes == 0
        assert opened.pinned_bytes == 0


class FixedEngine(CudaEngine):
    """Always gives the same output, to test everything around an engine."""

    name = "fixed"
    precision = "none"

    def __init__(self, gpu: Gpu, output: np.ndarray, *, channels_last: bool = False, fail_at: int = -1) -> None:
        self.input_type = self.output_type = output.dtype
        self.channels_last = channels_last
        self.bound: list[FixedBinding] = []
        self.closed = 0
        self._fail_at = fail_at
        self._source = DeviceBuffer(gpu, output.nbytes)
        self._source.write(np.ascontiguousarray(output))

    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> Binding:
        if len(self.bound) == self._fail_at:
            raise EngineError("refused by the test")
        self.bound.append(FixedBinding(self._source, output_address, stream))
        return self.bound[-1]

    def close(self) -> None:
        self.closed += 1
        self._source.free()


class FixedBinding(Binding):
    def __init__(self, source: DeviceBuffer, target: int, stream: int) -> None:
        super().__init__(stream)
        self._source, self._target = source, target
        self.closed = False

    def enqueue(self) -> None:
        copy = ctypes.CDLL("libcuda.so.1").cuMemcpyDtoDAsync_v2
        copy.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p)
        assert copy(self._target, self._source.address, self._source.nbytes, self.stream) == 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    """A tiny model file."""
    return load_model(write_tiny(tmp_path / "tiny.onnx"))


def test_buffers_round_trip_and_are_counted(gpu: Gpu) -> None:
    device, pinned = DeviceBuffer(gpu, 1000), PinnedBuffer(gpu, 500)
    assert (gpu.device_bytes, gpu.pinned_bytes) == (1000, 500)
    zeros = np.full(1000, 7, np.uint8)
    device.read(zeros)
    assert not zeros.any()
    pinned.array[:] = np.arange(500) % 256
    device.write(pinned.array)
    got = np.empty(500, np.uint8)
    device.read(got)
    np.testing.assert_array_equal(got, np.arange(500) % 256)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        device.write(np.zeros(1001, np.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        device.read(np.zeros((10, 10), np.uint8)[:, ::2])
    for buffer in (device, pinned):
        buffer.free()
        buffer.free()


def test_too_much_memory_is_an_error(gpu: Gpu) -> None:
    with pytest.raises(EngineError, match=r"allocate .* MB of GPU memory.*out of memory.*lower --depth"):
        DeviceBuffer(gpu, 1 << 46)


def test_no_such_gpu(gpu: Gpu) -> None:
    with pytest.raises(EngineError, match="there is no GPU 99: this machine has"):
        Gpu(99)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("graphed", [True, False])
def test_a_slot_preprocesses_and_decodes(
    gpu: Gpu, dtype: type, channels_last: bool, graphed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not graphed:
        monkeypatch.setattr(FixedBinding, "capture", lambda self, body: None)
    spec = tiny_spec().with_input_size((96, 64))
    outputs = np.stack([random_output(spec, lambda s: RNG.random(s) ** 8, dtype) for _ in range(3)])
    frames = [
        frame_of(RNG.integers(0, 256, (480, 640, 3), np.uint8)),
        frame_of(Planes((1920, 1080), Matrix.BT709, False)),
        frame_of(RNG.integers(0, 256, (33, 21, 3), np.uint8)),
    ]
    engine = FixedEngine(gpu, outputs, channels_last=channels_last)
    kernels = Kernels(gpu, engine, Postprocessor(spec))
    slot = CudaSlot(gpu, engine, kernels, (3,))
    pool = StagingPool(gpu, 6)
    for _ in range(2):
        staged = []
        for index, frame in enumerate(frames):
            letterbox = Letterbox.fit(frame.size_wh, spec.input_size_wh, spec.keep_ratio)
            one = pool.stage(frame, letterbox)
            assert one is not None
            staged.append(one)
            slot.put(index, one)
        slot.start()
        assert slot.wait() > 0
        made = slot.network_input().reshape(3, 64, 96, 3) if channels_last else None
        if made is None:
            made = slot.network_input().reshape(3, 3, 64, 96).transpose(0, 2, 3, 1)
        for index, frame in enumerate(frames):
            levels = made[index].astype(np.float32) * np.array(spec.std_bgr) + np.array(spec.mean_bgr)
            difference = np.abs(levels - expected(frame, spec.input_size_wh, spec.keep_ratio))
            assert difference.mean() <= 0.5
            assert difference.max() <= 1.2
            letterbox = Letterbox.fit(frame.size_wh, spec.input_size_wh, spec.keep_ratio)
            wanted = Postprocessor(spec, 0.4)(outputs[index].astype(np.float32), letterbox)
            got = slot.detections(index)
            assert got is not None
            assert len(got) > 0
            np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
            np.testing.assert_array_equal(got.scores, wanted.scores)
            np.testing.assert_allclose(got.boxes_xyxy, wanted.boxes_xyxy, atol=0.02)
            np.testing.assert_array_equal(slot.output(index), outputs[index].astype(np.float32))
        del staged, one
    slot.close()
    slot.close()
    assert engine.bound[0].closed
    engine.close()
    kernels.close()
    pool.close()


def detector_of(gpu: Gpu, model: ModelFile, output: np.ndarray, slots: int, conf: float = 0.4) -> CudaDetector:
    return CudaDetector(model, gpu, FixedEngine(gpu, output), Postprocessor(model.spec, conf), slots=slots)


def test_scores_by_class_and_what_is_kept_are_those_of_the_cpu(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 20, np.float16)[None]
    thresholds = np.linspace(0.3, 0.95, model.spec.num_classes, dtype=np.float32)

    def keep(detections: Detections, size_wh: tuple[int, int]) -> Detections:
        return detections.where(detections.boxes_xyxy[:, 0] > size_wh[0] / 4)

    postprocess = Postprocessor(model.spec, thresholds, 0.6, None, keep)
    detector = CudaDetector(model, gpu, FixedEngine(gpu, output), postprocess, slots=2)
    frame = Frame(RNG.integers(0, 256, (480, 640, 3), np.uint8), "s", 0, 0.0, 0.0)
    (found,) = (detections for _, detections in detector.stream([frame]))
    letterbox = Letterbox.fit(frame.size_wh, model.spec.input_size_wh, model.spec.keep_ratio)
    wanted = postprocess(output[0].astype(np.float32), letterbox)
    assert 0 < len(found) < 100
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    detector.close()


def test_the_detector_keeps_order_and_count(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 8, np.float16)[None]
    detector = detector_of(gpu, model, output, 3)
    frames = [Frame(RNG.integers(0, 256, (40 + i, 60, 3), np.uint8), "s", i, 0.0, 0.0) for i in range(10)]
    with pytest.raises(ValueError, match="no frame is in flight"):
        detector.collect()
    for frame in frames[:3]:
        detector.submit(frame)
    assert detector.in_flight == 3
    with pytest.raises(ValueError, match="3 frames in flight"):
        detector.submit(frames[3])
    assert detector.collect()[0] is frames[0]
    with pytest.raises(ValueError, match="wanted no frame in flight, there are 2"):
        detector.raw_output(frames[0])
    assert [detector.collect()[0].index for _ in range(2)] == [1, 2]
    np.testing.assert_array_equal(detector.raw_output(frames[0]), output[0].astype(np.float32))
    for frame, detections in detector.stream(frames):
        letterbox = Letterbox.fit(frame.size_wh, model.spec.input_size_wh, model.spec.keep_ratio)
        wanted = Postprocessor(model.spec, 0.4)(output[0].astype(np.float32), letterbox)
        np.testing.assert_allclose(detections.boxes_xyxy, wanted.boxes_xyxy, atol=0.02)
    detector.close()
    detector.close()


def test_frames_may_be_prepared_on_another_thread_and_dropped(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 8, np.float16)[None]
    detector = detector_of(gpu, model, output, 2)

    def frames(count: int) -> list[Frame]:
        made = [Frame(RNG.integers(0, 256, (300, 400, 3), np.uint8), "s", i, 0.0, 0.0) for i in range(count)]
        thread = threading.Thread(target=lambda: [detector.prepare(frame) for frame in made])
        thread.start()
        thread.join()
        return made

    frames(2)
    held = detector.pinned_bytes
    for _ in range(20):
        dropped = frames(2)
        assert detector.pinned_bytes == held
        del dropped
    for frame, _ in detector.stream(frames(4)):
        assert frame.source == "s"
    many = frames(60)  # more than there are buffers: the rest is staged by submit
    assert [frame.index for frame, _ in detector.stream(many)] == list(range(60))
    del many, frame
    detector.close()


def test_a_detector_is_made_used_and_closed_on_different_threads(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 8, np.float16)[None]
    detector = detector_of(gpu, model, output, 2)
    failures: list[BaseException] = []

    def guarded(body: Any) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    def use() -> None:
        frames = [Frame(np.zeros((40, 60, 3), np.uint8), "s", i, 0.0, 0.0) for i in range(5)]
        assert len(list(detector.stream(frames))) == 5

    for body in (use, detector.close):
        thread = threading.Thread(target=guarded, args=(body,))
        thread.start()
        thread.join()
    assert not failures


def test_more_candidates_than_the_capacity_go_to_the_reference(gpu: Gpu, tmp_path: Path) -> None:
    spec = tiny_spec().with_input_size((640, 640))
    model = load_model(write_tiny(tmp_path / "wide.onnx", spec))
    output = random_output(spec, lambda s: np.full(s, 0.5) + RNG.random(s) / 8, np.float32)[None]
    assert spec.num_points * spec.num_classes > CANDIDATE_CAPACITY
    detector = detector_of(gpu, model, output, 2, conf=0.2)
    frame = frame_of(np.zeros((480, 640, 3), np.uint8))
    detector.submit(frame)
    got = detector.collect()[1]
    wanted = Postprocessor(spec, 0.2)(output[0], Letterbox.fit((640, 480), (640, 640), spec.keep_ratio))
    np.testing.assert_array_equal(got.class_ids, wanted.class_ids)
    detector.close()


@pytest.mark.parametrize("channel", [0, -1])
def test_an_output_that_is_not_finite_is_an_error(gpu: Gpu, model: ModelFile, channel: int) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 8, np.float16)[None]
    output[0, -1, channel] = np.nan
    detector = detector_of(gpu, model, output, 2)
    detector.submit(frame_of(np.zeros((48, 64, 3), np.uint8)))
    with pytest.raises(EngineError, match="NaN or Inf"):
        detector.collect()
    detector.close()


def test_a_failed_opening_frees_everything(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s), np.float32)[None]
    engine = FixedEngine(gpu, output, fail_at=1)
    with pytest.raises(EngineError, match="refused by the test"):
        CudaDetector(model, gpu, engine, Postprocessor(model.spec), slots=3)
    assert engine.closed == 1


def test_nothing_grows(gpu: Gpu, model: ModelFile) -> None:
    output = random_output(model.spec, lambda s: RNG.random(s) ** 8, np.float16)[None]
    frames = [Frame(RNG.integers(0, 256, (h, 400, 3), np.uint8), "s", h, 0.0, 0.0) for h in (300, 200, 260)] * 20
    with detector_of(gpu, model, output, 3) as detector:
        list(detector.stream(frames))
        before = (gpu.device_bytes, gpu.pinned_bytes)
        used = gpu.memory_used()  # of all programs: others on this GPU are in it
        list(detector.stream(frames * 10))
        assert (gpu.device_bytes, gpu.pinned_bytes) == before
        assert gpu.memory_used() <= used
        del frames


def test_torch_on_the_gpu_finds_what_the_cpu_finds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA")
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from streamer.models.zoo import resolve_model

    path, spec = resolve_model("nanodet-g_416_float")
    model = load_model(path, spec)
    spec = model.spec
    kwargs: dict[str, Any] = {"device": "cuda", "depth": 2}
    session = ort.InferenceSession(model.with_uint8_input(), providers=["CPUExecutionProvider"])
    image = np.clip(RNG.normal(120, 60, (480, 640, 3)), 0, 255).astype(np.uint8)
    for precision, tolerance in (("f32", 0.02), ("f16", 0.05)):
        with open_cuda_detector(model, Postprocessor(spec), engine="torch", precision=precision, **kwargs) as detector:
            frame = frame_of(image)
            letterbox = Letterbox.fit(frame.size_wh, spec.input_size_wh, spec.keep_ratio)
            pixels = np.zeros((1, spec.input_size_wh[1], spec.input_size_wh[0], 3), np.uint8)
            letterbox.apply(frame, pixels[0])
            (wanted,) = session.run(None, {"frames": pixels})
            got = detector.raw_output(frame)
            np.testing.assert_allclose(got[:, : spec.num_classes], wanted[0, :, : spec.num_classes], atol=tolerance)
            assert detector.info.precision == precision


def test_tensorrt_runs_or_gives_a_reason(model: ModelFile) -> None:
    try:
        opened = open_cuda_detector(
            model, Postprocessor(model.spec), engine="tensorrt", device="cuda", precision="auto", depth=2
        )
    except StreamerError as error:
        assert str(error)
        return
    opened.close()
