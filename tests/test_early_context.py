"""The GPU's context that is created while the program imports and reads its model."""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Any

import pytest

from streamer.cuda import early_context as module
from streamer.cuda.early_context import early_context
from tests.real_gpu import opened_gpu


class Driver:
    """Stands for the driver's library: notes its calls, and fails where it is told to."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, int]] = []
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == "cuDeviceGet":
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_int))[0] = 10 + arguments[1]
            last = arguments[-1]
            self.calls.append((name, last if isinstance(last, int) else last.value))
            return 101 if name == self._failing else 0

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    return driver


@pytest.mark.parametrize(("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_keeps_the_context_until_the_block_ends(driver: Driver, device: str, index: int) -> None:
    with early_context(device):
        pass
    assert driver.calls == [
        ("cuInit", 0),
        ("cuDeviceGet", index),
        ("cuDevicePrimaryCtxRetain", 10 + index),
        ("cuDevicePrimaryCtxRelease_v2", 10 + index),
    ]


def test_releases_it_when_the_block_fails(driver: Driver) -> None:
    with pytest.raises(RuntimeError, match="no model"), early_context("cuda"):
        raise RuntimeError("no model")
    assert driver.calls[-1] == ("cuDevicePrimaryCtxRelease_v2", 10)


def test_does_nothing_on_a_cpu(driver: Driver) -> None:
    with early_context("cpu"):
        pass
    assert not driver.calls


def test_does_nothing_without_pycuda(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with early_context("auto"):
        pass
    assert not driver.calls


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_releases_nothing_that_it_did_not_get(monkeypatch: pytest.MonkeyPatch, driver: Driver, failing: str) -> None:
    broken = Driver(failing)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: broken)
    with early_context("cuda:1"):
        pass
    assert broken.calls[-1][0] == failing


def test_does_nothing_without_a_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    def missing(_: str) -> None:
        raise OSError("no libcuda")

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    with early_context("auto"):
        pass
    assert not driver.calls


@pytest.mark.gpu
def test_leaves_no_context_behind() -> None:
    def is_active() -> bool:
        library = ctypes.CDLL(module.DRIVER_LIBRARY)
        flags, active = ctypes.c_uint(), ctypes.c_int()
        assert library.cuInit(0) == 0
        assert library.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) == 0
        return bool(active.value)

    with opened_gpu():
        pass  # or skips
    before = is_active()
    with early_context("cuda"):
        pass
    assert is_active() == before
