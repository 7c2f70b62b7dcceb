"""ONNX graph to engine: one piece of code for TensorRT 10 and 11 and for TensorRT-RTX."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from streamer.common.atomic_file import whole_file
from streamer.common.errors import ConfigError, EngineError
from streamer.engines.tensorrt.graph import check_quantization, to_float16
from streamer.engines.tensorrt.layers import Layer, parse_layers
from streamer.engines.tensorrt.log import BuildLog, shared_logger
from streamer.engines.tensorrt.options import BuildOptions, fingerprint
from streamer.engines.tensorrt.package import TensorRTPackage, choose_targets, known_targets, load_flavour, present_gpu

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called while building with the builder's word for the phase, the steps done and the steps in all."""

_MIB = 1 << 20


@dataclass(frozen=True)
class Port:
    """An input or output of an engine; -1 is a dimension that may vary."""

    name: str
    precision: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """A built engine.

    Attributes:
        data: what `Runtime.deserialize_cuda_engine` takes.
        fingerprint: what it was made of; see `streamer.engines.tensorrt.options.fingerprint`.
        inputs: one, float32 normalised NCHW.
        outputs: one, float32.
        layers: its kernels, as far as the builder tells.
        warnings: of the parser and the builder, one line each, repeated ones once.
    """

    data: bytes
    fingerprint: dict[str, Any]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """One build, before it is done: the model, the package that builds it, and the fingerprint the engine will have."""

    model: ModelFile
    flavour: TensorRTPackage
    trt: Any
    targets: tuple[str, ...]
    options: BuildOptions
    fingerprint: dict[str, Any]


def plan(model: ModelFile, flavour: TensorRTPackage, options: BuildOptions, *, device: int = 0) -> Job:
    """Settles what is to be built, without building it.

    Args:
        model: what to build.
        flavour: the package that builds.
        options: how to build.
        device: number of the GPU that is meant where `options` names no architecture.

    Raises:
        EngineError: the package isn't installed, or there is no GPU to build for.
        ConfigError: the package doesn't build for a wanted architecture.
    """
    trt = load_flavour(flavour)
    gpu = present_gpu(device)
    targets = choose_targets(flavour, trt, options.targets, gpu)
    return Job(model, flavour, trt, targets, options, fingerprint(model, flavour, trt, targets, options, gpu))


def build_engine(job: Job, *, timing_cache: Path | None = None, on_progress: Progress | None = None) -> BuiltEngine:
    """Builds an engine: float32 NCHW in, batch from 1 to `max_batch`, float32 out.

    Args:
        job: from `plan`.
        timing_cache: file that remembers kernel timings from build to build, for packages that have such.
        on_progress: told how far it is; called in this thread.

    Raises:
        ModelError: the graph holds Q/DQ nodes TensorRT can't take, or can't be cast to FP16.
        ConfigError: an option this package doesn't have, or a batch that doesn't fit the graph.
        EngineError: the parser or the builder refuses the graph; its first error, in one line.
    """
    trt, options, name = job.trt, job.options, job.model.path.name
    check_quantization(job.model.proto, name)
    proto = to_float16(job.model.proto, name) if options.fp16 else job.model.proto
    logger = shared_logger(trt)
    with logger.capture() as said, _Interruption() as interruption:
        builder = trt.Builder(logger)
        network = builder.create_network(_creation_flags(trt))
        parser = trt.OnnxParser(network, logger)  # holds the weights until the engine is built
        _parse(parser, network, proto.SerializeToString(), said, name)
        config = _configure(job, builder)
        config.add_optimization_profile(_profile(job, builder, network))
        remembered = _load_timings(config, timing_cache) if job.flavour.has_timing_cache else None
        monitor = _monitor_class(trt)(interruption, on_progress)
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        interruption.raise_if_any()
        if serialized is None:
            raise EngineError(f"{_package(job)} can't build {name}: {said.first_error()}")
        if remembered is not None and timing_cache is not None:
            _save_timings(config, timing_cache)
        inputs = tuple(_port(trt, network.get_input(i)) for i in range(network.num_inputs))
        outputs = tuple(_port(trt, network.get_output(i)) for i in range(network.num_outputs))
        data = bytes(serialized)
    warnings = tuple(dict.fromkeys(" ".join(warning.split()) for warning in said.warnings))
    return BuiltEngine(data, job.fingerprint, inputs, outputs, parse_layers(said.layers), warnings)


def _package(job: Job) -> str:
    return f"{job.flavour.value} {job.trt.__version__}"


def _creation_flags(trt: Any) -> int:
    """Strong typing is a flag in 10, and the only way, with the flag kept for old callers, in 11."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(parser: Any, network: Any, content: bytes, said: BuildLog, name: str) -> None:
    if not parser.parse(content):
        reason = said.first_error()
        if parser.num_errors:
            error = parser.get_error(0)
            lines = [line.strip() for line in error.desc().splitlines() if "cudaError" not in line]
            reason = f"node {error.node_name()!r} ({error.node_operator()}): {' '.join(filter(None, lines))}"
        raise EngineError(f"TensorRT's parser refuses {name}: {reason}")
    if network.num_inputs != 1 or not network.num_outputs:
        raise EngineError(f"TensorRT's parser found no network in {name}")


def _configure(job: Job, builder: Any) -> Any:
    trt, options = job.trt, job.options
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT-RTX: without it no CUDA graph can be taken
    if known_targets(trt) is not None:
        # the number first: before it is set, set_compute_capability changes nothing and returns False
        config.num_compute_capabilities = len(job.targets)
        for index, target in enumerate(job.targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                raise EngineError(f"{_package(job)} does not take {target} as a target")
    if options.version_compatible:
        if not job.flavour.has_version_compatibility:
            raise ConfigError(f"{_package(job)} has no version-compatible engines: leave --version-compatible out")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level != level:
            raise ConfigError(
                f"{_package(job)} has no hardware-compatible engines: leave --hardware-compatible out and name every"
                " architecture with --target"
            )
    return config


def _profile(job: Job, builder: Any, network: Any) -> Any:
    image = network.get_input(0)
    width, height = job.model.spec.input_size_wh
    most = job.options.max_batch
    fixed = next(iter(image.shape))
    if fixed not in (-1, most):
        raise ConfigError(f"{job.model.path.name} has a fixed batch of {fixed}: max_batch {most} doesn't fit it")
    profile = builder.create_optimization_profile()
    least, largest = ((batch, 3, height, width) for batch in (most if fixed == most else 1, most))
    profile.set_shape(image.name, least, largest, largest)
    return profile


def _port(trt: Any, tensor: Any) -> Port:
    names = {trt.float32: "FP32", trt.float16: "FP16"}
    return Port(tensor.name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _load_timings(config: Any, path: Path | None) -> Any:
    """Gives the builder what earlier builds measured; a file of another version or GPU is passed over by TensorRT."""
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _save_timings(config: Any, path: Path) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        log.warning("can't keep kernel timings in %s: %s", path, error.strerror or error)


class _Interruption:
    """Holds back Ctrl-C while C++ calls Python, where an exception would end the process, and raises it afterwards."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def raise_if_any(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.failure = KeyboardInterrupt()

    def __enter__(self) -> _Interruption:
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main and self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self, interruption: _Interruption, on_progress: Progress | None) -> None:
            trt.IProgressMonitor.__init__(self)
            self._interruption = interruption
            self._on_progress = on_progress
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self._on_progress is not None and self._interruption.failure is None:
                try:
                    self._on_progress(phase_name, step + 1, self._steps.get(phase_name, 0))
                except Exception as error:
                    self._interruption.failure = error
            return self._interruption.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor
