"""ONNX graph to engine, for TensorRT 10 and 11 and for TensorRT-RTX."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ConfigError, EngineError
from streamer.engines.tensorrt.graph import check_quantization, to_float16
from streamer.engines.tensorrt.layers import Layer, parse_layers, read_layers
from streamer.engines.tensorrt.loading import deserialize
from streamer.engines.tensorrt.log import BuildLog, shared_logger
from streamer.engines.tensorrt.options import BuildOptions, contains_code, fingerprint
from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage, choose_targets, known_targets, present_gpu

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called during a build, in its thread, with the builder's name for the phase, the steps done and all its steps."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine; -1 is a dimension that varies."""

    name: str
    precision: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineReport:
    """The description beside an engine file, as JSON.

    Attributes:
        sha256: of the engine's bytes, in hex.
        size_bytes: their number.
        fingerprint: see `streamer.engines.tensorrt.options.fingerprint`.
        metadata: the ONNX file's own.
        inputs: one, float32 normalised NCHW.
        outputs: one, float32.
        layers: its kernels, by the engine inspector where this machine's GPU runs the engine, else as far as the
            builder reports them.
        warnings: distinct ones of the parser and the builder, one line each.
    """

    sha256: str
    size_bytes: int
    fingerprint: dict[str, Any]
    metadata: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """What `Runtime.deserialize_cuda_engine` takes, and its description."""

    data: bytes
    report: EngineReport


@dataclass(frozen=True, eq=False)
class BuildPlan:
    """A planned build: the model, the package and its module, the engine's fingerprint, and the present GPU."""

    model: ModelFile
    package: TensorRTPackage
    trt: Any
    targets: tuple[str, ...]
    options: BuildOptions
    fingerprint: dict[str, Any]
    gpu: GpuModel | None

    @property
    def version(self) -> str:
        """The package and its version."""
        return f"{self.package.value} {self.trt.__version__}"


def plan_build(model: ModelFile, package: TensorRTPackage, options: BuildOptions, *, device: int = 0) -> BuildPlan:
    """Plans a build, for GPU `device` if `options` names no architecture."""
    trt = package.load()
    gpu = present_gpu(device)
    targets = choose_targets(package, trt, options.targets, gpu)
    wanted = fingerprint(model, package, trt, targets, options, gpu)
    return BuildPlan(model, package, trt, targets, options, wanted, gpu)


def build_engine(
    plan: BuildPlan, *, timing_cache: Path | None = None, on_progress: Progress | None = None
) -> BuiltEngine:
    """Builds an engine: float32 NCHW in, batch from 1 to `max_batch`, float32 out.

    With the package `tensorrt`, the file `timing_cache` keeps kernel timings between builds.
    """
    trt, options, name = plan.trt, plan.options, plan.model.path.name
    check_quantization(plan.model.proto, name)
    proto = to_float16(plan.model.proto, name) if options.fp16 else plan.model.proto
    logger = shared_logger(trt)
    failures: list[BaseException] = []
    with logger.capture() as logged, _deferred_interrupt(failures):
        builder = trt.Builder(logger)
        network = builder.create_network(_creation_flags(trt))
        parser = trt.OnnxParser(network, logger)  # owns the weights until the engine is built
        _parse(parser, network, proto.SerializeToString(), logged, name)
        config = _configure(plan, builder)
        config.add_optimization_profile(_profile(plan, builder, network))
        timings = timing_cache if plan.package is TensorRTPackage.TENSORRT else None
        cache = None if timings is None else _load_timings(config, timings)  # must outlive the build
        monitor = _monitor(trt, failures, on_progress)  # must outlive the build
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if failures:
            raise failures[0]
        if serialized is None:
            raise EngineError(f"{plan.version} can't build {name}: {logged.first_error()}")
        if cache is not None and timings is not None:
            _save_timings(config, timings)
        inputs = tuple(_tensor_info(trt, network.get_input(i)) for i in range(network.num_inputs))
        outputs = tuple(_tensor_info(trt, network.get_output(i)) for i in range(network.num_outputs))
        data = bytes(serialized)
    report = EngineReport(
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        fingerprint=plan.fingerprint,
        metadata={entry.key: entry.value for entry in plan.model.proto.metadata_props},
        inputs=inputs,
        outputs=outputs,
        layers=_layers(plan, data) or parse_layers(logged.layers),
        warnings=tuple(dict.fromkeys(" ".join(warning.split()) for warning in logged.warnings)),
    )
    return BuiltEngine(data, report)


def _layers(plan: BuildPlan, data: bytes) -> tuple[Layer, ...]:
    """Returns an engine's layers as TensorRT's inspector describes them; none where the present GPU can't run it."""
    trt = plan.trt
    if plan.gpu is None or plan.gpu.target not in plan.targets:
        return ()
    try:
        runtime, engine = deserialize(trt, data, allow_host_code=contains_code(plan.fingerprint))
    except EngineError as error:
        log.info("the engine can't be inspected here: %s", error)
        return ()
    inspector = engine.create_engine_inspector()
    layers = read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    del inspector, engine, runtime  # in this order
    return layers


def _creation_flags(trt: Any) -> int:
    """TensorRT 10 has a flag for strong typing; 11 is always strongly typed and may drop the flag."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(parser: Any, network: Any, content: bytes, logged: BuildLog, name: str) -> None:
    if not parser.parse(content):
        reason = logged.first_error()
        if parser.num_errors:
            error = parser.get_error(0)
            lines = [line.strip() for line in error.desc().splitlines() if "cudaError" not in line]
            reason = f"node {error.node_name()!r} ({error.node_operator()}): {' '.join(filter(None, lines))}"
        raise EngineError(f"TensorRT's parser refuses {name}: {reason}")
    if network.num_inputs != 1 or not network.num_outputs:
        raise EngineError(f"TensorRT's parser found no network in {name}")


def _configure(plan: BuildPlan, builder: Any) -> Any:
    trt, options = plan.trt, plan.options
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT-RTX: needed for CUDA graphs
    if known_targets(trt) is not None:
        # the number comes first: before that, set_compute_capability returns False without effect
        config.num_compute_capabilities = len(plan.targets)
        for index, target in enumerate(plan.targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index):
                raise EngineError(f"{plan.version} does not take {target} as a target")
    if options.version_compatible:
        if plan.package is not TensorRTPackage.TENSORRT:
            raise ConfigError(f"{plan.version} has no version-compatible engines: leave --version-compatible out")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.exclude_lean_runtime:
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if options.hardware_compatible:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level != level:
            raise ConfigError(
                f"{plan.version} has no hardware-compatible engines: leave --hardware-compatible out and name every"
                " architecture with --target"
            )
    return config


def _profile(plan: BuildPlan, builder: Any, network: Any) -> Any:
    image = network.get_input(0)
    width, height = plan.model.spec.input_size_wh
    most = plan.options.max_batch
    fixed = next(iter(image.shape))
    if fixed not in (-1, most):
        raise ConfigError(f"{plan.model.path.name} has a fixed batch of {fixed}: max_batch {most} doesn't fit it")
    profile = builder.create_optimization_profile()
    least, largest = ((batch, 3, height, width) for batch in (most if fixed == most else 1, most))
    profile.set_shape(image.name, least, largest, largest)
    return profile


def _tensor_info(trt: Any, tensor: Any) -> TensorInfo:
    names = {trt.float32: "FP32", trt.float16: "FP16"}
    return TensorInfo(tensor.name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def _load_timings(config: Any, path: Path) -> Any:
    """Gives the builder the timings of earlier builds; TensorRT ignores those of another version or GPU."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _save_timings(config: Any, path: Path) -> None:
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        log.warning("can't store kernel timings in %s: %s", path, error.strerror or error)


@contextlib.contextmanager
def _deferred_interrupt(failures: list[BaseException]) -> Iterator[None]:
    """Appends Ctrl-C to `failures` within the block: raised while C++ calls Python, it would end the process."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, lambda *_: failures.append(KeyboardInterrupt())) if is_main else None
    try:
        yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)


def _monitor(trt: Any, failures: list[BaseException], on_progress: Progress | None) -> Any:
    """Returns a progress monitor that cancels the build at the first failure."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if on_progress is not None and not failures:
                try:
                    on_progress(phase_name, step + 1, self._steps.get(phase_name, 0))
                except Exception as error:
                    failures.append(error)
            return not failures

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
