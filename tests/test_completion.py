"""Completion of the command line in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.app.cli import main

ROOT = Path(__file__).parent.parent
BASH = shutil.which("bash")


@pytest.fixture
def completed(tmp_path: Path) -> object:
    """Returns what bash offers for a command line, by a program on the path that is this one."""
    pytest.importorskip("argcomplete", reason="needs argcomplete")
    if BASH is None:
        pytest.skip("needs bash")
    program = tmp_path / "bin" / "nanodet-stream"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "run_stream.py"} "$@"\n')
    program.chmod(0o755)
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("clip.mp4", "mine.onnx", "notes.txt", "run.yaml"):
        (folder / name).touch()

    def ask(line: str) -> list[str]:
        script = (
            'eval "$(nanodet-stream --completion bash)"\n'
            "complete -p nanodet-stream >/dev/null || exit 9\n"
            'COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9; COMPREPLY=()\n'
            '_python_argcomplete nanodet-stream "" ""\n'
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            [BASH or "", "-c", script, "bash", line], cwd=folder, capture_output=True, text=True, timeout=120,
            env=os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return [word.strip() for word in done.stdout.splitlines() if word.strip()]

    return ask


def test_bash_completes_options_values_and_files(completed: object) -> None:
    assert callable(completed)
    assert completed("nanodet-stream --po") == ["--policy"]
    assert completed("nanodet-stream clip.mp4 --policy ") == ["auto", "every-frame", "freshest"]
    assert completed("nanodet-stream --policy=f") == ["freshest"]
    assert set(completed("nanodet-stream -m ")) >= {"nanodet-g_416", "mine.onnx"}
    assert "notes.txt" not in completed("nanodet-stream -m ")
    assert set(completed("nanodet-stream cl")) == {"clips", "clip.mp4"}
    assert completed("nanodet-stream --config ") == ["run.yaml"]
    assert "person,car" in completed("nanodet-stream --classes person,c")
    assert set(completed("nanodet-stream -o ")) >= {"window", "null", "-"}
    assert completed("nanodet-stream --conf ") == []


def test_without_the_package_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("argcomplete", "argcomplete.shell_integration"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["--completion", "bash"]) == 1
    assert capsys.readouterr().err == "error: completion needs a package that is missing: pip install argcomplete\n"
