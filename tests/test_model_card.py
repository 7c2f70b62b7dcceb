from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.accuracy import Accuracy, ClassAccuracy
from calibration.run_folder.curves import detection_curves
from calibration.run_folder.folder import RunFolder
from calibration.run_folder.model_card import MeasuredAccuracy, ModelCard, Speed, SplitCounts
from tests.found import found, plausible, sample

NAMES = ("RBC", "WBC", "a|b <i>")
LEAST = ModelCard(
    folder=RunFolder(Path("runs/train-1")),
    names=NAMES,
    network="nanodet-g_416",
    activation="ReLU",
    input_size_wh=(416, 416),
    data="cells/data.yaml",
    splits={
        "train": SplitCounts(205, 3, {"RBC": 2500, "WBC": 12, "a|b <i>": 0}),
        "test": SplitCounts(72, 0, {"RBC": 800, "WBC": 72}),
    },
    measured_on="test",
    command="python -m calibration train --model nanodet-g_416 --data cells/data.yaml --int8",
)
FLOAT = MeasuredAccuracy(
    Accuracy(58.04, 88.5, 66.0, float("nan"), 40.0, 60.0, {"RBC": ClassAccuracy(61.0, 90.0, 800)}), (54.96, 61.2)
)
INT8 = MeasuredAccuracy(Accuracy(57.9, 88.1, 65.0, float("nan"), 39.5, 59.0, {"RBC": ClassAccuracy(60.5, 89.0, 800)}))
BOX = (100.0, 100.0, 200.0, 200.0)
CURVES = detection_curves([sample((0, *BOX))], [found((0, 0.8, *BOX), (0, 0.6, 0, 0, 9, 9))], NAMES)


def section(card: ModelCard, title: str) -> str:
    return card.to_markdown().partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]


def test_counts_of_a_split() -> None:
    samples = [sample((0, *BOX), (1, *BOX), (1, *BOX), crowds=(2,)), sample()]
    assert SplitCounts.of(samples, NAMES) == SplitCounts(2, 1, {"RBC": 1, "WBC": 1, "a|b <i>": 0})
    assert SplitCounts.of([], NAMES).objects == dict.fromkeys(NAMES, 0)


def test_nothing_is_invented() -> None:
    text = LEAST.to_markdown()
    assert "## Accuracy" not in text and "## Speed" not in text and "## Training" not in text
    assert not re.search(r"\b(None|nan)\b|--conf", text)
    assert "Licences of the initial weights and of the pictures aren't recorded here" in text
    assert text.startswith("# train-1: nanodet-g_416\n")
    assert "\n\n\n" not in text


def test_accuracy_of_both_models() -> None:
    card = replace(LEAST, float_accuracy=FLOAT, int8_accuracy=INT8)
    assert "split `test`, 72 pictures" in section(card, "Accuracy")
    assert rows(section(card, "Accuracy"))[2:] == [
        ["float", "58.0", "55.0 to 61.2", "88.5", "66.0", "-", "40.0", "60.0"],
        ["INT8", "57.9", "-", "88.1", "65.0", "-", "39.5", "59.0"],
    ]
    assert rows(section(card, "By class"))[2] == ["RBC", "800", "60.5", "89.0"]


@pytest.mark.parametrize(("accuracy", "model"), [(INT8, "best_int8.onnx"), (None, "best.onnx")])
def test_command_to_stream(accuracy: MeasuredAccuracy | None, model: str) -> None:
    card = replace(LEAST, int8_accuracy=accuracy, curves=CURVES)
    best = CURVES.overall.best
    assert best is not None
    command = f"python run_stream.py --model runs/train-1/{model} --source 0 --conf {best.threshold:g}"
    assert card.stream_command == command
    assert command in section(card, "Use")


def test_folder_names_are_quoted_for_the_shell() -> None:
    assert (
        "--model 'my runs/train-1/best.onnx'"
        in replace(LEAST, folder=RunFolder(Path("my runs/train-1"))).stream_command
    )


def test_thresholds() -> None:
    card = replace(LEAST, curves=CURVES)
    assert rows(section(card, "Use"))[2] == ["0.699", "best F1", "1.00", "1.00", "1.00"]
    assert rows(section(card, "By class"))[0][-1] == "threshold for precision 0.9"
    assert rows(section(card, "By class"))[2][-3:] == ["0.699", "1.00", "0.799"]
    unreached = detection_curves([sample((0, *BOX))], [found((0, 0.5, *BOX), (0, 0.5, 0, 0, 9, 9))], NAMES)
    assert "precision 0.9: not reached" in section(replace(LEAST, curves=unreached), "Use")
    assert rows(section(replace(LEAST, curves=unreached), "By class"))[2][-1] == "not reached"


def test_limits_follow_from_the_counts() -> None:
    limits = section(LEAST, "Limits")
    assert "No object to learn from: a\\|b &lt;i>." in limits
    assert "Fewer than 50 objects to learn from: WBC." in limits
    assert "No object in `test`, so not measured: a\\|b &lt;i>." in limits
    assert "Measured on 72 pictures" in limits
    enough = {
        "train": SplitCounts(500, 0, dict.fromkeys(NAMES, 99)),
        "test": SplitCounts(200, 0, dict.fromkeys(NAMES, 9)),
    }
    assert "## Limits" not in replace(LEAST, splits=enough).to_markdown()
    assert section(replace(LEAST, splits=enough, limits=("Only at night.",)), "Limits").strip() == "- Only at night."


def test_data_training_speed_and_versions() -> None:
    card = replace(
        LEAST,
        initial_weights="packaged weights; the head is made anew",
        recipe="default",
        seed=0,
        epochs=100,
        steps=1200,
        batch=16,
        time_s=3725.4,
        machine="one GPU",
        speeds=(Speed("INT8", "openvino", 98.04, 10.2), Speed("float", "onnxruntime", latency_ms=20.0)),
        speed_machine="a processor",
        confused=(("WBC", "RBC", 3),),
        curves=CURVES,
        versions={"torch": "2.13", "numpy": "2.4"},
        licences=("MIT.",),
    )
    assert rows(section(card, "Data"))[2:5] == [
        ["pictures", "205", "72"],
        ["of them without objects", "3", "0"],
        ["RBC", "2500", "800"],
    ]
    training = section(card, "Training")
    assert "- seed: 0\n" in training and "- time: 1 h 2 min\n" in training and "- steps: 1200\n" in training
    assert rows(section(card, "Speed"))[2:] == [
        ["INT8", "openvino", "98.0", "10.20"],
        ["float", "onnxruntime", "-", "20.00"],
    ]
    assert "Most often confused: WBC as RBC (3)." in section(card, "By class")
    assert "Versions: numpy 2.4, torch 2.13." in section(card, "Reproduce")
    assert card.command in section(card, "Reproduce")
    assert section(card, "Licences").strip() == "- MIT."


def test_tables_have_as_many_cells_in_each_row() -> None:
    labels, detected = plausible(0, 3, 20)
    card = replace(LEAST, float_accuracy=FLOAT, int8_accuracy=INT8, curves=detection_curves(labels, detected, NAMES))
    tables = re.findall(r"(?:^\|.*\n)+", card.to_markdown(), re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1, table


def test_writing(tmp_path: Path) -> None:
    card = replace(LEAST, folder=RunFolder(tmp_path), names=("安全帽",))
    card.write()
    assert (tmp_path / "model_card.md").read_text(encoding="utf-8") == card.to_markdown()
    assert "Detects 1 class: 安全帽." in card.to_markdown()
