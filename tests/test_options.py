"""The command line's options: declared once, listed in groups, and quick to list."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamer import __version__
from streamer.app.cli import _parsed, main
from streamer.app.config import StreamConfig
from streamer.app.option_table import GROUPS

ROOT = Path(__file__).parent.parent
OPTIONS = """
    --source --max-pixels --camera-size --camera-fps --camera-format --reconnect --stall-timeout --rtsp-transport
    --tls-verify --model --model-config --engine --device --precision --conf --iou --classes --no-self-check --output
    --segment --retain --quality --encoder --audio --no-audio --layout --overlay --report --policy --pace
    --timestamp --max-fps --detect-every --depth --batch --batch-timeout --decode --decode-processes --max-frames
    --duration --no-progress --quiet --log-level --verbose --config --list --completion --version --no-round
    --record --yolo-scores
    --clips --clip-on --clip-frames --clip-before --clip-after --clip-max --clip-overlay
    --track --min-size --max-size --ignore --ignore-at --top-k
    --web-token --web-cert --web-key --web-host --web-folder
"""


def shown_by(argument: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([argument])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_each_option_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_by("--help", capsys)
    assert [line[:-1] for line in text.splitlines() if line[:-1] in GROUPS and line.endswith(":")] == list(GROUPS)
    listed = re.findall(r"^  (?:-\w(?: [A-Z|]+)?, )?(--[a-z-]+)", text, re.MULTILINE)
    assert sorted(listed) == sorted([*OPTIONS.split(), "--help"])
    keys = {option.removeprefix("--").removeprefix("no-").replace("-", "_") for option in listed}
    fields = {field.alias or name for name, field in StreamConfig.model_fields.items()}
    assert keys - {"completion", "config", "help", "list", "verbose", "version"} == fields - {"overrides", "events"}


def test_help_names_defaults_and_units_and_ends_with_three_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown_by("--help", capsys).split()).replace("-m NAME|FILE, --model", "-m, --model")  # before 3.13
    assert "--conf 0..1 lowest score to report (default: 0.4)" in text
    assert "--stall-timeout TIME time without a frame after which a camera or stream is lost (default: 5s)" in text
    assert "-m, --model NAME|FILE a name of --list models, or an ONNX file (default: nanodet-g_416)" in text
    assert text.partition("examples:")[2].count("nanodet-stream ") == 6


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_by("--version", capsys) == f"nanodet-stream {__version__}\n"


@pytest.mark.parametrize("argument", ["--help", "--version", "--detpth"])
def test_heavy_libraries_are_not_imported_to_read_the_command_line(argument: str) -> None:
    code = (
        "import atexit, sys; from streamer.app.cli import main\n"
        "heavy = ('av', 'cv2', 'numpy', 'openvino', 'onnx', 'torch')\n"
        f"atexit.register(lambda: print([name for name in heavy if name in sys.modules])); main(['{argument}'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_options_keep_their_types_until_the_configuration_checks_them(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["--depth", "x"], "argument --depth: invalid int value: 'x'"),
        (["--policy", "newest"], "argument --policy: invalid choice: 'newest'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
    for arguments, says in (
        (["--batch", "x"], "batch"),
        (["--conf", "high"], "conf: input should be a valid number, unable to parse string as a number, got 'high'"),
        (["--reconnect", "never"], "reconnect"),
        (["--segment", "10x"], "segment: wanted a length of time such as 90s, 10m or 24h, got '10x'"),
        (["--quality", "101"], "quality: wanted low, medium, high, best or a number from 1 to 100, got '101'"),
        (["--classes", " ,"], "classes: wanted at least one label"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert says in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "line, track, source",
    [
        ("--track", "auto", None),
        ("--track clip.mp4", "auto", "clip.mp4"),
        ("--track ocsort clip.mp4", "ocsort", "clip.mp4"),
        ("--track -o null", "auto", None),
        ("--track=off -- --track", "off", "--track"),
    ],
)
def test_an_option_that_may_stand_alone_takes_no_source_for_its_value(
    line: str, track: str, source: str | None
) -> None:
    parsed = _parsed(line.split())

    assert parsed["track"] == track
    assert parsed.get("source", [None])[0] == source


def test_a_misspelt_value_of_an_option_that_may_stand_alone_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parsed(["--track", "bytetrak"])
    assert "did you mean 'bytetrack'" in capsys.readouterr().err
