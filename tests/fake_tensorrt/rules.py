"""What the stand-in's objects share: its enumerations, its log, and the form of its engines."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import onnx

from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage
from tests.fake_cuda import FakeCuda

ALIGNMENT = 256
_MAGIC = b"fake plan\n"


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self.is_initialised = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class BuilderFlag(enum.Enum):
    VERSION_COMPATIBLE = 12
    EXCLUDE_LEAN_RUNTIME = 13


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


@dataclass(frozen=True)
class Plan:
    """A serialised engine: ONNX with what it was built for."""

    version: str
    target: str
    profile: tuple[tuple[int, ...], ...]
    is_detailed: bool
    is_version_compatible: bool
    has_lean_runtime: bool
    is_hardware_compatible: bool
    model: bytes

    def serialize(self) -> bytes:
        head = asdict(self)
        model = head.pop("model")
        return _MAGIC + json.dumps({**head, "size": len(model)}).encode() + b"\n" + model

    @staticmethod
    def parse(data: bytes) -> Plan | None:
        """Returns None for what isn't an engine, or only the beginning of one."""
        if not data.startswith(_MAGIC):
            return None
        head, _, model = data.removeprefix(_MAGIC).partition(b"\n")
        fields = json.loads(head)
        if fields.pop("size") != len(model):
            return None
        return Plan(**{**fields, "profile": tuple(map(tuple, fields["profile"]))}, model=model)


class FakeTensorRT:
    """What a test sets and reads.

    Attributes:
        gpu: the present GPU.
        module: the stand-in module.
        broken: rules that were broken while an object was freed.
        shares_profiles: whether several execution contexts may use one optimisation profile.
        has_memory: whether execution contexts can be made.
        is_capturable: what TensorRT-RTX says of its contexts and CUDA graphs.
        runtime_error: what the creation of a runtime logs, if it fails.
        inspected: what the inspector returns, in place of the truth.
        built: the engines that were built, in order.
        bound: the batch size of each execution context that ran, in order.
    """

    def __init__(self, cuda: FakeCuda, package: TensorRTPackage, version: str, target: str) -> None:
        self.cuda, self.package, self.version, self.target = cuda, package, version, target
        self.gpu: GpuModel | None = None
        self.module: Any = None
        self.broken: list[str] = []
        self.shares_profiles = self.has_memory = self.is_capturable = True
        self.runtime_error = ""
        self.inspected: str | None = None
        self.built: list[Plan] = []
        self.bound: list[int] = []
        self.workspaces: dict[int, tuple[int, int]] = {}

    def undefined(self, rule: str) -> NoReturn:
        raise AssertionError(f"undefined behaviour: {rule}")

    def need_context(self, what: str) -> None:
        if not self.cuda.stack:
            self.undefined(f"{what} without a current CUDA context uses GPU 0, whatever GPU was meant")


def checked_logger(logger: Any) -> Any:
    """Returns a logger; raises what pybind11 raises for another object."""
    if not isinstance(logger, ILogger):
        raise TypeError("incompatible constructor arguments: wanted an ILogger")
    if not getattr(logger, "is_initialised", False):
        raise TypeError("ILogger.__init__() must be called when overriding __init__")
    return logger


def dimensions(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Returns a tensor's shape, -1 where it varies."""
    return tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
