"""Hostile labels and data.yaml: read or refused in one line, and every label is kept or said to be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.data import TrainingData, read_data
from streamer.common.errors import ConfigError
from tests.labelled_data import write_scene, write_yaml

NUMBERS = st.sampled_from(
    ["0", "1", "-1", "0.5", ".25", "1e308", "-1e308", "5e-324", "nan", "inf", "1_0", "640", "x", "1.0001"]
)
WORDS = NUMBERS | st.floats(-1, 2).map(str) | st.text(max_size=4)
LINES = st.lists(WORDS, max_size=9).map(" ".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
BOXES = st.lists(st.floats() | st.integers(-100, 200), min_size=4, max_size=4)
ANNOTATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "image_id": st.sampled_from([1, 2, 3, 4]) | JSON,
            "category_id": st.sampled_from([1, 2, 3]) | JSON,
            "bbox": BOXES | JSON,
        },
        optional={"id": JSON, "area": JSON, "iscrowd": JSON},
    )
    | JSON,
    max_size=6,
)
OBJECTS = st.lists(
    st.tuples(st.text(max_size=5), st.lists(WORDS, min_size=4, max_size=4), st.sampled_from(["0", "1", "?"])),
    max_size=5,
)
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for number, stem in enumerate("ab"):
        write_scene(folder / "images" / f"{stem}.png", number)
    (folder / "labels").mkdir()
    return folder


def balanced(data: TrainingData, count: int) -> None:
    """Asserts that all labels are kept or said, and what is kept can be trained on."""
    samples = [sample for samples in data.splits.values() for sample in samples]
    kept = sum(len(sample.class_ids) for sample in samples)
    assert kept + sum(finding.left_out for finding in data.findings) == count
    for sample in samples:
        corners = np.hstack(
            [
                sample.boxes_cxcywh[:, :2] - sample.boxes_cxcywh[:, 2:] / 2,
                sample.boxes_cxcywh[:, :2] + sample.boxes_cxcywh[:, 2:] / 2,
            ]
        )
        assert np.isfinite(corners).all() and (corners > -1e-9).all() and (corners < 1 + 1e-9).all()
        assert (sample.boxes_cxcywh[:, 2:] > 0).all()
        assert (sample.class_ids >= 0).all() and (sample.class_ids < len(data.names)).all()
        assert sample.areas is not None and np.isfinite(sample.areas).all()
    for finding in data.findings:
        assert 1 <= len(finding.examples) <= finding.count and "\n" not in "".join(finding.examples)


@many
@given(st.lists(LINES, max_size=8).map("\n".join) | st.text(max_size=60))
def test_yolo_lines(root: Path, text: str) -> None:
    (root / "labels" / "a.txt").write_text(text, encoding="utf-8")
    lines = (root / "labels" / "a.txt").read_text(encoding="utf-8-sig").splitlines()
    data = read_data(write_yaml(root, "train: images\nnames: [cat, dog, ignore]\n"))
    balanced(data, sum(bool(line.split()) for line in lines))


@many
@given(st.binary(max_size=60))
def test_yolo_bytes(root: Path, content: bytes) -> None:
    (root / "labels" / "a.txt").write_bytes(content)
    data = read_data(write_yaml(root, "train: images\nnames: [cat, dog]\n"))
    images = [sample.image.stem for sample in data.splits["train"]]
    is_said = any(finding.kind == "unreadable-labels" for finding in data.findings)
    assert images == (["b"] if is_said else ["a", "b"])


@many
@given(
    OBJECTS,
    st.sampled_from(["64", "0", "nan", "", "1e308", "-3"]),
    st.booleans(),
)
def test_voc_objects(root: Path, objects: list[tuple[str, list[str], str]], width: str, is_named: bool) -> None:
    parts = [
        f"<object><name>{escape(name)}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(
            f"<{key}>{escape(value)}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box, difficult in objects
    ]
    text = f"<annotation><size><width>{width}</width><height>48</height></size>{''.join(parts)}</annotation>"
    folder = root / "voc"
    folder.mkdir(exist_ok=True)
    (folder / "a.xml").write_text(text, encoding="utf-8")
    names = "names: [cat, dog]\n" if is_named else ""
    try:
        data = read_data(write_yaml(root, "train: {images: images, labels: voc}\n" + names))
    except ConfigError as error:
        assert "has no 'names'" in str(error) or "no class remains" in str(error)
        return
    if any(finding.kind == "unreadable-labels" for finding in data.findings):
        assert [sample.image.stem for sample in data.splits["train"]] == ["b"]
    else:
        balanced(data, len(objects))


@many
@given(ANNOTATIONS)
def test_coco_annotations(root: Path, annotations: list[Any]) -> None:
    images = [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "b.png", "width": 0, "height": 48},
        {"id": 3, "file_name": "gone.png", "width": 64, "height": 48},
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "ignore"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (root / "a.json").write_text(json.dumps(content))
    data = read_data(write_yaml(root, "train: {images: images, labels: a.json}\n"))
    balanced(data, len(annotations))


@many
@given(JSON, st.sampled_from(["images", "categories"]))
def test_coco_tables(root: Path, value: object, key: str) -> None:
    content = {"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]}
    (root / "a.json").write_text(json.dumps({**content, key: value}))
    try:
        balanced(read_data(write_yaml(root, "train: {images: images, labels: a.json}\nnames: [cat]\n")), 1)
    except ConfigError as error:
        assert "not a COCO file" in str(error) and "\n" not in str(error)


@many
@given(
    st.dictionaries(st.sampled_from(["path", "train", "val", "test", "names", "nc", "x"]), JSON, max_size=5),
    st.booleans(),
)
def test_data_yaml(root: Path, content: dict[str, Any], has_train: bool) -> None:
    (root / "labels" / "a.txt").write_text("0 .5 .5 .1 .1")
    content = {**content, "train": "images", "names": ["cat"]} if has_train else content
    path = write_yaml(root, json.dumps(content))
    try:
        read_data(path)
    except ConfigError as error:
        assert "\n" not in str(error)
