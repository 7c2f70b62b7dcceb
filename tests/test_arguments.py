"""What people type: sources by position, short options, lengths of time, and what is said of a slip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from calibration.cli import main as calibration
from streamer.app.cli import _parsed, main
from streamer.app.config import read_config
from streamer.common.errors import ConfigError
from streamer.sinks.paths import OutputPaths
from streamer.sinks.spec import OutputSpec
from streamer.sources import open_source
from tests.media import number_of, write_image

ROOT = Path(__file__).parent.parent


def sources_of(*arguments: str) -> list[str]:
    return [str(spec) for spec in read_config(None, _parsed(arguments)).source]


@pytest.mark.parametrize(
    ("arguments", "sources"),
    [
        ([], ["sample"]),
        (["clip.mp4"], ["clip.mp4"]),
        (["0", "rtsp://host/1"], ["0", "rtsp://host/1"]),
        (["-o", "x.mp4", "clip.mp4"], ["clip.mp4"]),
        (["a.mp4", "-o", "x.mp4", "b.mp4", "--conf", "0.5", "door=0"], ["a.mp4", "b.mp4", "0"]),
        (["--source", "a.mp4", "b.mp4"], ["b.mp4", "a.mp4"]),
        (["--", "-odd.mp4"], ["-odd.mp4"]),
    ],
)
def test_sources_by_position(arguments: list[str], sources: list[str]) -> None:
    assert sources_of(*arguments) == sources


def test_pictures_that_a_shell_wrote_out_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number in range(3):
        write_image(folder / f"{number}.png", number)
    config = read_config(None, _parsed(["0.png", "2.png", "1.png", "clip.mp4", "me=0.png"]))
    assert [spec.name for spec in config.source] == ["holiday", "clip", "me"]
    assert str(config.source[0]) == "0.png and 2 more"
    with open_source(config.source[0]) as source:
        assert [number_of(frame.image) for frame in source] == [0, 2, 1]
        for output in ("0.png", "./", str(folder / "2.png")):
            with pytest.raises(ConfigError, match="is also the source '0.png and 2 more'"):
                OutputPaths().check([(OutputSpec.parse(output), "holiday")], [source.info])
    assert sources_of("0.png", "missing.png") == ["0.png", "missing.png"]
    assert main(["0.png", "2.png", "-o", "found/", "-q"]) == 0
    assert sorted(path.name for path in (folder / "found").iterdir()) == ["0.png", "2.png"]


def test_a_source_by_position_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("source: a.mp4\nconf: 0.2")
    options = _parsed(["--config", str(tmp_path / "c.yaml"), "b.mp4"])
    config = read_config(options.pop("config"), options)
    assert [str(spec) for spec in config.source] == ["b.mp4"] and config.conf == 0.2


def test_short_options() -> None:
    config = read_config(None, _parsed(["-o", "a.mp4", "-oa.jsonl", "-m", "x.onnx", "-v"]))
    assert [str(output) for output in config.output] == ["a.mp4", "a.jsonl"]
    assert (config.model, config.log_level, config.level, config.quiet) == ("x.onnx", "debug", "DEBUG", False)
    quiet = read_config(None, _parsed(["-q"]))
    assert quiet.quiet and quiet.level == "WARNING"
    assert read_config(None, _parsed(["-q", "--log-level", "error"])).level == "ERROR"


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--duration", "1h30m"], "duration", 5400),
        (["--duration", "8"], "duration", 8),
        (["--segment", "10m"], "segment", 600),
        (["--segment", "600"], "segment", 600),
        (["--stall-timeout", "2m"], "stall_timeout", 120),
        (["--stall-timeout", "0.5"], "stall_timeout", 0.5),
        (["--batch-timeout", "0.5s"], "batch_timeout", 500),
        (["--batch-timeout", "20ms"], "batch_timeout", 20),
        (["--batch-timeout", "20"], "batch_timeout", 20),
        (["--batch-timeout", "0"], "batch_timeout", 0),
    ],
)
def test_lengths_of_time_are_written_alike(options: list[str], key: str, value: float, tmp_path: Path) -> None:
    assert getattr(read_config(None, _parsed(options)), key) == pytest.approx(value)
    written = tmp_path / "c.yaml"
    written.write_text(f"{key}: {options[1]}")
    assert getattr(read_config(written, {}), key) == pytest.approx(value)


@pytest.mark.parametrize("key", ["duration", "segment", "stall_timeout", "batch_timeout"])
@pytest.mark.parametrize("text", ["soon", "10M", "1h30", "-1", ""])
def test_what_is_no_length_of_time(key: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--{key.replace('_', '-')}", text]) == 2
    assert f"{key}: wanted a length of time such as 90s, 10m or 24h, got {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        (main, ["--sorce", "0"], "unrecognized arguments: --sorce; did you mean '--source'?"),
        (main, ["--detect-evry=3"], "unrecognized arguments: --detect-evry=3; did you mean '--detect-every'?"),
        (main, ["-output", "x.mp4"], "unrecognized arguments: -output; did you mean '--output'?"),
        (main, ["--zzzz"], "unrecognized arguments: --zzzz"),
        (main, ["--policy", "evry-frame"], "invalid choice: 'evry-frame'; did you mean 'every-frame'?"),
        (main, ["--list", "model"], "invalid choice: 'model'; did you mean 'models'?"),
        (main, ["--pasword=hunter2@x"], "unrecognized arguments: ***@x"),
        (calibration, ["trian"], "invalid choice: 'trian'; did you mean 'train'?"),
        (calibration, ["train", "--epocks", "3"], "unrecognized arguments: --epocks; did you mean '--epochs'?"),
        (calibration, ["train", "-data", "x"], "unrecognized arguments: -data; did you mean '--data'?"),
        (calibration, ["train", "--recipe", "upstrem"], "invalid choice: 'upstrem'; did you mean 'upstream'?"),
        (calibration, ["val", "--modle", "x"], "unrecognized arguments: --modle; did you mean '--model'?"),
        (calibration, ["check", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_slip_is_one_line_of_usage_and_one_with_the_nearest(
    program: object, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(program)
    with pytest.raises(SystemExit) as ended:
        program(arguments)
    assert ended.value.code == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: ") and usage.endswith("; --help explains them")
    assert says in error and "hunter2" not in error


def test_a_misspelt_choice_in_a_file_is_offered_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("policy: freshes")
    with pytest.raises(Exception, match="policy: .*; did you mean 'freshest', got 'freshes'"):
        read_config(tmp_path / "c.yaml", {})


def test_an_abbreviated_option_of_a_verb_is_still_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration(["train", "--epoch", "3"]) != 0  # without a model, or without its packages
    assert capsys.readouterr().err.startswith("error: train ")


def test_python_m_streamer_is_the_program(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streamer", "sample", "--max-frames", "2", "-o", "null", *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    loud, quiet = run(), run("-q")
    assert loud.returncode == quiet.returncode == 0, loud.stderr
    assert "2 frames" in loud.stdout and "INFO: engine" in loud.stderr and "WARNING" not in loud.stderr
    assert quiet.stdout == quiet.stderr == ""
