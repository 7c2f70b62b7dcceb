"""Which detector `open_detector` opens: a GPU's where one works, else a CPU's, and only the named one if one is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from streamer.app.listing import list_known
from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, EngineError
from streamer.detector import cuda, open_detector
from streamer.models.postprocess import Postprocessor
from tests.fakes import SlowDetector
from tests.tiny import write_tiny


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny model file."""
    return str(write_tiny(tmp_path / "tiny.onnx"))


def test_auto_uses_a_gpu_that_works(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    asked: list[dict[str, Any]] = []
    opened = SlowDetector()

    def open_cuda(_: Any, postprocessor: Postprocessor, **options: Any) -> SlowDetector:
        asked.append({**options, "conf": postprocessor.conf})
        return opened

    monkeypatch.setattr(cuda, "open_cuda_detector", open_cuda)
    assert open_detector(model, conf=0.25, depth=3) is opened
    assert (asked[0]["engine"], asked[0]["device"], asked[0]["conf"], asked[0]["depth"]) == ("auto", "auto", 0.25, 3)


@pytest.mark.parametrize("expected", [True, False])
def test_auto_falls_back_to_the_cpu_and_says_why(
    expected: bool, monkeypatch: pytest.MonkeyPatch, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning and in the report only where a GPU is expected."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise EngineError("no GPU today")

    monkeypatch.setattr(cuda, "open_cuda_detector", refuse)
    monkeypatch.setattr("streamer.cuda.gpu.expects_gpu", lambda: expected)
    with caplog.at_level(logging.INFO), open_detector(model, depth=1) as detector:
        assert detector.info.name in ("openvino", "onnxruntime")
        assert detector.info.fallbacks == (("GPU: no GPU today",) if expected else ())
    (said,) = [
        record for record in caplog.records if "running on the CPU, not on a GPU: no GPU today" in record.message
    ]
    assert said.levelname == ("WARNING" if expected else "INFO")


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"engine": "openvino"}])
def test_a_cpu_asked_for_is_no_fallback(options: dict[str, str], model: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_detector(model, depth=1, **options) as detector:  # type: ignore[arg-type]
        assert detector.info.fallbacks == ()
    assert "not on a GPU" not in caplog.text


@pytest.mark.parametrize("options", [{"engine": "torch"}, {"engine": "tensorrt"}, {"device": "cuda"}])
def test_a_named_engine_is_never_replaced(monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, str]) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise EngineError("no GPU today")

    monkeypatch.setattr(cuda, "open_cuda_detector", refuse)
    with pytest.raises(EngineError, match="no GPU today"):
        open_detector(model, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"engine": "openvino"}])
def test_the_cpu_is_used_when_named(monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, str]) -> None:
    monkeypatch.setattr(cuda, "open_cuda_detector", None)
    with open_detector(model, depth=1, **options) as detector:  # type: ignore[arg-type]
        assert detector.info.name in ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "torch", "device": "cpu"}, "'torch' runs on a GPU: use --device cuda"),
        ({"engine": "openvino", "device": "cuda:0"}, "'openvino' runs on the CPU: use --device cpu"),
        ({"engine": "tensort"}, "did you mean 'tensorrt'"),
        ({"device": "cuda:x"}, "cuda:N"),
    ],
)
def test_contradicting_options_are_refused(model: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_detector(model, **options)  # type: ignore[arg-type]


def test_gpu_engines_and_devices_are_listed() -> None:
    assert {line.split()[0] for line in list_known("engines")} >= {"openvino", "tensorrt", "torch"}
    assert any(line.startswith("cuda") for line in list_known("devices"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_for_throughput_the_engine_chooses_the_number_of_requests(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    monkeypatch.setattr("streamer.detector.cpu.open_tuned", lambda *_: pytest.fail("nothing is to be measured"))
    options: dict[str, Any] = {"engine": engine, "batch": "auto", "streams": 8, "live": False, "self_check": False}
    with open_detector(**options, threads=1) as detector:
        assert detector.depth == 2  # one is computed, one waits
    with open_detector(**options) as detector:
        assert 2 <= detector.depth <= 2 * available_cores()
        assert detector.depth % 2 == 0
