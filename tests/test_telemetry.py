"""Nothing that the program imports reports its use: no connection, no process, no file in the home folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import ROOT, command
from tests.tiny import write_tiny

_ASKS = {"CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI"}
"""Where one of these is set, OpenVINO and NNCF report nothing anyway."""

IMPORTS_NNCF = "from calibration.methods import require_packages; require_packages()"


def check_silent(tmp_path: Path, arguments: list[str]) -> None:
    """Runs a program whose every HTTP request would come to a proxy of ours, and whose home is empty."""
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if name not in _ASKS}
        environment = kept | {"HOME": str(home), "https_proxy": url, "http_proxy": url, "no_proxy": ""}
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert not (home / "intel").exists()


def test_a_run_reports_nothing(tmp_path: Path, engine: str) -> None:
    model = write_tiny(tmp_path / "tiny.onnx")
    check_silent(
        tmp_path,
        command("--source", "sample", "--max-frames", "2", "--output", "null", "--model", model, "--engine", engine),
    )


def test_quantising_reports_nothing(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs NNCF")
    check_silent(tmp_path, [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {IMPORTS_NNCF}"])
