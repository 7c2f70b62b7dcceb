"""The wheel and the sdist: what is in them, that they build alike anywhere, and that `pipx` and `uvx` run the wheel."""

from __future__ import annotations

import email.message
import email.parser
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamer import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(command: Sequence[str | Path], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-2000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def hatchling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the build backend."""
    folder = tmp_path_factory.mktemp("hatchling")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "-q", "hatchling"], capture_output=True, timeout=300)
    if installed.returncode:
        pytest.skip("no package index is reachable")
    return python


def copy_of_project(folder: Path, mode: int) -> Path:
    """Copies what belongs to the project, with new dates, and files of another mode."""
    ignored = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", ".hypothesis", ".venv", "build", "dist")
    shutil.copytree(ROOT, folder, ignore=ignored, copy_function=shutil.copyfile)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    return folder


def build(python: Path, project: Path, out: Path, date: str) -> dict[str, Path]:
    """Builds the wheel and the sdist; returns them by their endings."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": date}
    run([python, "-m", "hatchling", "build", "-d", out], cwd=project, env=environment)
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def built(hatchling: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel (.whl) and the sdist (.gz)."""
    folder = tmp_path_factory.mktemp("built")
    return build(hatchling, copy_of_project(folder / "project", 0o644), folder / "out", "1700000000")


@pytest.fixture(scope="module")
def metadata(built: dict[str, Path]) -> email.message.Message:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(wheel.read(name).decode())


def test_two_builds_are_equal_to_the_byte(built: dict[str, Path], hatchling: Path, tmp_path: Path) -> None:
    again = build(hatchling, copy_of_project(tmp_path / "elsewhere" / "p", 0o664), tmp_path / "out", "1700000000")
    for ending, path in built.items():
        assert path.name == again[ending].name
        assert path.read_bytes() == again[ending].read_bytes()


def test_the_wheel_of_the_sdist_is_that_of_the_clone(built: dict[str, Path], hatchling: Path, tmp_path: Path) -> None:
    with tarfile.open(built[".gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = tmp_path.iterdir()
    again = build(hatchling, project, tmp_path / "out", "1700000000")
    assert built[".whl"].read_bytes() == again[".whl"].read_bytes()


def test_the_wheel_holds_the_program_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"streamer", "calibration", f"nanodet_streamer-{__version__}.dist-info"}
    for wanted in (
        "streamer/py.typed",
        "streamer/data/nanodet-g_416.onnx",
        "streamer/data/sample.mp4",
        "streamer/configs/models/nanodet-g.yaml",
        f"nanodet_streamer-{__version__}.dist-info/licenses/LICENSE",
        f"nanodet_streamer-{__version__}.dist-info/licenses/NOTICE",
    ):
        assert wanted in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".orig", ".rej"))]
    assert built[".whl"].stat().st_size < 16e6


def test_the_sdist_holds_what_the_tests_read(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = run(["git", "ls-files"], cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    assert {name for name in kept if not name.startswith(".git")} - names == set()


def test_the_metadata_is_complete(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "nanodet-streamer"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"]
    assert metadata["Author"]
    assert metadata.get_all("Project-URL")
    classifiers = metadata.get_all("Classifier") or []
    assert len(classifiers) == len(set(classifiers))
    for minor in (11, 12, 13, 14):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert "Typing :: Typed" in classifiers
    assert set(metadata.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("uvx", ["--from", "{wheel}"]),
        ("pipx", ["run", "--spec", "{wheel}"]),
    ],
)
def test_the_wheel_runs_without_being_installed(
    tool: str, options: list[str], built: dict[str, Path], tmp_path: Path
) -> None:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    command = [found, *(option.format(wheel=built[".whl"]) for option in options), "nanodet-stream"]
    environment = {**os.environ, "NANODET_STREAMER_CACHE": str(tmp_path / "cache"), "PIPX_HOME": str(tmp_path / "pipx")}
    environment.pop("PYTHONPATH", None)
    assert run([*command, "--version"], cwd=tmp_path, env=environment) == f"nanodet-stream {__version__}\n"
    run([*command, "sample", "-o", "out.jsonl", "--max-frames", "5", "-q"], cwd=tmp_path, env=environment)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
