"""Which package builds for which architectures, and its errors."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from streamer.common.errors import ConfigError, EngineError
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import (
    GpuModel,
    TensorRTPackage,
    choose_targets,
    known_targets,
    parse_targets,
    present_gpu,
)

RTX = SimpleNamespace(
    __version__="1.7.0",
    ComputeCapability=SimpleNamespace(__members__=dict.fromkeys(["NONE", "CURRENT", "SM120", "SM75", "SM89"])),
)
PLAIN = SimpleNamespace(__version__="11.4.0")
ADA = GpuModel("NVIDIA GeForce RTX 4090", "sm89")
HOPPER = GpuModel("NVIDIA H100", "sm90")


@pytest.mark.parametrize("package", list(TensorRTPackage))
def test_a_missing_package_names_its_command(package: TensorRTPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package.module_name, None)
    with pytest.raises(EngineError, match=re.escape(f"pip install 'nanodet-streamer[{package.value}]'")):
        package.load()


def test_a_package_whose_libraries_are_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.11: cannot open shared object file\nNo such file")

    monkeypatch.setattr("streamer.engines.tensorrt.package.import_module", broken)
    with pytest.raises(
        EngineError, match=r"tensorrt is installed but can't be loaded \(libnvinfer\.so\.11.*file\)"
    ) as e:
        TensorRTPackage.TENSORRT.load()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("package", [TensorRTPackage.TENSORRT, TensorRTPackage.TENSORRT_LEAN])
@pytest.mark.parametrize("version", ["8.6.1", "10.0.1"])
def test_an_old_tensorrt_is_refused(package: TensorRTPackage, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package.module_name, SimpleNamespace(__version__=version))
    with pytest.raises(EngineError, match=rf"{package.value} {re.escape(version)} is too old, wanted 10\.1 or later"):
        package.load()
    monkeypatch.setitem(sys.modules, package.module_name, SimpleNamespace(__version__="10.1.0"))
    assert package.load().__version__ == "10.1.0"


def test_the_lean_package_runs_what_tensorrt_builds() -> None:
    builders = {package: package.builder for package in TensorRTPackage}
    assert builders.pop(TensorRTPackage.TENSORRT_LEAN) is TensorRTPackage.TENSORRT
    assert all(package is builder for package, builder in builders.items())
    assert TensorRTPackage.TENSORRT_LEAN.module_name == "tensorrt_lean"


def test_known_targets_are_the_numbered_ones_in_order() -> None:
    assert known_targets(RTX) == ("sm75", "sm89", "sm120")
    assert known_targets(PLAIN) is None


@pytest.mark.parametrize(
    ("text", "targets"),
    [("sm89", ("sm89",)), ("SM89, sm120", ("sm89", "sm120")), ("sm120,sm89,sm120", ("sm120", "sm89"))],
)
def test_targets_are_parsed(text: str, targets: tuple[str, ...]) -> None:
    assert parse_targets(text) == targets


@pytest.mark.parametrize("text", ["", "sm89,", "89", "8.9", "sm8", "ada", "sm89;sm120"])
def test_invalid_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="an architecture is written sm89"):
        BuildOptions(targets=parse_targets(text))


@pytest.mark.parametrize(
    ("package", "trt", "wanted", "gpu", "targets"),
    [
        (TensorRTPackage.TENSORRT_RTX, RTX, ("sm120", "sm89"), None, ("sm89", "sm120")),
        (TensorRTPackage.TENSORRT_RTX, RTX, (), ADA, ("sm89",)),
        (TensorRTPackage.TENSORRT_RTX, RTX, ("sm75",), ADA, ("sm75",)),
        (TensorRTPackage.TENSORRT, PLAIN, (), HOPPER, ("sm90",)),
        (TensorRTPackage.TENSORRT, PLAIN, ("sm90",), HOPPER, ("sm90",)),
    ],
)
def test_targets_are_chosen(
    package: TensorRTPackage, trt: Any, wanted: tuple[str, ...], gpu: GpuModel | None, targets: tuple[str, ...]
) -> None:
    assert choose_targets(package, trt, wanted, gpu) == targets


@pytest.mark.parametrize(
    ("package", "trt", "wanted", "gpu", "error", "says"),
    [
        (
            TensorRTPackage.TENSORRT_RTX,
            RTX,
            ("sm89", "sm999"),
            None,
            ConfigError,
            "tensorrt-rtx 1.7.0 can't build for sm999: it knows sm75, sm89, sm120",
        ),
        (
            TensorRTPackage.TENSORRT_RTX,
            RTX,
            (),
            HOPPER,
            ConfigError,
            "can't build for sm90: it knows sm75, sm89, sm120",
        ),
        (
            TensorRTPackage.TENSORRT_RTX,
            RTX,
            (),
            None,
            EngineError,
            "name one with --target (tensorrt-rtx 1.7.0: sm75, sm89",
        ),
        (TensorRTPackage.TENSORRT, PLAIN, (), None, EngineError, "this machine has none"),
        (TensorRTPackage.TENSORRT, PLAIN, ("sm89",), None, EngineError, "--flavour tensorrt-rtx builds for a named"),
        (TensorRTPackage.TENSORRT, PLAIN, ("sm89",), HOPPER, ConfigError, "builds only for the present GPU, sm90"),
    ],
)
def test_targets_that_cannot_be_built_for(
    package: TensorRTPackage,
    trt: Any,
    wanted: tuple[str, ...],
    gpu: GpuModel | None,
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        choose_targets(package, trt, wanted, gpu)


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert present_gpu() is None


def test_a_driver_without_a_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 100  # CUDA_ERROR_NO_DEVICE

    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert present_gpu() is None


def test_the_driver_is_asked_for_the_right_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:
            device._obj.value = 7
            return 0 if index == 1 else 101

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
            name.value = b"NVIDIA L4"
            return 0 if (device.value, size) == (7, 256) else 1

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
            value._obj.value = {75: 8, 76: 9}[attribute]
            return 0

    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert present_gpu(1) == GpuModel("NVIDIA L4", "sm89")
    assert present_gpu(2) is None


@pytest.mark.gpu
def test_the_present_gpu() -> None:
    gpu = present_gpu()
    if gpu is None:
        pytest.skip("no NVIDIA GPU")
    assert gpu.name
    assert re.fullmatch(r"sm\d{2,3}", gpu.target)
