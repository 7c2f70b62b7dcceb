"""`nanodet-stream doctor`: what it finds, how it says it, and its exit status."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.app import doctor_checks
from streamer.app.cli import main
from streamer.app.doctor_checks import Finding, State
from streamer.common.errors import EngineError, StreamerError

ROOT = Path(__file__).parent.parent
AREAS = ["packages", "engines", "GPU", "video", "display", "cameras", "system"]


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs of the program itself end well at once."""

    def run(options: list[str], timeout_s: float) -> None:
        if "--report" in options:
            report = {
                "engine": {"precision": "int8", "model": "nanodet-g_416"},
                "stages_ms": {"inference": {"mean": 12.34}},
            }
            Path(options[options.index("--report") + 1]).write_text(json.dumps(report))

    monkeypatch.setattr(doctor_checks, "_run", run)
    monkeypatch.setattr(doctor_checks, "_frames_of", lambda _: 20)
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))


def findings(check: Callable[[], Iterator[Finding]]) -> dict[str, Finding]:
    return {finding.name: finding for finding in check()}


def test_all_areas_are_looked_at_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1
    assert found["works"] == (status == 0)
    assert set(found["machine"]) == {"python", "platform", "processor", "cores"}
    assert list(dict.fromkeys(row["area"] for row in found["findings"])) == AREAS
    for row in found["findings"]:
        assert set(row) == {"area", "name", "state", "detail", "fix"}
        assert row["state"] in ("ok", "missing", "broken")


def test_for_people_each_fix_is_below_what_it_mends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Finding("engines", "openvino", State.OK, "int8"),
        Finding(
            "engines", "onnxruntime", State.MISSING, "not installed", "pip install x --index-url https://x.org/a/b"
        ),
        Finding("system", "cache", State.BROKEN, "can't be\nwritten", "export X=Y"),
    ]
    monkeypatch.setattr("streamer.app.doctor.all_findings", lambda: iter(rows))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "",
        "engines",
        "  ok       openvino             int8",
        "  missing  onnxruntime          not installed",
        "                                -> pip install x --index-url https://x.org/a/b",
        "",
        "system",
        "  broken   cache                can't be written",
        "                                -> export X=Y",
        "",
        "1 broken, 1 optional missing",
    ]


def test_what_is_only_missing_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamer.app.doctor.all_findings", lambda: iter([Finding("a", "b", State.MISSING)]))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("nothing is broken, 1 optional missing\n")


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Iterator[Finding]:
        yield Finding("GPU", "first", State.OK)
        raise RuntimeError("driver\nlost")

    monkeypatch.setattr(doctor_checks, "_gpu", fail)
    of_gpu = [finding for finding in doctor_checks.all_findings() if finding.area == "GPU"]
    assert [finding.name for finding in of_gpu] == ["first", "check"]
    assert (of_gpu[1].state, of_gpu[1].detail) == (State.BROKEN, "it failed: RuntimeError: driver lost")


def test_a_wrong_option_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--jsno"])
    assert ended.value.code == 2
    assert "did you mean '--json'" in capsys.readouterr().err


def test_engines_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "streamer.engines.installed_engines", lambda: {"openvino": None, "onnxruntime": "pip install o"}
    )
    found = findings(doctor_checks._engines)
    assert found["openvino"] == Finding("engines", "openvino", State.OK, "int8, 12.3 ms a frame with nanodet-g_416")
    assert (found["onnxruntime"].state, found["onnxruntime"].fix) == (State.MISSING, "pip install o")
    monkeypatch.setattr(doctor_checks, "_run", lambda *_: "openvino computes it wrongly")
    broken = findings(doctor_checks._engines)["openvino"]
    assert (broken.state, broken.detail) == (State.BROKEN, "openvino computes it wrongly")


def test_a_gpu_that_is_there_but_cannot_be_used_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: int) -> Any:
        raise EngineError("PyCUDA is not installed: pip install 'nanodet-streamer[cuda]'")

    monkeypatch.setattr("streamer.cuda.gpu.find_gpu", missing)
    for expected, state in ((True, State.BROKEN), (False, State.MISSING)):
        monkeypatch.setattr("streamer.cuda.gpu.expects_gpu", lambda expected=expected: expected)
        found = findings(doctor_checks._gpu)["CUDA"]
        assert found.state is state
        assert (found.fix == "pip install 'nanodet-streamer[cuda]'") == expected


def test_two_opencv_packages_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("opencv-python", "opencv-python-headless")
    monkeypatch.setattr(doctor_checks, "version_of", lambda name: "5.0" if name in both else "")
    found = doctor_checks._opencv()
    assert found.state is State.BROKEN
    assert found.fix == "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python"


def test_a_missing_system_library_of_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "cv2":
                raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    found = doctor_checks._opencv()
    assert (found.state, found.fix) == (State.BROKEN, "apt install libgl1 libglib2.0-0")


def test_packages_that_are_missing_or_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_checks._package("no-such-package", "x").fix == "pip install no-such-package"

    def fail(_: str) -> None:
        raise ValueError("numpy.dtype size changed")

    monkeypatch.setattr(doctor_checks, "import_module", fail)
    found = doctor_checks._package("numpy", "numpy")
    assert (found.state, found.fix) == (State.BROKEN, "pip install --force-reinstall numpy")
    assert "size changed" in found.detail


@pytest.mark.parametrize(
    ("error", "state", "fix"),
    [
        (None, State.OK, ""),
        (PermissionError(13, "Permission denied"), State.BROKEN, "usermod -aG video"),
        (FileNotFoundError(2, "No such file or directory"), State.BROKEN, "--device /dev/video7"),
    ],
)
def test_cameras_are_opened(error: OSError | None, state: State, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_device(path: str, flags: int) -> int:
        assert path == "/dev/video7"
        if error is not None:
            raise error
        return os.dup(0)

    module = importlib.import_module("streamer.sources.cameras")
    monkeypatch.setattr(module, "cameras", lambda: {7: "Webcam"})
    monkeypatch.setattr(doctor_checks.os, "open", open_device)
    found = findings(doctor_checks._cameras)["7"]
    assert found.state is state
    assert fix in found.fix


@pytest.mark.parametrize(
    ("limits", "state", "fix"),
    [
        ((4096, 4096), State.OK, ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), State.OK, ""),
        ((256, 4096), State.MISSING, "ulimit -n 1024"),
        ((256, 512), State.MISSING, "ulimit -n 512"),
        ((256, 256), State.MISSING, "raise the hard limit of open files (nofile)"),
    ],
)
def test_few_open_files(limits: tuple[int, int], state: State, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    found = doctor_checks._open_files()
    assert (found.state, found.fix) == (state, fix)


def test_a_limit_that_is_too_low_for_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_low() -> None:
        raise StreamerError("the limit for a stack is 8 (ulimit -s)")

    monkeypatch.setattr("streamer.app.limits.check_limits", too_low)
    assert findings(doctor_checks._system)["limits"].state is State.BROKEN


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file" / "cache"))
    found = doctor_checks._cache()
    assert (found.state, found.fix) == (State.BROKEN, "export NANODET_STREAMER_CACHE=FOLDER")


def test_encoders_that_work_are_listed_and_others_in_one_line() -> None:
    lines = ["libx264   H.264, software: works", "h264_nvenc   H.264, hardware: it can't be opened here (no)"]
    assert [f.name for f in doctor_checks._encoders(lines)] == ["libx264", "hardware"]
    lines[1] = "h264_nvenc   H.264, hardware: works"
    assert [(f.name, f.state) for f in doctor_checks._encoders(lines)][1] == ("h264_nvenc", State.OK)


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "run_stream.py", "doctor", "--json"]
    environment = {**os.environ, "NANODET_STREAMER_CACHE": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    by_name = {(row["area"], row["name"]): row for row in found["findings"]}
    assert by_name["engines", "openvino"]["state"] == "ok"
    assert by_name["video", "recording"]["state"] == "ok"
    assert done.returncode == (0 if found["works"] else 1)
