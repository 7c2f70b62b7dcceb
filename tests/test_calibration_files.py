"""What the verbs of calibration write: over nothing that they read, and over nobody's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.__main__ import main
from calibration.files import check_output, check_report
from streamer.common.errors import ConfigError
from tests.tiny import write_tiny


def test_an_output_is_none_of_its_inputs_whatever_leads_there(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m.onnx")
    (tmp_path / "link.onnx").symlink_to(model)
    (tmp_path / "hard.onnx").hardlink_to(model)
    for name in ("m.onnx", "link.onnx", "hard.onnx", "../" + tmp_path.name + "/m.onnx"):
        with pytest.raises(ConfigError, match="the output is the input itself"):
            check_output(tmp_path / name, None, model)
    check_output(tmp_path / "other.onnx", None, model, ending=".onnx")


@pytest.mark.parametrize(
    ("name", "words"), [("m.json", r"ends in \.onnx"), ("", "is a folder"), ("none/m.onnx", "folder doesn't exist")]
)
def test_an_output_that_cannot_be_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        check_output(tmp_path / name, ending=".onnx")


def test_a_report_replaces_only_its_like(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    check_report(path, rb'\{\s*"model"')
    for content in ("", "\n", '{\n  "model": "x"}'):
        path.write_text(content)
        check_report(path, rb'\{\s*"model"')
    path.write_text('{"images": []}')
    with pytest.raises(ConfigError, match="is not such a report"):
        check_report(path, rb'\{\s*"model"')


@pytest.mark.parametrize("what", ["model", "model config", "label"])
def test_figures_replace_nothing_that_is_measured(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "m.onnx")
    config = tmp_path / "m.yaml"
    config.write_text("family: nanodet\n")
    label = tmp_path / "a.txt"
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    file = {"model": model, "model config": config, "label": label}[what]
    before = file.read_bytes()
    status = main(
        ["evaluate", "--model", str(model), "--model-config", str(config), "--images", str(tmp_path),
         "--labels", str(tmp_path), "--json", str(file)]
    )  # fmt: skip
    assert status == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ["m.md", "m.json"])
def test_quantize_leaves_pages_that_are_there(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="quantize needs the packages of the extra calibration")
    pytest.importorskip("nncf", reason="quantize needs the packages of the extra calibration")
    model = write_tiny(tmp_path / "float.onnx")
    (tmp_path / name).write_text("# My notes\n")
    status = main(["quantize", str(model), "-o", str(tmp_path / "m.onnx"), "--images", str(tmp_path)])
    assert status == 2
    assert f"{name}: exists and is not such a report" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "# My notes\n"
