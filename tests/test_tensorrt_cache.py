"""Engine files: written atomically, checked before use, built once, and only used when they fit."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from streamer.common.errors import EngineError
from streamer.engines.tensorrt.builder import BuiltEngine, EngineReport, TensorInfo, build_engine, plan_build
from streamer.engines.tensorrt.cache import cached_engine, read_engine, read_report, report_path, write_engine
from streamer.engines.tensorrt.layers import Layer
from streamer.engines.tensorrt.options import BuildOptions
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import ModelFile
from tests.tensorrt_models import float_model

ROOT = Path(__file__).resolve().parent.parent
RTX = TensorRTPackage.TENSORRT_RTX
OPTIONS = BuildOptions(targets=("sm89",))


def made_up(data: bytes = b"engine" * 1000) -> BuiltEngine:
    report = EngineReport(
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        fingerprint={"format": 1, "targets": ["sm89"]},
        metadata={"nanodet.name": '"tiny"'},
        inputs=(TensorInfo("images", "FP32", (-1, 3, 64, 64)),),
        outputs=(TensorInfo("output", "FP32", (-1, 84, 19)),),
        layers=(Layer("k", "correlation", "INT8", "INT8", "FP32", ("conv",)),),
        warnings=("slow",),
    )
    return BuiltEngine(data, report)


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    (tmp_path / "models").mkdir()
    return float_model(tmp_path / "models" / "a.onnx")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


class TestFiles:
    def test_an_engine_is_read_as_written(self, folder: Path, model: ModelFile) -> None:
        built = made_up()
        write_engine(folder / "a.engine", built)
        assert read_engine(folder / "a.engine") == built.data
        assert read_report(folder / "a.engine") == built.report
        assert sorted(path.name for path in folder.iterdir()) == ["a.engine", "a.engine.json"]

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda path: path.unlink(), "can't read the engine .*No such file"),
            (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 5999 bytes, wanted 6000: build it again"),
            (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "is damaged .*SHA-256"),
            (lambda path: report_path(path).unlink(), r"has no report beside it \(a\.engine\.json\): build it again"),
            (lambda path: report_path(path).write_text("{"), "the report of an engine, is damaged"),
            (lambda path: report_path(path).write_text("[" * 100_000), "the report of an engine, is damaged"),
            (lambda path: report_path(path).write_text("[]"), "the report of an engine, is damaged"),
            (lambda path: report_path(path).write_text('{"sha256": ""}'), "the report of an engine, is damaged"),
            (lambda path: report_path(path).write_bytes(b"\xff\xfe"), "the report of an engine, is damaged"),
        ],
    )
    def test_damage_is_one_line(self, damage: Callable[[Path], Any], says: str, folder: Path, model: ModelFile) -> None:
        write_engine(folder / "a.engine", made_up())
        damage(folder / "a.engine")
        with pytest.raises(EngineError, match=says) as error:
            read_engine(folder / "a.engine")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("old", [False, True])
    @pytest.mark.parametrize("failing", ["write_bytes", "write_text"])
    def test_a_full_disk_leaves_nothing_new(
        self, old: bool, failing: str, folder: Path, model: ModelFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder / "a.engine"
        if old:
            write_engine(path, made_up(b"old"))
        before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}

        def full(*words: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, failing, full)
            with pytest.raises(EngineError, match=r"can't write the engine '.*a\.engine': No space left on device"):
                write_engine(path, made_up())
        assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before

    @pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
    def test_a_real_limit_leaves_nothing(self, folder: Path, model: ModelFile) -> None:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(EngineError, match="can't write the engine .*File too large"):
                write_engine(folder / "a.engine", made_up(bytes(2 << 20)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(folder.iterdir()) == []

    def test_an_engine_replaced_without_its_report_is_damaged(self, folder: Path, model: ModelFile) -> None:
        write_engine(folder / "a.engine", made_up())
        (folder / "a.engine").write_bytes(made_up(b"other!" * 1000).data)
        with pytest.raises(EngineError, match="is damaged"):
            read_engine(folder / "a.engine")


class TestCache:
    @pytest.fixture(autouse=True)
    def needs_builder(self) -> None:
        pytest.importorskip("tensorrt_rtx", reason="engines are built for real with TensorRT-RTX")

    @pytest.fixture
    def built(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the models built while the test runs."""
        names: list[str] = []

        def counted(plan: Any, **more: Any) -> BuiltEngine:
            names.append(plan.model.path.name)
            return build_engine(plan, **more)

        monkeypatch.setattr("streamer.engines.tensorrt.cache.build_engine", counted)
        return names

    def test_it_is_built_once(self, model: ModelFile, cache: Path, built: list[str]) -> None:
        path = cached_engine(model, RTX, OPTIONS)
        assert path.parent == cache / "engines"
        assert path.name.startswith("tiny-")
        assert read_report(path).fingerprint == plan_build(model, RTX, OPTIONS).fingerprint
        written = path.stat().st_mtime_ns
        assert cached_engine(model, RTX, OPTIONS) == path
        assert path.stat().st_mtime_ns == written
        assert built == ["a.onnx"]

    def test_other_options_and_models_are_other_files(self, model: ModelFile, built: list[str], tmp_path: Path) -> None:
        other = float_model(tmp_path / "b.onnx", seed=1)
        paths = {
            cached_engine(model, RTX, OPTIONS),
            cached_engine(model, RTX, BuildOptions(targets=("sm120",))),
            cached_engine(model, RTX, BuildOptions(targets=("sm89",), max_batch=2)),
            cached_engine(other, RTX, OPTIONS),
        }
        assert len(paths) == len(built) == 4

    @pytest.mark.parametrize(
        "field",
        [
            "onnx_sha256",
            "graph_sha256",
            "calibration_sha256",
            "package",
            "package_version",
            "targets",
            "gpu",
            "options",
        ],
    )
    def test_a_stale_file_in_its_place_is_rebuilt(self, field: str, model: ModelFile, built: list[str]) -> None:
        path = cached_engine(model, RTX, OPTIONS)
        content = json.loads(report_path(path).read_text(encoding="utf-8"))
        content["fingerprint"][field] = "another"
        report_path(path).write_text(json.dumps(content), encoding="utf-8")
        assert cached_engine(model, RTX, OPTIONS) == path
        assert len(built) == 2
        assert read_report(path).fingerprint == plan_build(model, RTX, OPTIONS).fingerprint

    @pytest.mark.parametrize("damaged", ["engine", "report", "lost report"])
    def test_a_damaged_file_is_rebuilt_and_reported(
        self, damaged: str, model: ModelFile, built: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        path = cached_engine(model, RTX, OPTIONS)
        if damaged == "engine":
            path.write_bytes(path.read_bytes()[:100])
        elif damaged == "report":
            report_path(path).write_text("{}", encoding="utf-8")
        else:
            report_path(path).unlink()
        caplog.clear()
        assert cached_engine(model, RTX, OPTIONS) == path
        assert len(built) == 2
        assert len(read_engine(path)) > 10_000
        assert "build it again" in caplog.text

    def test_another_version_of_the_package_builds_its_own(
        self, model: ModelFile, built: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import tensorrt_rtx

        first = cached_engine(model, RTX, OPTIONS)
        monkeypatch.setattr(tensorrt_rtx, "__version__", "99.0")
        second = cached_engine(model, RTX, OPTIONS)
        assert first != second
        assert read_report(second).fingerprint["package_version"] == "99.0"
        assert len(built) == 2

    def test_a_fitting_engine_beside_the_model_is_used(self, model: ModelFile, built: list[str]) -> None:
        shipped = model.path.with_suffix(".engine")
        both = BuildOptions(targets=("sm89", "sm120"), max_batch=4)
        write_engine(shipped, build_engine(plan_build(model, RTX, both)))
        assert cached_engine(model, RTX, OPTIONS) == shipped
        assert built == []
        larger = cached_engine(model, RTX, BuildOptions(targets=("sm89",), max_batch=8))
        assert larger != shipped
        assert built == ["a.onnx"]

    def test_a_foreign_engine_beside_the_model_is_left_alone(
        self, model: ModelFile, built: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        shipped = model.path.with_suffix(".engine")
        write_engine(shipped, made_up())
        with caplog.at_level(logging.INFO, logger="streamer.engines.tensorrt.cache"):
            assert cached_engine(model, RTX, OPTIONS) != shipped
        assert "another engine than the one wanted" in caplog.text
        assert read_engine(shipped) == made_up().data

    def test_two_processes_build_once(self, model: ModelFile, cache: Path) -> None:
        script = (
            "import sys; from pathlib import Path\n"
            "from streamer.models.file import load_model\n"
            "from streamer.engines.tensorrt.cache import *\n"
            "told = []\n"
            "path = cached_engine(load_model(Path(sys.argv[1])), TensorRTPackage.TENSORRT_RTX,\n"
            "    BuildOptions(targets=('sm89',)), on_progress=lambda *words: told.append(words))\n"
            "print(path, len(read_engine(path)), bool(told))\n"
        )
        command = [sys.executable, "-c", script, str(model.path)]
        environment = {**os.environ, "NANODET_STREAMER_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        answers = []
        for process in running:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            answers.append(out.split())
        (path, size, first), (other, other_size, second) = answers
        assert (path, size) == (other, other_size)
        assert sorted([first, second]) == ["False", "True"]

    def test_a_waiting_process_uses_the_others_engine(
        self, model: ModelFile, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = cached_engine(model, RTX, OPTIONS)
        hidden = path.with_suffix(".hidden")
        report_path(path).rename(hidden)
        waiting = threading.Event()
        answers: list[Path] = []
        real = FileLock.acquire

        def acquire(lock: Any, *words: Any, **more: Any) -> Any:
            waiting.set()
            return real(lock, *words, **more)

        def must_not(*words: Any, **more: Any) -> BuiltEngine:
            raise AssertionError("built a second time")

        monkeypatch.setattr("streamer.engines.tensorrt.cache.build_engine", must_not)
        with FileLock(path.with_suffix(".lock")):
            monkeypatch.setattr(FileLock, "acquire", acquire)
            thread = threading.Thread(target=lambda: answers.append(cached_engine(model, RTX, OPTIONS)))
            thread.start()
            assert waiting.wait(30)
            hidden.rename(report_path(path))
        thread.join(30)
        assert answers == [path]

    def test_waiting_times_out(self, model: ModelFile, cache: Path, built: list[str]) -> None:
        path = cached_engine(model, RTX, OPTIONS)
        report_path(path).unlink()
        with (
            FileLock(path.with_suffix(".lock")),
            pytest.raises(EngineError, match=r"another process has been building tiny-.*\.engine for 0 s"),
        ):
            cached_engine(model, RTX, OPTIONS, lock_timeout_s=0.05)
        assert built == ["a.onnx"]

    def test_a_cache_folder_that_cannot_be_made(
        self, model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file"))
        with pytest.raises(EngineError, match=r"can't use the cache folder .*NANODET_STREAMER_CACHE"):
            cached_engine(model, RTX, OPTIONS)

    def test_a_full_disk_leaves_no_engine_in_the_cache(
        self, model: ModelFile, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: Path, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(EngineError, match="can't write the engine .*No space left on device"):
                cached_engine(model, RTX, OPTIONS)
        assert [path for path in (cache / "engines").iterdir() if path.suffix != ".lock"] == []
        assert read_engine(cached_engine(model, RTX, OPTIONS))
