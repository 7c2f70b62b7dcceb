"""The command line's options in the cache folder: `--help` without pydantic."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.app import option_table
from streamer.app.config import StreamConfig
from streamer.app.option_table import DeclaredOption, add_options, kept_options
from streamer.app.options import declared_options

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def declared() -> list[DeclaredOption]:
    return declared_options(StreamConfig)


def unexpected() -> list[DeclaredOption]:
    pytest.fail("the options are in the cache")


def help_of(options: list[DeclaredOption]) -> str:
    parser = argparse.ArgumentParser(prog="p")
    add_options(parser, options)
    return parser.format_help()


def kept_file(cache: Path) -> Path:
    (path,) = (cache / "options").iterdir()
    return path


def test_what_is_kept_says_and_parses_the_same() -> None:
    made = list(kept_options(declared))
    kept = list(kept_options(unexpected))
    assert help_of(kept) == help_of(made)
    arguments = [
        "--classes",
        "a,b",
        "--conf",
        "0.5",
        "--depth",
        "3",
        "--batch",
        "auto",
        "--report",
        "r.json",
        "-o",
        "x",
    ]
    parsed = []
    for options in (made, kept):
        parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
        add_options(parser, options)
        parsed.append(vars(parser.parse_args(arguments)))
    assert parsed[0] == parsed[1]
    assert {key: type(value) for key, value in parsed[1].items()}["report"] is type(Path())


def test_a_module_that_has_changed_makes_them_again(cache: Path) -> None:
    kept_options(declared)
    path = kept_file(cache)
    kept = json.loads(path.read_text())
    assert str(ROOT / "streamer" / "app" / "config.py") in kept["modules"]
    kept["modules"][str(ROOT / "streamer" / "app" / "config.py")][1] += 1
    path.write_text(json.dumps(kept))
    asked = []
    kept_options(lambda: asked.append(1) or declared())
    assert asked == [1]
    kept_options(unexpected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b"{}",
        lambda content: b'{"modules": {"/nowhere": [1, 2]}, "options": []}',
        lambda content: content.replace(b'"options": [', b'"options": [3, '),
        lambda content: b"\xff\xfe" + content,
    ],
)
def test_a_damaged_file_is_made_again(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    wanted = help_of(list(kept_options(declared)))
    path = kept_file(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert help_of(list(kept_options(declared))) == wanted
    assert help_of(list(kept_options(unexpected))) == wanted


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NANODET_STREAMER_CACHE", str(tmp_path / "file" / "cache"))
    assert help_of(list(kept_options(declared))) == help_of(list(kept_options(declared)))


@pytest.mark.parametrize("arguments", [["--help"], ["--list", "models"], ["--list", "engines"], ["--version"]])
def test_questions_import_nothing_large(arguments: list[str], cache: Path) -> None:
    code = (
        "import sys; from streamer.app.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('pydantic', 'numpy', 'cv2', 'av', 'onnx', 'openvino') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_parsers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {option.parse for option in declared()} <= {"", *option_table._PARSERS}
