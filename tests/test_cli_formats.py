"""The program and each kind of output beside the videos: per source, with one engine, read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import pytest
import yaml

from tests.media import write_clip, write_image
from tests.test_cli import model, run  # noqa: F401 - `model` is a fixture


def test_every_kind_of_output_of_two_sources(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "a.mp4", 5)
    write_clip(tmp_path / "b.mp4", 9)
    kinds = ("{source}.csv", "{source}.coco.json", "{source}.gif", "{source}.yolo/", "{source}.crops", "{source}.jsonl")
    outputs = [argument for kind in kinds for argument in ("--output", kind)]
    done = run(tmp_path, "--source", "a.mp4", "--source", "b.mp4", "--model", model, *outputs, "--conf", "0")
    assert done.returncode == 0, done.stderr
    for name, count in (("a", 5), ("b", 9)):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        detections = sum(len(line["detections"]) for line in lines)
        coco = json.loads((tmp_path / f"{name}.coco.json").read_text())
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert (len(coco["images"]), len(coco["annotations"]), len(rows)) == (count, detections, detections)
        assert detections > 0
        labels = sorted((tmp_path / f"{name}.yolo/labels").iterdir())
        assert [file.name for file in labels] == [f"frame_{index:06d}.txt" for index in range(count)]
        assert sum(len(file.read_text().splitlines()) for file in labels) == detections
        assert yaml.safe_load((tmp_path / f"{name}.yolo/data.yaml").read_text())["names"]
        assert list((tmp_path / f"{name}.crops").glob(f"*/{name}_*.jpg"))
        assert (tmp_path / f"{name}.gif").read_bytes()[:6] == b"GIF89a"


def test_one_picture_gives_one_picture(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_image(tmp_path / "a.png", 3)
    done = run(tmp_path, "--source", "a.png", "--model", model, "--output", "result.jpg")
    assert done.returncode == 0, done.stderr
    read = cv2.imread(str(tmp_path / "result.jpg"))
    assert read is not None and read.shape == (cv2.imread(str(tmp_path / "a.png"))).shape


@pytest.mark.parametrize("source", ["clip.mp4", "folder/"])
def test_one_picture_of_many_is_refused_but_for_the_first(
    source: str, tmp_path: Path, model: Path  # noqa: F811
) -> None:  # fmt: skip
    write_clip(tmp_path / "clip.mp4", 5)
    (tmp_path / "folder").mkdir()
    for number in range(2):
        write_image(tmp_path / "folder" / f"{number}.png", number)
    arguments = ("--source", source, "--model", model, "--output", "result.jpg")
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        f"error: the output 'result.jpg' holds one picture, and the source {source.strip('/').removesuffix('.mp4')!r} "
        "gives more: use folder/ for one a frame, or --max-frames 1 for the first"
    )
    assert not (tmp_path / "result.jpg").exists()
    assert run(tmp_path, *arguments, "--max-frames", "1").returncode == 0
    assert (tmp_path / "result.jpg").exists()


def test_segments_of_csv(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "a.mp4", 45)
    done = run(tmp_path, "--source", "a.mp4", "--model", model, "--output", "out.csv", "--segment", "1s")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out-*Z.csv"))) == 2
    refused = run(tmp_path, "--source", "a.mp4", "--model", model, "--output", "out.gif", "--segment", "1s")
    assert refused.returncode == 2
    assert "segment needs a video, JSON lines or CSV among the outputs, got out.gif" in refused.stderr


def test_each_source_reports_what_it_is_asked_for(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "clip.mp4", 4)
    (tmp_path / "run.yaml").write_text(
        f"model: {model}\nconf: 0.001\nsource:\n"
        "  all: {uri: clip.mp4}\n"
        "  none: {uri: clip.mp4, ignore: '0,0 1,0 1,1 0,1'}\n"
        "  best: {uri: clip.mp4, top_k: 2}\n"
        "  large: {uri: clip.mp4, min_size: 0.2}\n"
        "  class: {uri: clip.mp4, classes: [0]}\n"
        "  sure: {uri: clip.mp4, conf: '0=0.9,0.01'}\n"
    )
    done = run(tmp_path, "--config", "run.yaml", "--output", "{source}.jsonl")
    assert done.returncode == 0, done.stderr
    found = {
        name: [json.loads(line)["detections"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("all", "none", "best", "large", "class", "sure")
    }
    first = json.loads((tmp_path / "all.jsonl").read_text().splitlines()[0])
    width, height = first["width"], first["height"]
    assert all(len(frames) == 4 for frames in found.values())
    assert sum(map(len, found["all"])) > 8 and not any(found["none"])
    for index, everything in enumerate(found["all"]):
        assert found["best"][index] == everything[:2]
        sides = [(box[2] - box[0], box[3] - box[1]) for box in (one["box_xyxy"] for one in everything)]
        is_large = [wide >= 0.2 * width and high >= 0.2 * height for wide, high in sides]
        wanted = [one for one, is_wanted in zip(everything, is_large, strict=True) if is_wanted]
        assert found["large"][index] == wanted
        assert found["class"][index] == [one for one in everything if one["class_id"] == 0]
        least = {True: 0.9, False: 0.01}
        assert found["sure"][index] == [one for one in everything if one["score"] > least[one["class_id"] == 0]]
