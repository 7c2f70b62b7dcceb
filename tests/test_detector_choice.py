"""Which detector `open_detector` opens: a GPU's where one works, else a CPU's, and only the named one if one is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from streamer.app.cli import main
from streamer.app.listing import list_known
from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, EngineError
from streamer.detector import class_ids, cuda, open_detector
from streamer.engines import installed_engines
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

    monkeypatch.setattr("streamer.cuda.gpu.load_pycuda", lambda: None)
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

    monkeypatch.setattr("streamer.cuda.gpu.load_pycuda", refuse)
    monkeypatch.setattr("streamer.cuda.gpu.expects_gpu", lambda: expected)
    with caplog.at_level(logging.DEBUG), open_detector(model, depth=1) as detector:
        assert detector.info.name in ("openvino", "onnxruntime")
        assert detector.info.fallbacks == (("GPU: no GPU today",) if expected else ())
    (said,) = [
        record for record in caplog.records if "running on the CPU, not on a GPU: no GPU today" in record.message
    ]
    assert said.levelname == ("WARNING" if expected else "DEBUG")


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"engine": "openvino"}])
def test_a_cpu_asked_for_is_no_fallback(options: dict[str, str], model: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_detector(model, depth=1, **options) as detector:  # type: ignore[arg-type]
        assert detector.info.fallbacks == ()
    assert "not on a GPU" not in caplog.text


@pytest.mark.parametrize("options", [{"engine": "torch"}, {"engine": "tensorrt"}, {"device": "cuda"}])
def test_a_named_engine_is_never_replaced(monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, str]) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise EngineError("no GPU today")

    monkeypatch.setattr("streamer.cuda.gpu.load_pycuda", lambda: None)
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


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (["person", "Dining Table"], {0, 2}),
        (["PERSON", "2"], {0, 2}),
        (["1"], {3}),
        (["bus"], {4}),
        (["Bus"], {5}),
        ([" person "], {0}),
    ],
)
def test_classes_by_label_in_any_case_or_by_number(given: list[str], ids: set[int]) -> None:
    assert class_ids(given, ["person", "car", "dining table", "1", "bus", "Bus"]) == ids


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("persn", "the model knows no class 'persn'; did you mean 'person'"),
        ("BUS", "class 'BUS' could be 'bus' or 'Bus': choose one"),
        ("80", "the model has no class 80: its 4 classes have the numbers 0 to 3"),
        ("-1", "the model knows no class '-1'"),
    ],
)
def test_classes_that_are_not_there(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        class_ids([given], ["person", "car", "bus", "Bus"])


@pytest.mark.parametrize(
    ("flags", "environment", "runs"),
    [
        ({"sse4_2", "avx", "avx2"}, {}, True),
        ({"sse4_2", "avx"}, {}, False),
        ({"sse4_2"}, {}, False),
        (set(), {}, True),  # the system says nothing
        ({"avx2"}, {"ONEDNN_MAX_CPU_ISA": "AVX"}, False),
        ({"avx2"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, True),
    ],
)
def test_openvino_needs_avx2(
    flags: set[str], environment: dict[str, str], runs: bool, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr("streamer.engines.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("streamer.engines.processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr("streamer.engines.importlib.util.find_spec", lambda name: object())
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (installed_engines()["openvino"] is None) == runs
    assert installed_engines()["onnxruntime"] is None
    monkeypatch.setattr("streamer.engines.platform.machine", lambda: "aarch64")
    assert installed_engines()["openvino"] is None


def test_without_avx2_auto_takes_onnxruntime_and_openvino_is_refused(
    model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    monkeypatch.setattr("streamer.engines.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("streamer.engines.processor_flags", lambda: frozenset({"sse4_2"}))
    with open_detector(model, device="cpu") as detector:
        assert detector.info.name == "onnxruntime"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert main(["sample", "-o", "null", "-m", model, "--engine", "openvino"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error == "error: the engine 'openvino' needs a processor with AVX2: use --engine onnxruntime"
    assert any("needs a processor with AVX2" in line for line in list_known("engines"))
