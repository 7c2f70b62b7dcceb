"""Runs mutation tests of one module with its fast tests: ``python -m tools.mutate queues`` (needs mutmut 3).

mutmut mutates a copy of the working tree in a temporary folder; survivors are printed with their change.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_SECRETS = "tests/test_secrets.py::test_"
MODULES = {
    "postprocess": ("streamer/models/postprocess.py", ["tests/test_decode.py"]),
    "letterbox": ("streamer/models/letterbox.py", ["tests/test_letterbox.py"]),
    "queues": ("streamer/common/queues.py", ["tests/test_queues.py"]),
    "batcher": ("streamer/runtime/batcher.py", ["tests/test_batcher.py", "tests/test_batcher_limits.py"]),
    "draw": ("streamer/frames/draw.py", ["tests/test_draw.py"]),
    "retention": ("streamer/sinks/retention.py", ["tests/test_sinks_retain.py", "tests/test_sinks_retain_clocks.py"]),
    "gate": ("calibration/gate.py", ["tests/test_accuracy_gate.py"]),
    "bootstrap": ("calibration/bootstrap.py", ["tests/test_gate.py", "tests/test_quantize.py", "tests/test_val.py"]),
    "matching": ("calibration/matching.py", ["tests/test_gate.py", "tests/test_quantize.py", "tests/test_val.py"]),
    "thresholds": ("calibration/thresholds.py", ["tests/test_val.py"]),
    "frame_choice": ("calibration/frame_choice.py", ["tests/test_frame_choice.py"]),
    "redaction": (
        "streamer/common/redaction.py",
        [
            "tests/test_redaction.py",
            f"{_SECRETS}what_is_printed_of_a_uri",
            f"{_SECRETS}a_password_with_raw_delimiters_is_hidden_in_whole",
            f"{_SECRETS}quotes_within_a_uri_and_a_quote_that_is_cut_off_hide_nothing_less",
        ],
    ),
}
_OPTIONS = ["-p", "no:cacheprovider", "-n", "0", "-x", "-q", "--hypothesis-seed=0", "-m", "not slow and not shared"]
_FOLDERS = ("streamer", "calibration", "configs", "benchmarks", "tools", "examples", "run_stream.py")
_LEFT = re.compile(r"([\w.ǁ]+): (survived|no tests|suspicious)")


def mutate(name: str, folder: Path) -> None:
    """Runs mutmut on a copy of the working tree in `folder` and prints the survivors."""
    source, tests = MODULES[name]
    root = Path(__file__).parent.parent
    shutil.copytree(root, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "mutants"))
    package = source.partition("/")[0]
    settings = {
        "source_paths": [package],
        "only_mutate": [source],
        "also_copy": [each for each in _FOLDERS if each != package],
        "pytest_add_cli_args": _OPTIONS,
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    with (folder / "pyproject.toml").open("a") as file:
        file.write("\n".join(["\n[tool.mutmut]", *lines, ""]))
    subprocess.run(["mutmut", "run", "--max-children", "1"], cwd=folder, check=False)
    found = subprocess.run(["mutmut", "results"], cwd=folder, check=True, capture_output=True, text=True).stdout
    for mutant, _ in _LEFT.findall(found):
        subprocess.run(["mutmut", "show", mutant], cwd=folder, check=False)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MODULES:
        sys.exit(f"usage: python -m tools.mutate {'|'.join(MODULES)}")
    with TemporaryDirectory() as temporary:
        mutate(sys.argv[1], Path(temporary))
