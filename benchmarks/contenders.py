"""What is measured: this program, and the loops that a competent user of its peers would write.

Every contender reads the same clip, finds objects with the same network at the same thresholds, draws them and writes
a video; all decode the network's output with `streamer.models.postprocess.Postprocessor`: only the plumbing differs.
"""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.machine import has_cpu_flag
from streamer.common.telemetry import without_telemetry
from streamer.frames.detections import Detections
from streamer.frames.palette import class_colour
from streamer.models.file import ModelFile
from streamer.models.graph.int8 import quantize_convolution_outputs, use_uint8
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

Image = npt.NDArray[np.uint8]
Tensor = npt.NDArray[np.float32]
Network = Callable[[Tensor], Tensor]
"""From (1, 3, H, W) float32, normalised, to the raw output (N, channels) float32."""

CONF, IOU = 0.4, 0.6
CODEC = "mp4v"
"""What the peers write: the codec that OpenCV's own packages can always encode."""


class Contender(abc.ABC):
    """One way to make an annotated video of a clip.

    Attributes:
        name: what it is called in the table.
        packages: import names of what it needs.
        wanted: how many times its frame rate this program is wanted to reach; None where nothing is asked.
    """

    name: str
    packages: tuple[str, ...] = ()
    wanted: float | None = None

    @abc.abstractmethod
    def run(self, clip: Path, output: Path) -> int:
        """Annotates `clip` into `output`, from opening the model to the closed file; returns the frames written."""

    def missing(self) -> tuple[str, ...]:
        """Returns those of `packages` that aren't installed."""
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)


class Streamer(Contender):
    """This program, as its command line runs it on the CPU: defaults throughout.

    Attributes:
        streaming_fps: of each run so far, frames over the time from the threads' start to the closed file: what its
            own report says, and what its bound is for, since opening the model is no stage.
    """

    name = "(a) nanodet-streamer"

    def __init__(self, model: str) -> None:
        self._model = model
        self.streaming_fps: list[float] = []

    def run(self, clip: Path, output: Path) -> int:
        from streamer.app.config import StreamConfig
        from streamer.app.run import run
        from streamer.sinks.spec import OutputSpec
        from streamer.sources.spec import SourceSpec

        report = run(
            StreamConfig(
                source=(SourceSpec.parse(str(clip)),),
                output=(OutputSpec.parse(str(output)),),
                model=self._model,
                device="cpu",
                conf=CONF,
                iou=IOU,
                pace="max",
                progress=False,
            )
        )
        self.streaming_fps.append(report.fps)
        return report.sources[0].frames_processed


@dataclass(frozen=True)
class Runtime:
    """An inference library as a user calls it, one frame at a time.

    Attributes:
        name: for the table, precision included.
        package: its import name.
        load: makes the network ready.
    """

    name: str
    package: str
    load: Callable[[], Network]


def _graph(model: ModelFile, *changes: Callable[[onnx.ModelProto], None]) -> bytes:
    """Returns the network for a peer: an INT8 one in the form that its runtime computes rightly and fastest."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if model.quantized:
        for change in changes:
            change(proto)
    return proto.SerializeToString()


def onnxruntime_of(model: ModelFile) -> Runtime:
    """Returns ONNX Runtime with default options."""
    graph = _graph(model, use_uint8, quantize_convolution_outputs)

    def load() -> Network:
        import onnxruntime as ort

        ort.set_default_logger_severity(3)  # it warns of every zero point that it folds away
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda image: session.run(None, {name: image})[0][0]

    return Runtime("ONNX Runtime " + ("int8" if model.quantized else "f32"), "onnxruntime", load)


def openvino_of(model: ModelFile, precision: str) -> Runtime:
    """Returns OpenVINO with default options, called synchronously.

    Args:
        model: the network.
        precision: what to compute in, as our own engine reports it: ``f32``, ``bf16``; ``int8`` is in the graph.
    """
    graph = _graph(model) if has_cpu_flag("amx_int8") else _graph(model, use_uint8)
    width, height = model.spec.input_size_wh

    def load() -> Network:
        with without_telemetry():
            import openvino as ov

        core = ov.Core()
        network = core.read_model(graph)
        network.reshape([1, 3, height, width])
        options = {} if precision == "int8" else {"INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(network, "CPU", options)
        return lambda image: compiled(image)[0][0]

    return Runtime(f"OpenVINO {precision}", "openvino", load)


class LoopBody:
    """What stands inside everyone's loop: a BGR frame in, the same frame with boxes drawn on it out."""

    def __init__(self, model: ModelFile, network: Network) -> None:
        self._spec = model.spec
        self._network = network
        self._decode = Postprocessor(model.spec, CONF, IOU)
        self._mean = np.array(model.spec.mean_bgr, np.float32)
        self._std = np.array(model.spec.std_bgr, np.float32)

    def __call__(self, frame: Image) -> Image:
        """Draws what is found onto `frame`, (H, W, 3) uint8 BGR, and returns it."""
        height, width = frame.shape[:2]
        letterbox = Letterbox.fit((width, height), self._spec.input_size_wh, self._spec.keep_ratio, self._spec.padding)
        output = self._network(self._preprocess(frame, letterbox))
        self._draw(frame, self._decode(output, letterbox))
        return frame

    def _preprocess(self, frame: Image, letterbox: Letterbox) -> Tensor:
        (left, top), (width, height) = letterbox.offset_xy, letterbox.resized_wh
        canvas = np.zeros((letterbox.input_wh[1], letterbox.input_wh[0], 3), np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(frame, (width, height))
        normalised = (canvas.astype(np.float32) - self._mean) / self._std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])

    def _draw(self, frame: Image, found: Detections) -> None:
        rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
        for box, score, class_id in rows:
            left, top, right, bottom = (round(edge) for edge in box)
            colour = class_colour(class_id)
            text = f"{self._spec.labels[class_id]} {score:.2f}"
            cv2.rectangle(frame, (left, top), (right, bottom), colour, 2)
            cv2.putText(frame, text, (left, max(12, top - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)


class Loop(Contender):
    """A peer's plumbing around the loop body."""

    title: str

    def __init__(self, model: ModelFile, runtime: Runtime, wanted: float | None = None) -> None:
        self.wanted = wanted
        self.name = f"{self.title}, {runtime.name}"
        self.packages = (*type(self).packages, runtime.package)
        self._model = model
        self._runtime = runtime

    def body(self) -> LoopBody:
        """Loads the network and returns the loop's body."""
        return LoopBody(self._model, self._runtime.load())


class TutorialLoop(Loop):
    """The loop of every tutorial: read, process, write, one after the other."""

    title = "(b) cv2 loop"

    def run(self, clip: Path, output: Path) -> int:
        body = self.body()
        capture = cv2.VideoCapture(str(clip))
        size_wh = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        fps = capture.get(cv2.CAP_PROP_FPS)
        writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*CODEC), fps, size_wh)
        frames = 0
        while True:
            grabbed, frame = capture.read()
            if not grabbed:
                break
            writer.write(body(np.asarray(frame, np.uint8)))
            frames += 1
        capture.release()
        writer.release()
        return frames


class SupervisionLoop(Loop):
    """`supervision.process_video`: it reads and writes (`mp4v`) on threads of its own."""

    title = "(c) supervision"
    packages = ("supervision",)

    def run(self, clip: Path, output: Path) -> int:
        import supervision

        body = self.body()
        frames = 0

        def callback(frame: Image, index: int) -> Image:
            nonlocal frames
            frames = index + 1
            return body(frame)

        supervision.process_video(source_path=str(clip), target_path=str(output), callback=callback)
        return frames


class VidgearLoop(Loop):
    """vidgear: CamGear reads on a thread, WriteGear writes in its non-compression mode (OpenCV's writer)."""

    title = "(d) vidgear"
    packages = ("vidgear",)

    def run(self, clip: Path, output: Path) -> int:
        from vidgear.gears import CamGear, WriteGear

        body = self.body()
        stream = CamGear(source=str(clip)).start()
        options: dict[str, Any] = {"-fourcc": CODEC, "-fps": stream.framerate}
        writer = WriteGear(output=str(output), compression_mode=False, **options)
        frames = 0
        while True:
            frame = stream.read()
            if frame is None:
                break
            writer.write(body(frame))
            frames += 1
        stream.stop()
        writer.close()
        return frames
