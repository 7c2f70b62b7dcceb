"""Opening a detector: model name or file, engine and thresholds in, detector out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from streamer.common.errors import ConfigError, EngineError, StreamerError, nearest, short
from streamer.detector.filter_options import DEFAULT_CONF, BoxSize, ClassThresholds, filter_options

if TYPE_CHECKING:
    from streamer.detector.base import Detector
    from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

DEFAULT_MODEL = "nanodet-g_416"
MAX_DEPTH = 256


class DetectorOptions(TypedDict, total=False):
    """The arguments of `open_detector` that are the same on every GPU."""

    model_config: str | Path | None
    engine: str
    precision: str
    conf: float | str | Mapping[str, float] | ClassThresholds
    iou: float
    classes: Sequence[str] | None
    min_size: float | str | BoxSize | None
    max_size: float | str | BoxSize | None
    ignore: object
    ignore_at: Literal["bottom", "centre"]
    top_k: int | None
    depth: int | None
    batch: int | Literal["auto"] | None
    live: bool
    threads: int | None
    self_check: bool


def open_detector(
    model: str | Path = DEFAULT_MODEL,
    *,
    model_config: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    conf: float | str | Mapping[str, float] | ClassThresholds = DEFAULT_CONF,
    iou: float = 0.6,
    classes: Sequence[str] | None = None,
    min_size: float | str | BoxSize | None = None,
    max_size: float | str | BoxSize | None = None,
    ignore: object = None,
    ignore_at: Literal["bottom", "centre"] = "bottom",
    top_k: int | None = None,
    depth: int | None = None,
    batch: int | Literal["auto"] | None = None,
    streams: int = 1,
    live: bool = True,
    threads: int | None = None,
    self_check: bool = True,
) -> Detector:
    """Opens a detector.

    Example::

        with open_detector() as detector, open_source("sample") as source:
            for frame, detections in detector.stream(source):
                print(frame.index, len(detections))

    Args:
        model: a name of ``--list models`` or an ONNX file.
        model_config: YAML description of a foreign ONNX file.
        engine: ``openvino`` or ``onnxruntime`` on the CPU, ``tensorrt`` or ``torch`` on a GPU; ``auto`` takes a GPU's
            where one works, else the first CPU engine that computes the model correctly. Where a preferred one is
            installed, or there is a GPU (see `expects_gpu`), and it can't be used, a warning and the detector's
            `info.fallbacks` say why. An engine asked for by name is never replaced.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``f32``, ``bf16`` (CPU) or ``f16`` (GPU).
        conf: lowest score to keep, 0 to 1; of each class as ``{"person": 0.5, "default": 0.3}`` or
            ``"person=0.5,0.3"``.
        iou: overlap above which the weaker of two boxes of one class is dropped, 0 to 1.
        classes: labels to keep, in any case, or their numbers as text; None keeps all.
        min_size, max_size: of boxes, both sides or ``"WxH"``, in pixels of the frame, up to 1 as fractions of it.
        ignore: areas as `parse_areas` takes them: boxes that stand in one are dropped.
        ignore_at: the point of a box that counts for `ignore`: the middle of its lower edge, or its ``centre``.
        top_k: the most detections of a frame, best first.
        depth: batches in flight, at most `MAX_DEPTH`; None takes the engine's number for throughput; 1 is best for
            latency.
        batch: frames of several streams to compute together: on a GPU in one call, on a CPU, where that gains nothing,
            as that many parallel requests (`depth`, where that is None). ``auto`` measures what is best, once for a
            model and machine; None takes frames one by one.
        streams: how many streams there will be: no larger batch than they can fill is tried.
        live: whether a frame's delay matters; if not, ``auto`` on a CPU takes the engine's number for throughput.
        threads: cores to use; None uses all that this process may run on.
        self_check: run the model once on a packaged picture and refuse an engine whose detections differ from those
            stored in the file, or, for a file that stores none, whose output differs from the untouched file's.

    Raises:
        ConfigError: if an argument is out of range or names something unknown.
        ModelError: if the model isn't available or isn't a NanoDet.
        EngineError: if the engine isn't installed, refuses the model, or computes it wrongly.
    """
    from streamer.cuda.early_context import early_context
    from streamer.engines import ENGINE_NAMES, installed_engines

    with early_context("cpu" if engine in ENGINE_NAMES else device):
        from streamer.cuda.gpu import expects_gpu, load_pycuda, parse_device
        from streamer.detector.cpu import open_cpu_detector
        from streamer.engines.gpu_engines import GPU_ENGINES
        from streamer.models.postprocess import Postprocessor
        from streamer.models.spec import ModelSpec
        from streamer.models.zoo import resolve_model

        for name, value in (("conf", conf), ("iou", iou)):
            if isinstance(value, (int, float)) and not 0 <= value <= 1:
                raise ConfigError(f"--{name} wants a number from 0 to 1, got {value:g}")
        wanted = filter_options(
            conf=conf, classes=classes, min_size=min_size, max_size=max_size, ignore=ignore, ignore_at=ignore_at,
            top_k=top_k,
        )  # fmt: skip
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

        @cache
        def loaded() -> ModelFile:
            from streamer.models.file import load_model

            return load_model(path, spec)

        def postprocessor_for(described: ModelSpec) -> Postprocessor:
            from streamer.detector.detection_filter import DetectionFilter, thresholds_by_id

            labels, rest = described.labels, wanted.conf.default
            lowest = thresholds_by_id(wanted.conf, None, labels) if wanted.conf.by_class else rest
            keep = DetectionFilter(wanted, labels) if wanted.drops_more else None
            return Postprocessor(described, lowest, iou, class_ids(classes, labels), keep)

        fallbacks: list[str] = []
        if device != "cpu" and engine not in ENGINE_NAMES:
            try:
                load_pycuda()  # before what takes longer: the model and the modules for GPUs
                from streamer.detector.cuda import open_cuda_detector

                return open_cuda_detector(
                    loaded(), postprocessor_for(loaded().spec), engine=engine, device=device, precision=precision,
                    depth=depth, batch=batch, streams=streams, self_check=self_check,
                )  # fmt: skip
            except StreamerError as error:
                if (engine, device) != ("auto", "auto"):
                    raise
                if expects_gpu():
                    log.warning("running on the CPU, not on a GPU: %s (--device cpu says that this is wanted)", error)
                    fallbacks.append(f"GPU: {error}")
                else:
                    log.debug("running on the CPU, not on a GPU: %s", error)

    def open_with(name: str) -> Detector:
        detector = open_cpu_detector(
            name, path, spec, loaded, postprocessor_for, precision=precision, depth=depth, batch=batch,
            streams=streams, live=live, threads=threads, self_check=self_check,
        )  # fmt: skip
        detector.info = replace(detector.info, fallbacks=tuple(fallbacks))
        return detector

    candidates = [name for name, missing in installed_engines().items() if missing is None] if engine == "auto" else []
    for name, other in pairwise(candidates):
        try:
            return open_with(name)
        except EngineError as error:
            log.warning("%s; using %s", error, other)
            fallbacks.append(f"{name}: {error}")
    return open_with(candidates[-1] if candidates else engine)


def open_detectors(
    model: str | Path, *, device: str = "auto", streams: int = 1, **options: Unpack[DetectorOptions]
) -> list[Detector]:
    """Opens a detector on each of several GPUs, or one; see `open_detector` for the arguments and what it raises.

    `device` may also be several GPUs with commas between, such as ``cuda:0,cuda:1``, or ``cuda:*``, all that work;
    `streams` is the number for all.
    """
    from streamer.cuda.gpu import EVERY_GPU, parse_devices

    if device in ("auto", "cpu"):
        return [open_detector(model, device=device, streams=streams, **options)]
    numbers = parse_devices(device)
    each = max(1, -(-streams // len(numbers)))
    opened: list[Detector] = []
    with ExitStack() as stack:
        for number in numbers:
            try:
                detector = open_detector(model, device=f"cuda:{number}", streams=each, **options)
            except EngineError as error:
                if device != EVERY_GPU or (not opened and number == numbers[-1]):
                    raise
                log.warning("cuda:%d can't be used: %s", number, error)
            else:
                opened.append(stack.enter_context(detector))
        stack.pop_all()
    return opened


def class_ids(classes: Sequence[str] | None, labels: Sequence[str]) -> set[int] | None:
    """Returns the ids of classes given by label, in any case, or by number; None for None.

    A label as it is written comes first, so that classes may be labelled ``1`` or differ in their case alone.

    Raises:
        ConfigError: if `classes` is empty, or one isn't among `labels`; the nearest label is offered.
    """
    if classes is None:
        return None
    if not classes:
        raise ConfigError("classes wants at least one label, such as person; leave it out to detect all")
    return {_class_id(name, labels) for name in classes}


def _class_id(name: str, labels: Sequence[str]) -> int:
    if name in labels:
        return labels.index(name)
    alike = [number for number, label in enumerate(labels) if label.casefold() == name.strip().casefold()]
    if len(alike) > 1:
        raise ConfigError(
            f"class {name!r} could be {' or '.join(repr(labels[number]) for number in alike)}: choose one"
        )
    if alike:
        return alike[0]
    if name.isascii() and name.isdecimal():
        if int(name) < len(labels):
            return int(name)
        raise ConfigError(
            f"the model has no class {name}: its {len(labels)} classes have the numbers 0 to {len(labels) - 1}"
        )
    raise ConfigError(f"the model knows no class {name!r}{nearest(name, labels)}")
