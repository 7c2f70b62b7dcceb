"""Data to train on: how it is found, what is read, and that nothing is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.data import Finding, TrainingData, read_data
from calibration.dataset import read_samples
from calibration.labels import EVERY_CLASS
from streamer.common.errors import ConfigError
from tests.labelled_data import BOX, coco, voc, write_scene, write_yaml, yolo_set


def found(data: TrainingData) -> dict[str, Finding]:
    return {finding.kind: finding for finding in data.findings}


def stems(data: TrainingData, split: str = "train") -> dict[str, list[int]]:
    return {sample.image.stem: sample.class_ids.tolist() for sample in data.splits[split]}


IMAGES = [
    {"id": 5, "file_name": "a.png", "width": 64, "height": 48},
    {"id": 6, "file_name": "b.png", "width": 64, "height": 48},
]
LABELS = [
    {"id": 1, "image_id": 5, "category_id": 3, "bbox": [16, 12, 16, 12], "area": 96},
    {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1},
]


class TestFindingFiles:
    @pytest.mark.parametrize("names", [["cat", "dog"], {"0": "cat", "1": "dog"}])
    def test_a_data_yaml_in_yolo_layout(self, tmp_path: Path, names: Any) -> None:
        path = yolo_set(tmp_path, {"train": {"a": BOX, "b": "1 .5 .5 .1 .1"}, "val": {"c": BOX}, "test": {}}, names)
        for where in (path, tmp_path):
            data = read_data(where)
            assert data.path == path and data.names == ("cat", "dog")
            assert stems(data) == {"a": [0], "b": [1]} and stems(data, "val") == {"c": [0]} and not data.splits["test"]
            assert not data.findings

    def test_names_as_a_mapping_of_numbers(self, tmp_path: Path) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX}})
        assert read_data(write_yaml(tmp_path, "train: images/train\nnames:\n  1: dog\n  0: cat\n")).names == (
            "cat",
            "dog",
        )

    @pytest.mark.parametrize("base", ["sets/one", "{}/sets/one"])
    def test_path_is_absolute_or_from_the_yaml(self, tmp_path: Path, base: str) -> None:
        yolo_set(tmp_path / "sets/one", {"train": {"a": BOX}})
        path = write_yaml(tmp_path, f"path: {base.format(tmp_path)}\ntrain: images/train\nnames: [cat]\n")
        assert stems(read_data(path)) == {"a": [0]}

    def test_a_split_may_be_a_list_of_pictures_or_of_folders(self, tmp_path: Path) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX, "b": None}, "more": {"c": BOX}})
        (tmp_path / "some.txt").write_text(
            f"images/train/a.png\n./images/train/a.png\n{tmp_path}/images/train/gone.png\n"
        )
        data = read_data(write_yaml(tmp_path, "train: [some.txt, images/more]\nvalidation: some.txt\nnames: [cat]\n"))
        assert stems(data) == {"a": [0], "c": [0]} and stems(data, "val") == {"a": [0]}
        assert {kind: finding.count for kind, finding in found(data).items()} == {
            "missing-picture": 2, "repeated-picture": 2,
        }  # fmt: skip

    def test_a_picture_of_two_parts_of_a_split_counts_once(self, tmp_path: Path) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX, "b": BOX}})
        (tmp_path / "some.txt").write_text("images/train/a.png\n")
        data = read_data(write_yaml(tmp_path, "train: [images/train, some.txt]\nval: some.txt\nnames: [cat]\n"))
        assert [sample.image.stem for sample in data.splits["train"]] == ["a", "b"]
        assert [sample.image.stem for sample in data.splits["val"]] == ["a"]
        assert found(data)["repeated-picture"].count == 1

    def test_the_last_images_folder_becomes_labels_else_labels_lie_beside(self, tmp_path: Path) -> None:
        root = tmp_path / "images" / "set"
        write_scene(root / "images" / "sub" / "a.png", 1)
        write_scene(root / "images" / "b.png", 2)
        (root / "labels" / "sub").mkdir(parents=True)
        (root / "labels" / "sub" / "a.txt").write_text(BOX)
        (root / "images" / "b.txt").write_text("1 .5 .5 .1 .1")
        data = read_data(write_yaml(root, "train: images\nnames: [cat, dog]\n"))
        assert stems(data) == {"a": [0], "b": [1]} and not data.findings

    def test_exporters_paths_to_the_parent_are_tried_without(self, tmp_path: Path) -> None:
        yolo_set(tmp_path / "set", {"train": {"a": BOX}})
        data = read_data(write_yaml(tmp_path / "set", "train: ../images/train\nnames: [cat]\n"))
        assert stems(data) == {"a": [0]} and found(data)["parent-path"].severity == "info"

    def test_a_split_that_is_missing_is_said(self, tmp_path: Path) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX}})
        data = read_data(
            write_yaml(tmp_path, "train: images/train\nval: images/val\ntest: gone\nnames: [cat]\nnc: 2\n")
        )
        assert [(f.kind, f.severity) for f in data.findings] == [
            ("missing-split", "error"), ("class-count", "error"), ("missing-test", "warning"),
        ]  # fmt: skip
        assert f"val: no {tmp_path / 'images/val'}" in data.findings[0].examples

    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("vall", "'val'"),
            ("Val", "'val'"),
            ("valid", "'val'"),
            ("tests", "'test'"),
        ],
    )
    def test_a_key_that_is_misspelt_is_said(self, tmp_path: Path, key: str, meant: str) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX}})
        data = read_data(write_yaml(tmp_path, f"train: images/train\n{key}: images/train\nnames: [cat]\n"))
        assert found(data)["unknown-key"].examples == (f"{tmp_path / 'data.yaml'}: {key!r}; did you mean {meant}?",)

    def test_keys_of_other_programs_and_of_one_s_own_are_no_misspelt_ones(self, tmp_path: Path) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX}})
        others = "roboflow: {license: MIT}\ndownload: x\nauthor: x\ndate: x\nversion: 1\nlicense: x\ntask: detect\n"
        splits = "train: images/train\nval: images/train\nvalid: images/train\nminival: images/train\n"
        data = read_data(write_yaml(tmp_path, f"{splits}{others}names: [cat]\n"))
        assert "unknown-key" not in found(data)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("names: [cat]", "has none of train, val and test"),
            ("trian: images\nnames: [cat]", "it has 'trian'; did you mean 'train'?"),
            ("Valid: images\nnames: [cat]", "it has 'Valid'; did you mean 'val"),
            ("train: gone\nnames: [cat]", "none of its pictures' paths exists"),
            ("train: images/train\nnames: {0: cat, 2: dog}", "no id 1"),
            ("train: images/train\nnames: {a: cat}", "the id 'a'"),
            ("train: images/train\nnames: cat", "'names' should list the classes"),
            ("train: images/train\nnames: [[cat]]", "wanted a word"),
            ("train: images/train", "has no 'names'"),
            ("train: 3\nnames: [cat]", "should be a folder"),
            ("train: {labels: x}\nnames: [cat]", "has no 'images'"),
            ("train: {image: x}\nnames: [cat]", "did you mean 'images'"),
            ("train: {images: images/train, labels: data.yaml}\nnames: [cat]", "wanted a folder of YOLO .txt"),
            ("train: data.yaml\nnames: [cat]", "wanted a folder of pictures"),
            ("train: images/train\nnc: many\nnames: [cat]", "'nc' should be the number"),
            ("path: 3\ntrain: images/train\nnames: [cat]", "'path' should be a folder"),
            ("train: images/train\nkpt_shape: [17, 2]\nnames: [cat]", "labels of poses aren't read"),
            ("- train", "should hold keys and values"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, says: str) -> None:
        yolo_set(tmp_path, {"train": {"a": BOX}})
        with pytest.raises(ConfigError) as caught:
            read_data(write_yaml(tmp_path, text))
        assert says in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)

    def test_a_folder_without_one_yaml_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no data\.yaml"):
            read_data(tmp_path)
        (tmp_path / "a.yaml").touch()
        (tmp_path / "b.yml").touch()
        with pytest.raises(ConfigError, match=r"2 \.yaml files and none is data\.yaml"):
            read_data(tmp_path)


class TestFaultsOfLabels:
    @pytest.mark.parametrize(
        ("line", "kind", "severity", "kept"),
        [
            ("0 .5 .5 0 .1", "degenerate-box", "warning", 0),
            ("0 .5 .5 .1 -.1", "degenerate-box", "warning", 0),
            ("0 1.5 .5 .2 .2", "outside-box", "warning", 0),
            ("0 .95 .5 .2 .2", "clipped-box", "warning", 1),
            ("0 -.02 .5 .2 .2", "clipped-box", "warning", 1),
            ("0 320 240 50 60", "pixel-coordinates", "error", 0),
            ("9 .5 .5 .2 .2", "class-out-of-range", "error", 0),
            ("-1 .5 .5 .2 .2", "class-out-of-range", "error", 0),
            ("0 nan .5 .2 .2", "not-a-number", "error", 0),
            ("inf .5 .5 .2 .2", "not-a-number", "error", 0),
            ("0 .5 .5 .2", "unparsable-label", "error", 0),
            ("0 .5 .5 .2 .2 .9", "unparsable-label", "error", 0),
            ("cat .5 .5 .2 .2", "unparsable-label", "error", 0),
        ],
    )
    def test_each_is_said_with_its_place(self, tmp_path: Path, line: str, kind: str, severity: str, kept: int) -> None:
        path = yolo_set(tmp_path, {"train": {"a": f"1 .2 .2 .1 .1\n{line}\n"}})
        data = read_data(path)
        (finding,) = data.findings
        assert (finding.kind, finding.severity, finding.count, finding.left_out) == (kind, severity, 1, 1 - kept)
        assert finding.examples == (f"{tmp_path / 'labels/train/a.txt'}:2: {line}",) and finding.remedy
        assert stems(data) == {"a": [1, *([0] * kept)]}
        (sample,) = data.splits["train"]
        corners = sample.boxes_cxcywh[:, :2] - sample.boxes_cxcywh[:, 2:] / 2
        assert (corners > -1e-9).all() and (corners + sample.boxes_cxcywh[:, 2:] < 1 + 1e-9).all()

    def test_samples_equal_those_that_accuracy_is_measured_on(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": "0 .1 .3 .2 .1\n1 .7 .77 .123 .321\n1 .1 .2 .5 .2 .3 .6"}})
        (mine,) = read_data(path).splits["train"]
        (other,) = read_samples(tmp_path / "images/train", tmp_path / "labels/train", ("cat", "dog"))
        assert mine.boxes_cxcywh.tolist() == other.boxes_cxcywh.tolist()
        assert mine.class_ids.tolist() == other.class_ids.tolist() and mine.image == other.image

    def test_a_clipped_box_keeps_what_is_inside(self, tmp_path: Path) -> None:
        (sample,) = read_data(yolo_set(tmp_path, {"train": {"a": "0 .95 .5 .2 .2"}})).splits["train"]
        np.testing.assert_allclose(sample.boxes_cxcywh, [[0.925, 0.5, 0.15, 0.2]])

    def test_rounding_at_the_edge_is_nothing(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": "0 .5 .5 1.0005 1.0005\n1 .1 .2 .5 .2 .5 .6 1.0001 .6"}}))
        assert not data.findings
        np.testing.assert_allclose(data.splits["train"][0].boxes_cxcywh, [[0.5, 0.5, 1, 1], [0.55, 0.4, 0.9, 0.4]])

    def test_repeated_lines_count_once(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": "0 .5 .5 .2 .2\n0 0.5 0.5 0.2 0.2\n1 .5 .5 .2 .2\n"}}))
        assert stems(data) == {"a": [0, 1]} and found(data)["duplicate-label"].left_out == 1

    def test_background_is_counted_and_an_emptied_picture_is_none(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": None, "b": "", "c": " \n", "d": "0 1 2 3 4"}}))
        assert stems(data) == {"a": [], "b": [], "c": [], "d": []}
        assert found(data)["background"].count == 3 and found(data)["background"].severity == "info"
        assert "no label file" in found(data)["background"].examples[0]
        assert found(data)["emptied-picture"].count == 1

    def test_an_unreadable_file_leaves_its_picture_out(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": BOX, "b": None, "c": None}})
        (tmp_path / "labels/train/b.txt").write_bytes(b"0 .5 .5 \xff .1")
        (tmp_path / "labels/train/c.txt").mkdir()
        data = read_data(path)
        assert stems(data) == {"a": [0]}
        assert found(data)["unreadable-labels"].count == 2 and found(data)["unreadable-labels"].severity == "error"

    def test_labels_without_a_picture_are_said_but_not_those_of_other_lists(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": BOX, "b": BOX}})
        (tmp_path / "labels/train/classes.txt").write_text("cat\n")
        (tmp_path / "labels/train/lost.txt").write_text(BOX)
        (tmp_path / "labels/train/sub").mkdir()
        (tmp_path / "labels/train/sub/a.txt").write_text(BOX)
        names = [
            Path(example).relative_to(tmp_path).as_posix()
            for example in found(read_data(path))["label-without-picture"].examples
        ]
        assert names == ["labels/train/lost.txt", "labels/train/sub/a.txt"]
        (tmp_path / "some.txt").write_text("images/train/a.png\n")
        data = read_data(write_yaml(tmp_path, "train: some.txt\nnames: [cat]\n"))
        assert [Path(each).name for each in found(data)["label-without-picture"].examples] == ["lost.txt"]

    def test_pictures_that_share_labels_or_have_other_formats_are_said(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": BOX}})
        write_scene(tmp_path / "images/train/a.jpg", 9)
        (tmp_path / "images/train/b.gif").touch()
        data = read_data(path)
        assert found(data)["shared-labels"].count == 2 and found(data)["unknown-picture-format"].count == 1

    def test_labels_of_any_case_are_read_and_a_second_file_is_said(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": None, "b": BOX}})
        (tmp_path / "labels/train/a.TXT").write_text(BOX)
        (tmp_path / "labels/train/b.xml").write_text(voc("dog", (1, 1, 9, 9)))
        data = read_data(path)
        assert stems(data) == {"a": [0], "b": [0]} and [each.kind for each in data.findings] == ["second-labels"]

    def test_linked_folders_are_read_once_each(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": BOX}, "more": {"b": BOX}})
        (tmp_path / "images/train/linked").symlink_to(tmp_path / "images/more")
        (tmp_path / "images/train/linked again").symlink_to(tmp_path / "images/train")
        (tmp_path / "labels/train/linked").symlink_to(tmp_path / "labels/more")
        data = read_data(write_yaml(tmp_path, "train: images/train\nnames: [cat]\n"))
        assert stems(data) == {"a": [0], "b": [0]} and not data.findings and path.is_file()


class TestClasses:
    LINES = "0 .2 .2 .1 .1\n1 .5 .5 .1 .1\n2 .8 .8 .1 .1\n3 .4 .8 .1 .1\n"
    NAMES = ("car", "Van", "dog", "ignore")

    def test_ignore_is_no_class_but_a_region(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": self.LINES}}, self.NAMES))
        (sample,) = data.splits["train"]
        assert data.names == ("car", "Van", "dog") and sample.class_ids.tolist() == [0, 1, 2, EVERY_CLASS]
        assert sample.is_crowd is not None and sample.is_crowd.tolist() == [False, False, False, True]
        assert found(data)["ignored-region"].count == 1

    def test_a_subset_has_its_own_order(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": self.LINES}}, self.NAMES), classes=["DOG", "car"])
        assert data.names == ("dog", "car") and stems(data) == {"a": [1, 0, EVERY_CLASS]}
        assert found(data)["class-left-out"].left_out == 1

    def test_renaming_merges(self, tmp_path: Path) -> None:
        path = yolo_set(tmp_path, {"train": {"a": self.LINES}}, self.NAMES)
        data = read_data(path, rename={"car": "vehicle", "van": "vehicle", "dog": "ignore"})
        (sample,) = data.splits["train"]
        assert data.names == ("vehicle",) and sample.class_ids.tolist() == [0, 0, EVERY_CLASS, EVERY_CLASS]
        assert sample.is_crowd is not None and sample.is_crowd.tolist() == [False, False, True, True]
        assert read_data(path, rename={"car": "vehicle"}, classes=["vehicle"]).names == ("vehicle",)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"classes": ["cow"]}, "no class 'cow'"),
            ({"classes": ["cars"]}, "did you mean 'car'"),
            ({"classes": ["ignore"]}, "no class 'ignore'"),
            ({"classes": []}, "no class remains"),
            ({"rename": {"cra": "car"}}, "can't rename class 'cra'"),
            ({"rename": {"car": " "}}, "to an empty name"),
        ],
    )
    def test_refused(self, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
        path = yolo_set(tmp_path, {"train": {"a": self.LINES}}, self.NAMES)
        with pytest.raises(ConfigError, match=says):
            read_data(path, **changes)

    def test_two_classes_of_one_name_are_one(self, tmp_path: Path) -> None:
        data = read_data(yolo_set(tmp_path, {"train": {"a": self.LINES}}, ("car", "Car", "dog", "cat")))
        assert data.names == ("car", "dog", "cat") and stems(data) == {"a": [0, 0, 1, 2]}
        assert found(data)["duplicate-name"].severity == "error"


class TestCocoAndVoc:
    def coco_set(self, root: Path, **changes: Any) -> Path:
        for number, name in enumerate(("a", "b")):
            write_scene(root / "train2017" / f"{name}.png", number)
        path = root / "annotations" / "instances_train2017.json"
        path.parent.mkdir()
        content = {"images": IMAGES, "annotations": LABELS, "names": {1: "dog", 3: "cat"}} | changes
        path.write_text(coco(**content))
        return path

    def test_a_coco_file_alone(self, tmp_path: Path) -> None:
        data = read_data(self.coco_set(tmp_path))
        a, b = data.splits["train"]
        assert data.names == ("dog", "cat") and a.class_ids.tolist() == [1, 0] and not len(b.class_ids)
        assert a.is_crowd is not None and a.is_crowd.tolist() == [False, True]
        assert (
            a.areas is not None and a.areas[0] == pytest.approx(96 / (64 * 48)) and (a.image_id, b.image_id) == (5, 6)
        )
        np.testing.assert_allclose(a.boxes_cxcywh[0], [0.375, 0.375, 0.25, 0.25])
        assert data.label_sizes_wh[a.image] == (64, 48)
        assert {kind: finding.count for kind, finding in found(data).items()} == {"background": 1, "ignored-region": 1}

    def test_coco_splits_in_a_data_yaml(self, tmp_path: Path) -> None:
        self.coco_set(tmp_path)
        (tmp_path / "one.txt").write_text("a\n")
        text = (
            "train: {images: train2017, labels: annotations/instances_train2017.json}\n"
            "val: annotations/instances_train2017.json\n"
            "test: {images: train2017, labels: annotations/instances_train2017.json, list: one.txt}\n"
        )
        data = read_data(write_yaml(tmp_path, text + "names: [Cat, bird]\n"))
        assert data.names == ("Cat", "bird") and stems(data) == stems(data, "val") == {"a": [0], "b": []}
        assert stems(data, "test") == {"a": [0]}
        assert found(data)["unknown-class"].left_out == 3 and found(data)["picture-not-chosen"].count == 1
        assert read_data(write_yaml(tmp_path, text)).names == ("dog", "cat")

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({"image_id": 77}, "label-without-picture"),
            ({"category_id": 77}, "class-out-of-range"),
            ({"bbox": [1, 2, 3]}, "unparsable-label"),
            ({"bbox": None}, "unparsable-label"),
            ({"bbox": [float("nan"), 2, 3, 4]}, "not-a-number"),
            ({"bbox": [1, 2, 0, 4]}, "degenerate-box"),
            ({"bbox": [100, 2, 8, 4]}, "outside-box"),
            ({"id": [1]}, "unparsable-label"),
        ],
    )
    def test_faults_of_annotations(self, tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
        data = read_data(self.coco_set(tmp_path, annotations=[LABELS[0], LABELS[0] | {"id": 9} | changes]))
        assert found(data)[kind].left_out == 1 and stems(data) == {"a": [1], "b": []}

    def test_faults_of_images(self, tmp_path: Path) -> None:
        images = [*IMAGES, {"id": 7, "file_name": "gone.png", "width": 9, "height": 9}, {"id": 8}, 3]
        images += [{"id": 9, "file_name": "b.png", "width": 64, "height": 48}, {"id": 10, "file_name": "a.png"}]
        labels = [LABELS[0] | {"image_id": number} for number in (7, 8, 9, 10)]
        data = read_data(self.coco_set(tmp_path, images=images, annotations=labels))
        assert stems(data) == {"a": [], "b": [1]}, "labels of two entries of one picture are joined"
        kinds = {kind: (finding.count, finding.left_out) for kind, finding in found(data).items()}
        assert kinds == {
            "unparsable-entry": (2, 0), "listed-picture-missing": (1, 1), "label-without-picture": (1, 1),
            "unparsable-label": (1, 1), "repeated-picture": (2, 0), "background": (1, 0),
        }  # fmt: skip

    def test_a_coco_file_without_pictures_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(coco(IMAGES, [], {1: "dog"}))
        with pytest.raises(ConfigError, match=r"none of its 2 pictures was found beside it: write in a data\.yaml"):
            read_data(tmp_path / "a.json")
        (tmp_path / "a.json").write_text(json.dumps({"images": []}))
        with pytest.raises(ConfigError, match="not a COCO file"):
            read_data(tmp_path / "a.json")
        with pytest.raises(ConfigError, match="no such file"):
            read_data(tmp_path / "b.json")

    def test_a_voc_folder_with_a_list_of_stems(self, tmp_path: Path) -> None:
        for number, (stem, name) in enumerate((("a", "dog"), ("b", "cat"), ("c", "dog"), ("d", "dog"))):
            write_scene(tmp_path / "JPEGImages" / f"{stem}.jpg", number)
            (tmp_path / "Annotations").mkdir(exist_ok=True)
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(
                voc(name, (17, 13, 32, 24), difficult=int(stem == "c"))
            )
        (tmp_path / "train.txt").write_text("a\nb  1\nc\nzz\n")
        text = "train: {images: JPEGImages, labels: Annotations, list: train.txt}\n"
        data = read_data(write_yaml(tmp_path, text))
        assert data.names == ("cat", "dog") and stems(data) == {"a": [1], "b": [0], "c": [1]}
        np.testing.assert_allclose(data.splits["train"][0].boxes_cxcywh, [[0.375, 0.375, 0.25, 0.25]])
        assert {kind: finding.count for kind, finding in found(data).items()} == {
            "missing-picture": 1,
            "ignored-region": 1,
        }
        assert set(data.label_sizes_wh.values()) == {(64, 48)}
        assert read_data(write_yaml(tmp_path, text + "names: [dog]")).findings[1].kind == "unknown-class"

    @pytest.mark.parametrize("text", ["<annotation>", "", voc("dog", (1, 1, 2, 2), size="0x48"), "\0"])
    def test_a_broken_voc_file_leaves_its_picture_out(self, tmp_path: Path, text: str) -> None:
        for number, stem in enumerate("ab"):
            write_scene(tmp_path / "images" / f"{stem}.png", number)
        (tmp_path / "images" / "a.xml").write_text(text)
        (tmp_path / "images" / "b.xml").write_text(voc("dog", (0, 0, 64, 48)))
        data = read_data(write_yaml(tmp_path, "train: images\n"))
        assert stems(data) == {"b": [0]} and [each.kind for each in data.findings] == ["unreadable-labels"]
