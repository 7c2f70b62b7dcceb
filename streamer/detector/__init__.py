"""Opening a detector: model name or file, engine and thresholds in, detector out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from streamer.common.errors import ConfigError, EngineError, StreamerError, nearest, short

if TYPE_CHECKING:
    from streamer.detector.base import Detector

log = logging.getLogger(__name__)

DEFAULT_MODEL = "nanodet-g_416"
MAX_DEPTH = 256


def open_detector(
    model: str | Path = DEFAULT_MODEL,
    *,
    model_config: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    conf: float = 0.4,
    iou: float = 0.6,
    classes: Sequence[str] | None = None,
    depth: int | None = None,
    batch: int | Literal["auto"] | None = None,
    streams: int = 1,
    live: bool = True,
    threads: int | None = None,
    self_check: bool = True,
) -> Detector:
    """Opens a detector.

    Args:
        model: a name of ``--list models`` or an ONNX file.
        model_config: YAML description of a foreign ONNX file.
        engine: ``openvino`` or ``onnxruntime`` on the CPU, ``tensorrt`` or ``torch`` on a GPU; ``auto`` takes a GPU's
            where one works (why not is logged), else the first of a CPU's that computes the model rightly. An engine
            asked for by name is never replaced.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``f32``, ``bf16`` (CPU) or ``f16`` (GPU).
        conf: least score to keep, 0 to 1.
        iou: overlap above which the weaker of two boxes of one class is dropped, 0 to 1.
        classes: labels to keep; None keeps all.
        depth: batches in flight, at most `MAX_DEPTH`; None takes two for each core, which is best for throughput; 1
            is best for latency.
        batch: frames of several streams to compute together: on a GPU in one call, on a CPU, where that gains nothing,
            as so many requests side by side (`depth`, where that is None). ``auto`` measures what is best, once for a
            model and machine; None takes frames one by one.
        streams: how many streams there will be: no larger batch than they can fill is tried.
        live: whether a frame's delay matters; without, ``auto`` on a CPU takes two requests for each core.
        threads: cores to use; None uses all this process may run on.
        self_check: run the model once on a packaged picture, and refuse an engine whose detections aren't those in the
            file, or, for a file that holds none, whose output isn't that of the untouched file.

    Raises:
        ConfigError: if an argument is out of range or names something unknown.
        ModelError: if the model can't be had or isn't a NanoDet.
        EngineError: if the engine isn't installed, refuses the model, or computes it wrongly.
    """
    from streamer.cuda.gpu import parse_device
    from streamer.detector.cpu import PER_CORE, CpuDetector, open_tuned
    from streamer.detector.cuda import GPU_ENGINES, open_cuda_detector
    from streamer.engines import ENGINE_NAMES, installed_engines, open_engine
    from streamer.engines.base import available_cores
    from streamer.models.file import load_model
    from streamer.models.postprocess import Postprocessor
    from streamer.models.spec import ModelSpec
    from streamer.models.zoo import resolve_model

    for name, value in (("conf", conf), ("iou", iou)):
        if not 0 <= value <= 1:
            raise ConfigError(f"--{name} wants a number from 0 to 1, got {value:g}")
    for name, count in (("depth", depth), ("batch", batch)):
        if isinstance(count, int) and not 1 <= count <= MAX_DEPTH:
            raise ConfigError(f"{name} wants 1 to {MAX_DEPTH} frames, got {count}")
    known = ("auto", *ENGINE_NAMES, *GPU_ENGINES)
    if engine not in known:
        raise ConfigError(f"unknown engine {short(engine)}{nearest(engine, known)} (known: {', '.join(known)})")
    if device not in ("auto", "cpu"):
        parse_device(device)
    if device == "cpu" and engine in GPU_ENGINES:
        raise ConfigError(f"the engine {engine!r} runs on a GPU: use --device cuda, or --engine auto")
    if device not in ("auto", "cpu") and engine in ENGINE_NAMES:
        raise ConfigError(f"the engine {engine!r} runs on the CPU: use --device cpu, or --engine auto")
    path, described_by = resolve_model(str(model))
    spec = ModelSpec.from_yaml(model_config) if model_config else described_by
    loaded = load_model(path, spec)
    wanted = class_ids(classes, loaded.spec.labels)
    if device != "cpu" and engine not in ENGINE_NAMES:
        try:
            return open_cuda_detector(
                loaded,
                engine=engine,
                device=device,
                precision=precision,
                conf=conf,
                iou=iou,
                class_ids=wanted,
                depth=depth,
                batch=batch,
                streams=streams,
                self_check=self_check,
            )
        except StreamerError as error:
            if (engine, device) != ("auto", "auto"):
                raise
            log.info("running on the CPU, not on a GPU: %s", error)

    def open_with(name: str) -> CpuDetector:
        def open_one(requests: int) -> CpuDetector:
            runner = open_engine(name, loaded, slots=requests, precision=precision, threads=threads)
            return CpuDetector(loaded, runner, Postprocessor(loaded.spec, conf, iou, wanted))

        for_throughput = batch is None or (batch == "auto" and not live)
        requests = depth or (PER_CORE * available_cores() if for_throughput else batch)
        if isinstance(requests, int):
            detector = open_one(requests)
        else:
            detector = open_tuned(open_one, streams, (loaded.sha256, name, precision, threads))
        if self_check:
            try:
                detector.check()
            except BaseException:
                detector.close()
                raise
        return detector

    candidates = [name for name, missing in installed_engines().items() if missing is None] if engine == "auto" else []
    for name, other in pairwise(candidates):
        try:
            return open_with(name)
        except EngineError as error:
            log.warning("%s; using %s", error, other)
    return open_with(candidates[-1] if candidates else engine)


def class_ids(classes: Sequence[str] | None, labels: Sequence[str]) -> set[int] | None:
    """Returns the ids of the named classes, or None for None.

    Raises:
        ConfigError: if there is no name, or one isn't among `labels`; the nearest are offered.
    """
    if classes is None:
        return None
    if not classes:
        raise ConfigError("classes wants at least one label, such as person; leave it out to detect all")
    for name in classes:
        if name not in labels:
            raise ConfigError(f"the model knows no class {name!r}{nearest(name, labels)}")
    return {labels.index(name) for name in classes}
