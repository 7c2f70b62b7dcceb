"""Compiling and caching CUDA kernels, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamer.common.errors import EngineError
from streamer.cuda import compiler


def fake_nvcc(folder: Path, *, fails: bool = False) -> Path:
    """Writes a fake nvcc that copies the source and counts its runs."""
    folder.mkdir(parents=True, exist_ok=True)
    nvcc = folder / "nvcc"
    body = "echo 'kernel.cu(3): error: identifier \"x\" is undefined' >&2; exit 2" if fails else (
        'echo run >> "$0.runs"; for last; do :; done; while [ "$1" != -o ]; do shift; done; cp "$last" "$2"'
    )  # fmt: skip
    nvcc.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "release 13.0, V13.0.88"; exit 0; fi\n{body}\n')
    nvcc.chmod(0o755)
    return nvcc


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and no nvcc known yet."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    for key in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(key, raising=False)
    compiler.find_nvcc.cache_clear()
    return tmp_path / "cache"


@pytest.mark.skipif(sys.platform == "win32", reason="the fake nvcc is a shell script")
def test_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    nvcc = fake_nvcc(tmp_path / "home" / "bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    for _ in range(3):
        assert compiler.cubin("letterbox", "sm_90") == (compiler.KERNELS / "letterbox.cu").read_bytes()
    runs = nvcc.with_name("nvcc.runs")
    assert runs.read_text().count("run") == 1
    compiler.cubin("letterbox", "sm_89")
    assert runs.read_text().count("run") == 2
    assert len(list((cache / "cuda").iterdir())) == 2
    compiler.find_nvcc.cache_clear()


def test_the_cache_key_depends_on_every_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "a.cu").write_text("int a;")
    (folder / "b.cu").write_text("int a;")
    (folder / "h.cuh").write_text("int h;")
    monkeypatch.setattr(compiler, "KERNELS", folder)
    keys = {compiler.cache_key("a", "sm_90", "13.0.88")}
    assert compiler.cache_key("a", "sm_90", "13.0.88") in keys
    keys |= {compiler.cache_key(*what) for what in [("b", "sm_90", "13.0.88"), ("a", "sm_89", "13.0.88")]}
    keys.add(compiler.cache_key("a", "sm_90", "13.1.0"))
    (folder / "h.cuh").write_text("int g;")
    keys.add(compiler.cache_key("a", "sm_90", "13.0.88"))
    (folder / "a.cu").write_text("int b;")
    keys.add(compiler.cache_key("a", "sm_90", "13.0.88"))
    assert len(keys) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="the fake nvcc is a shell script")
def test_nvccs_error_is_raised_and_nothing_is_cached(
    monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path
) -> None:
    fake_nvcc(tmp_path / "home" / "bin", fails=True)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    with pytest.raises(EngineError, match=r"nvcc can't compile decode.cu for sm_90: kernel.cu\(3\): error"):
        compiler.cubin("decode", "sm_90")
    assert not list((cache / "cuda").iterdir())
    compiler.find_nvcc.cache_clear()


def test_without_nvcc_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda *_, **__: None)
    with pytest.raises(EngineError, match="no CUDA compiler: install the CUDA toolkit"):
        compiler.cubin("decode", "sm_90")
    assert not cache.exists()
    compiler.find_nvcc.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["letterbox", "decode"])
def test_nvcc_compiles_the_kernels(cache: Path, name: str) -> None:
    compiler.find_nvcc.cache_clear()
    try:
        compiler.find_nvcc()
    except EngineError as error:
        pytest.skip(str(error))
    assert compiler.cubin(name, "sm_90").startswith(b"\x7fELF")
    assert not subprocess.run([compiler.find_nvcc()[0], "--version"], check=True, capture_output=True).returncode
