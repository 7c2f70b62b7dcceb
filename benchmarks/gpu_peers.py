"""What the GPU path is compared with: the CPU path, and the loop of tutorials on the same engine."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.gpu_parts import host_median_ms
from streamer.detector.cpu import CpuDetector
from streamer.engines import open_engine
from streamer.frames.frame import Frame
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

CONF, IOU = 0.4, 0.6


def cpu_path_ms(model: ModelFile, frame: Frame, repeats: int) -> tuple[float, str]:
    """Returns the median time of one frame on the CPU path with one frame in flight, and the engine that ran it."""
    engine = open_engine("auto", model, slots=1)
    with CpuDetector(model, engine, Postprocessor(model.spec, CONF, IOU)) as detector:

        def one() -> None:
            detector.submit(frame)
            detector.collect()

        return host_median_ms(one, repeats), f"{detector.info.name} {detector.info.precision}"


def tutorial_ms(model: ModelFile, frame: Frame, repeats: int) -> float:
    """Returns the median time of one frame in a blocking loop.

    Resize and normalise with OpenCV and NumPy, an ordinary copy to the GPU, the network in PyTorch FP16 as it comes
    (no graph, no compiling), the whole output back, decoding in NumPy.
    """
    from streamer.engines.torch_engine import rebuild

    spec = model.spec
    network = rebuild(model)
    network.sigmoid_scores = True
    network = network.half().cuda()
    decode = Postprocessor(spec, CONF, IOU)
    letterbox = Letterbox.for_model(frame, spec)
    (x, y), (w, h) = letterbox.offset_xy, letterbox.resized_wh
    mean, std = np.array(spec.mean_bgr, np.float32), np.array(spec.std_bgr, np.float32)

    def one() -> Any:
        canvas = np.zeros((spec.input_size_wh[1], spec.input_size_wh[0], 3), np.float32)
        canvas[y : y + h, x : x + w] = cv2.resize(frame.image, (w, h))
        blob = np.ascontiguousarray(((canvas - mean) / std).transpose(2, 0, 1)[None])
        with torch.inference_mode():
            output = network(torch.from_numpy(blob).cuda().half())
        return decode(output[0].float().cpu().numpy(), letterbox)

    return host_median_ms(one, repeats)
