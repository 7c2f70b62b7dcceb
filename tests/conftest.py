"""What tests share: the folder of real weights and pictures, and which optional packages there are."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from streamer.common import redaction
from streamer.sources.workers import DecoderPool
from streamer.sources.workers.shared_counters import MAX_UNACKNOWLEDGED
from tests.desktop import x_server
from tests.media import write_clip

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core: PyTorch's threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no test reports its use: streamer/common/telemetry.py

settings.register_profile("untimed", deadline=None)  # how long an example takes is no property
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="needs ../shared (real weights, pictures and clips), which is not here")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what is remembered of models out of the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANODET_STREAMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def log_level_of_tests() -> Iterator[None]:
    """Undoes the level that a run in the test's own process sets, which later tests would see in what is logged."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(autouse=True)
def hidden_values_of_tests() -> Iterator[None]:
    """Forgets the values of references that a test has had hidden, which may be words of a later test's messages."""
    hidden = redaction._hidden
    yield
    redaction._hidden = hidden


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """Leaves what imports made out of later garbage collections, which take up to 0.35 s each with it.

    A run in the test's own process undoes that at its end, and some libraries are imported by the first test only.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Has objects freed at the end as usual: some libraries complain of those that aren't."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For GPU kernels compiled for the CPU, so that all tests of a process share them."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def shared() -> Path:
    """The folder of real weights, pictures and clips; tests that use it carry the mark `shared`."""
    return SHARED


@pytest.fixture(params=["1280x800"])
def display(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh X server, in DISPLAY."""
    with x_server(request.param) as name:
        monkeypatch.setenv("DISPLAY", name)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
        yield name


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> str:
    """Every CPU engine in turn."""
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def one_process() -> Iterator[DecoderPool]:
    """A decoding process of one's own."""
    with DecoderPool(1) as processes:
        yield processes


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    """A video longer than a process decodes ahead: `4 * MAX_UNACKNOWLEDGED` pictures."""
    return write_clip(tmp_path / "clip.mp4", 4 * MAX_UNACKNOWLEDGED)


@pytest.fixture
def forever() -> Iterator[threading.Event]:
    """An event that is set when the test ends, for what hangs until then."""
    event = threading.Event()
    yield event
    event.set()
