from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.common import cache
from tests.test_cli import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files; no other is set, and the system knows no home of any user."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    for name in ("NANODET_STREAMER_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "nanodet-streamer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cached_file("a", "b") == tmp_path / "x" / "nanodet-streamer" / "a" / "b"
    monkeypatch.setenv("NANODET_STREAMER_CACHE", "/mine")
    assert cache.cached_file("b") == Path("/mine/b")


def test_without_a_home_it_is_a_folder_of_this_user_alone(temporary: Path) -> None:
    folder = cache.cache_dir()
    assert folder == cache.cached_file("x").parent == temporary / f"nanodet-streamer-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("planted", ["open", "link", "file"])
def test_a_folder_that_others_may_write_is_not_trusted(planted: str, temporary: Path, tmp_path: Path) -> None:
    path = temporary / f"nanodet-streamer-{os.getuid()}"
    if planted == "open":
        path.mkdir()
        path.chmod(0o777)
    elif planted == "link":
        path.symlink_to(tmp_path)
    else:
        path.write_text("")
    folder = cache.cache_dir()
    assert folder not in (path, tmp_path)
    assert folder.is_dir()
    assert folder == cache.cache_dir()


def test_what_is_in_a_folder_that_cannot_be_written_is_found(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = tmp_path / ".cache" / "nanodet-streamer" / "model.onnx"
    kept.parent.mkdir(parents=True)
    kept.write_text("")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert cache.cached_file("model.onnx") == kept
    assert cache.cached_file("other.onnx").parent.parent == temporary


def test_a_home_that_is_no_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)
    assert cache.cache_dir().parent == temporary


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that the system doesn't know")
def test_openvino_is_imported_for_a_user_without_a_home() -> None:
    code = (
        "import os; import ctypes; os.environ.pop('HOME', None); import pwd; "
        "pwd.getpwuid = lambda uid: {}[uid]; import streamer.engines.openvino_engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
