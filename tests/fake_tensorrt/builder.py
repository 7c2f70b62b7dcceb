"""The stand-in's builder: ONNX to an engine for the present GPU."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.fake_tensorrt.rules import (
    BuilderFlag,
    DataType,
    FakeTensorRT,
    HardwareCompatibilityLevel,
    ILogger,
    MemoryPoolType,
    Plan,
    ProfilingVerbosity,
    checked_logger,
    dimensions,
)


def classes(state: FakeTensorRT) -> dict[str, Any]:
    """Returns the module's classes that build engines."""

    class IProgressMonitor:
        pass

    class INetworkDefinition:
        def __init__(self) -> None:
            self._model: onnx.ModelProto | None = None
            self._parser: weakref.ref[OnnxParser] | None = None

        def _ports(self, name: str) -> list[Any]:
            values = [] if self._model is None else getattr(self._model.graph, name)
            return [SimpleNamespace(name=v.name, shape=dimensions(v), dtype=DataType.FLOAT) for v in values]

        @property
        def num_inputs(self) -> int:
            return len(self._ports("input"))

        @property
        def num_outputs(self) -> int:
            return len(self._ports("output"))

        def get_input(self, index: int) -> Any:
            return self._ports("input")[index]

        def get_output(self, index: int) -> Any:
            return self._ports("output")[index]

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            checked_logger(logger)
            self._network, self.num_errors = network, 0

        def parse(self, model: bytes) -> bool:
            try:
                self._network._model = onnx.load_model_from_string(model)
            except DecodeError:
                self.num_errors = 1
                return False
            self._network._parser = weakref.ref(self)
            return True

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "it is no ONNX", node_name=lambda: "", node_operator=lambda: "")

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

        def set_shape(self, input: str, *shapes: tuple[int, ...]) -> None:
            least, best, most = shapes
            if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
                raise ValueError(f"{shapes} aren't ascending")
            self._shapes[input] = shapes

    class IBuilderConfig:
        def __init__(self) -> None:
            self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
            self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
            self.progress_monitor: Any = None
            self._flags: set[BuilderFlag] = set()
            self._profiles: list[IOptimizationProfile] = []
            self._timings: Any = None

        def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
            assert isinstance(pool, MemoryPoolType) and pool_size > 0

        def set_flag(self, flag: BuilderFlag) -> None:
            self._flags.add(flag)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            return SimpleNamespace(serialize=lambda: b"timings")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._timings = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._timings

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._log = checked_logger(logger).log

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
            if network._parser is None or network._parser() is None or network._model is None:
                state.undefined("a parser, which owns the weights, was freed before the engine was built")
            image = network.get_input(0)
            (shapes,) = [profile._shapes.get(image.name) for profile in config._profiles] or [None]
            if shapes is None:
                self._log(ILogger.ERROR, f"IBuilder: Error Code 4: {image.name} has no optimization profile")
                return None
            if any(fixed not in (-1, n) for shape in shapes for fixed, n in zip(image.shape, shape, strict=True)):
                self._log(ILogger.ERROR, f"IBuilder: Error Code 4: the profile doesn't fit {image.shape}")
                return None
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 1)
            if not monitor.step_complete("Building engine", 0):
                return None
            monitor.phase_finish("Building engine")
            is_compatible = BuilderFlag.VERSION_COMPATIBLE in config._flags
            plan = Plan(
                version=state.version,
                target=state.target,
                profile=shapes,
                is_detailed=config.profiling_verbosity is ProfilingVerbosity.DETAILED,
                is_version_compatible=is_compatible,
                has_lean_runtime=is_compatible and BuilderFlag.EXCLUDE_LEAN_RUNTIME not in config._flags,
                is_hardware_compatible=config.hardware_compatibility_level is HardwareCompatibilityLevel.AMPERE_PLUS,
                model=network._model.SerializeToString(),
            )
            state.built.append(plan)
            return plan.serialize()

    made = (Builder, IBuilderConfig, INetworkDefinition, IOptimizationProfile, IProgressMonitor, OnnxParser)
    return {each.__name__: each for each in made}
