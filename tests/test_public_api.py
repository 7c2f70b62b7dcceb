"""The public API: names, docstring examples, and the scripts of examples/."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamer

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"supervision_interop": "supervision", "track_objects": "trackers", "int8_from_checkpoint": "faster_coco_eval"}


@pytest.mark.parametrize("name", streamer.__all__)
def test_public_names_exist_and_are_described(name: str) -> None:
    assert name == "__version__" or getattr(streamer, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'open_sauce'"):
        _ = streamer.open_sauce


def test_the_package_is_typed() -> None:
    assert (ROOT / "streamer" / "py.typed").is_file()


def test_the_example_of_the_package_runs() -> None:
    assert doctest.testmod(streamer).attempted == 2
    assert doctest.testmod(streamer).failed == 0


def test_there_are_enough_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.slow
def test_the_code_on_the_page_of_the_library_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "person" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(path.stem)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
