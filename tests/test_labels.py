"""Labels of every kind: what is read, what is tolerated, and what is refused in one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.__main__ import main
from calibration.accuracy import coco_accuracy, coco_results
from calibration.dataset import list_images, read_samples
from calibration.evaluate_text import class_lines
from calibration.labels import ClassNames, Sample, coco_categories, read_coco, read_voc, read_yolo
from streamer.common.errors import ConfigError
from streamer.frames.detections import Detections
from tests.media import write_image
from tests.tiny import write_tiny

LABELS = ("person", "traffic light", "car")
VOC = (
    "<annotation><size><width>200</width><height>100</height><depth>3</depth></size>"
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object></annotation>"
)


def coco(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "sub/a.png", "width": 200, "height": 100}],
        "categories": [{"id": 10, "name": "Traffic_Light"}, {"id": 1, "name": "person"}, {"id": 99, "name": "yeti"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 10, "bbox": [20, 10, 40, 40], "area": 800, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        ],
    }
    return {**content, **changes}


def yolo(tmp_path: Path, text: str | bytes) -> list[tuple[Any, ...]]:
    path = tmp_path / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(each.class_id, *np.round(each.box_cxcywh, 6).tolist()) for each in read_yolo(path, len(LABELS))]


def tree(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "images" / name)
    return tmp_path / "images"


class TestYolo:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("", []),
            ("\n\n", []),
            ("2 .5 .5 .1 .1", [(2, 0.5, 0.5, 0.1, 0.1)]),
            ("2.0 0.5 0.5 0.1 0.1\r\n", [(2, 0.5, 0.5, 0.1, 0.1)]),
            ("\ufeff0 .5 .5 .1 .1", [(0, 0.5, 0.5, 0.1, 0.1)]),
            ("0 .5 .5 1.0000001 -0.0000001", [(0, 0.5, 0.5, 1, 0)]),
            ("1 .1 .2 .5 .2 .5 .6 .1 .6", [(1, 0.3, 0.4, 0.4, 0.4)]),
            ("1 .1 .2 .5 .2 .3 .6", [(1, 0.3, 0.4, 0.4, 0.4)]),
        ],
    )
    def test_read(self, tmp_path: Path, text: str, wanted: list[tuple[float, ...]]) -> None:
        assert yolo(tmp_path, text) == wanted

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (b"0 .5 .5 .1 .1\n0 .5 .5 .1 \xe9\n", "a.txt: not UTF-8 at byte 25"),
            ("0 .5 .5 .1 1.01", "a.txt:1: wanted"),
            ("0.5 .5 .5 .1 .1", "a.txt:1: wanted"),
            ("3 .5 .5 .1 .1", "class 0 to 2"),
            ("0 .1 .2 .3 .4 .5", "a.txt:1: wanted"),
            ("0 .1 .2 .3 .4 .5 .6 .7", "a.txt:1: wanted"),
            ("nan .1 .2 .3 .4", "a.txt:1: wanted"),
            ("0 .5 .5 .1 .1 # note", "a.txt:1: wanted"),
            ("0 " + "1" * 5000, "a.txt:1: wanted"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str | bytes, says: str) -> None:
        with pytest.raises(ConfigError) as caught:
            yolo(tmp_path, text)
        assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


class TestVoc:
    def test_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.xml"
        path.write_text(VOC.format(name="Car", difficult=0))
        (each,) = read_voc(path, ClassNames(LABELS))
        assert each.class_id == 2 and not each.is_crowd
        np.testing.assert_allclose(each.box_cxcywh, (0.2, 0.3, 0.2, 0.4))
        path.write_text(VOC.format(name="car", difficult=1))
        assert [each.is_crowd for each in read_voc(path, ClassNames(LABELS))] == [True]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("<annotation>", "not a Pascal VOC file"),
            ("no xml", "not a Pascal VOC file"),
            ("<annotation></annotation>", "no width and height"),
            (VOC.replace("200", "0"), "no width and height"),
            (VOC.replace("<xmin>21</xmin>", ""), "has no box"),
            (VOC.replace("21", "nan"), "has no box"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "a.xml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_voc(path, ClassNames(LABELS))
        assert says in str(caught.value) and "\n" not in str(caught.value)


class TestCoco:
    def test_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps(coco()))
        (sample,) = read_coco(tmp_path / "a.json", ClassNames(LABELS), {"sub/a.png": Path("x/sub/a.png")}.get)
        assert (sample.image, sample.image_id) == (Path("x/sub/a.png"), 7)
        assert sample.class_ids.tolist() == [1, 0]
        np.testing.assert_allclose(sample.boxes_cxcywh, [[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 1, 1]])
        assert sample.is_crowd is not None and sample.is_crowd.tolist() == [False, True]
        assert sample.areas is not None and sample.areas.tolist() == [pytest.approx(0.04), 1]
        assert coco_categories(tmp_path / "a.json", LABELS) == {1: 10, 0: 1}

    @pytest.mark.parametrize(
        "content",
        [
            "no json",
            "[]",
            "[" * 100_000,
            json.dumps(coco(images=[])),
            json.dumps(coco(categories={"a": 1})),
            json.dumps({"images": []}),
            json.dumps(coco(annotations=[{"image_id": 7, "category_id": 10, "bbox": [1, 2]}])),
            json.dumps(coco(images=[{"id": 7, "file_name": "sub/a.png", "width": 0, "height": 0}])),
            json.dumps(coco(images=[{"id": float("inf")}])),
            json.dumps(coco(categories=[{"id": float("inf"), "name": "cat"}])),
        ],
        ids=range(10),
    )
    def test_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_coco(tmp_path / "a.json", ClassNames(LABELS), lambda name: Path(name))
        assert "not a COCO file" in str(caught.value) and "\n" not in str(caught.value)

    @settings(max_examples=100, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["id", "image_id", "category_id", "bbox", "name", "width"]), inner)
            ),
            max_leaves=10,
        ),
        st.sampled_from(["images", "categories", "annotations"]),
    )
    def test_any_json_is_read_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, value: object, key: str
    ) -> None:
        path = tmp_path_factory.mktemp("coco") / "a.json"
        path.write_text(json.dumps(coco(**{key: value})))
        try:
            for sample in read_coco(path, ClassNames(LABELS), lambda name: Path(name)):
                assert np.isfinite(sample.boxes_cxcywh).all()
        except ConfigError as error:
            assert "\n" not in str(error)


class TestPairing:
    def test_subfolders_pair_with_subfolders(self, tmp_path: Path) -> None:
        images = tree(tmp_path, "a/x.png", "b/x.png", "b/y.JPG", ".thumbnails/z.png")
        for name, class_id in (("a/x", 0), ("b/x", 1)):
            (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / f"{name}.txt").write_text(f"{class_id} .5 .5 .1 .1")
        samples = read_samples(images, tmp_path / "labels", LABELS)
        found = {sample.image.relative_to(images).as_posix(): sample.class_ids.tolist() for sample in samples}
        assert found == {"a/x.png": [0], "b/x.png": [1], "b/y.JPG": []}

    def test_one_folder_of_labels_serves_subfolders_where_names_differ(self, tmp_path: Path) -> None:
        images = tree(tmp_path, "a/x.png", "b/y.png")
        (tmp_path / "x.txt").write_text("2 .5 .5 .1 .1")
        (tmp_path / "y.xml").write_text(VOC.format(name="person", difficult=0))
        assert [each.class_ids.tolist() for each in read_samples(images, tmp_path, LABELS)] == [[2], [0]]

    def test_labels_may_lie_beside_the_pictures(self, tmp_path: Path) -> None:
        images = tree(tmp_path, "x.png")
        (images / "x.txt").write_text("2 .5 .5 .1 .1")
        assert [each.class_ids.tolist() for each in read_samples(images, images, LABELS)] == [[2]]

    def test_lists_of_pictures(self, tmp_path: Path) -> None:
        images = tree(tmp_path, "a/x.png", "b/y.png")
        (tmp_path / "val.txt").write_text(f"\ufeff# chosen\nimages/b/y.png\n\n{images / 'a/x.png'}\n")
        assert [path.name for path in list_images(tmp_path / "val.txt")] == ["y.png", "x.png"]
        (tmp_path / "val.txt").write_text("images/none.png\n")
        with pytest.raises(ConfigError, match=r"val\.txt:1: no picture 'images/none\.png'"):
            list_images(tmp_path / "val.txt")
        (tmp_path / "val.txt").write_text("# none\n")
        with pytest.raises(ConfigError, match="lists no pictures"):
            list_images(tmp_path / "val.txt")

    def test_a_coco_file_finds_pictures_by_path_or_name(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        images = tree(tmp_path, "a.png", "other.png")
        more = [*coco()["images"], {"id": 8, "file_name": "gone.png", "width": 9, "height": 9}]
        (tmp_path / "a.json").write_text(json.dumps(coco(images=more)))
        with caplog.at_level(logging.WARNING):
            (sample,) = read_samples(images, tmp_path / "a.json", LABELS)
        assert (sample.image, sample.image_id) == (images / "a.png", 7)
        assert "the --images lack 1 of its 2 pictures" in caplog.text
        (tmp_path / "b.json").write_text(json.dumps(coco(images=more[1:], annotations=[])))
        with pytest.raises(ConfigError, match="none of its 1 picture is among the --images"):
            read_samples(images, tmp_path / "b.json", LABELS)

    def test_classes_that_the_model_lacks_are_left_out_and_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        images = tree(tmp_path, "a.png")
        yeti = {"id": 3, "image_id": 7, "category_id": 99, "bbox": [1, 1, 5, 5]}
        (tmp_path / "a.json").write_text(json.dumps(coco(annotations=[*coco()["annotations"], yeti])))
        with caplog.at_level(logging.WARNING):
            (sample,) = read_samples(images, tmp_path / "a.json", LABELS)
        assert len(sample.class_ids) == 2
        assert "left out 1 object of classes that the model doesn't have ('yeti')" in caplog.text
        (tmp_path / "a.json").write_text(json.dumps(coco(annotations=[yeti])))
        with pytest.raises(ConfigError, match=r"has none of its classes \('yeti'\); it has \['person'"):
            read_samples(images, tmp_path / "a.json", LABELS)

    def test_no_objects_at_all_are_said(self, tmp_path: Path) -> None:
        images = tree(tmp_path, "a.png", "b.png")
        for name in "ab":
            (tmp_path / f"{name}.txt").write_text("")
        with pytest.raises(ConfigError, match="no object in the labels of 2 pictures: there is nothing to measure"):
            read_samples(images, tmp_path, LABELS)


class TestFigures:
    @pytest.fixture(autouse=True)
    def _needs_coco_metrics(self) -> None:
        pytest.importorskip("faster_coco_eval", reason="COCO metrics come with [calibration]")

    @staticmethod
    def found(*rows: tuple[float, ...]) -> Detections:
        table = np.array(rows, np.float32).reshape(-1, 6)
        return Detections(table[:, 2:], table[:, 1], table[:, 0].astype(np.int64))

    def test_each_class_has_its_own_ap(self) -> None:
        table = np.array([[0, 0.5, 0.5, 0.5, 0.5], [2, 0.1, 0.1, 0.1, 0.1], [2, 0.9, 0.9, 0.1, 0.1]])
        truth = [Sample(Path("x.jpg"), table[:, 0].astype(np.int64), table[:, 1:])]
        right = self.found((0, 0.9, 160, 120, 480, 360), (2, 0.8, 32, 24, 96, 72))
        accuracy = coco_accuracy(truth, [((640, 480), right)], LABELS)
        assert {label: (each.AP, each.objects) for label, each in accuracy.classes.items()} == {
            "person": (pytest.approx(100), 1),
            "car": (pytest.approx(51, abs=1), 2),
        }
        assert accuracy.AP == pytest.approx(np.mean([each.AP for each in accuracy.classes.values()]))
        assert list(class_lines(accuracy, {}, 0.9))[2].endswith("  car"), "the worst first"
        nothing = coco_accuracy(truth, [((640, 480), Detections.empty())], LABELS)
        assert {label: each.AP for label, each in nothing.classes.items()} == {"person": 0, "car": 0}

    def test_crowds_count_neither_for_nor_against(self) -> None:
        table = np.array([[0, 0.25, 0.5, 0.2, 0.2], [0, 0.75, 0.5, 0.4, 0.8]])
        arguments = Path("x.jpg"), table[:, 0].astype(np.int64), table[:, 1:]
        got = self.found((0, 0.9, 96, 192, 224, 288), (0, 0.95, 400, 200, 440, 280))
        without = coco_accuracy([Sample(*arguments)], [((640, 480), got)], LABELS)
        crowd = coco_accuracy([Sample(*arguments, np.array([False, True]))], [((640, 480), got)], LABELS)
        assert without.AP < 60 and crowd.AP == pytest.approx(100)
        assert crowd.classes["person"].objects == 1

    def test_areas_of_the_labels_sort_objects_by_size(self) -> None:
        table = np.array([[0, 0.5, 0.5, 0.5, 0.5]])
        sample = Sample(Path("x.jpg"), np.zeros(1, np.int64), table[:, 1:], areas=np.array([30 * 30 / (640 * 480)]))
        accuracy = coco_accuracy([sample], [((640, 480), self.found((0, 0.9, 160, 120, 480, 360)))], LABELS)
        assert accuracy.APs == pytest.approx(100) and np.isnan(accuracy.APl)

    def test_results_carry_the_numbers_of_the_coco_file(self) -> None:
        sample = Sample.of(Path("sub/a.png"), [], image_id=7)
        other = Sample.of(Path("b.png"), [])
        pictures = [((640, 480), self.found((1, 0.5, 10, 20, 40, 60))), ((64, 48), self.found((0, 0.25, 0, 0, 1, 1)))]
        assert coco_results([sample, other], pictures, {1: 10}) == [
            {"image_id": 7, "category_id": 10, "bbox": [10, 20, 30, 40], "score": 0.5, "file_name": "a.png"}
        ]
        assert [each["image_id"] for each in coco_results([sample, other], pictures)] == [7, 2]

    def test_evaluate_writes_json_that_every_reader_takes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = tree(tmp_path, "a.png")
        (tmp_path / "a.txt").write_text("0 .5 .5 .1 .1")
        where = ["--images", str(images), "--labels", str(tmp_path), "--json", str(tmp_path / "e.json")]
        more = ["--per-class", "--results", str(tmp_path / "r.json"), "--device", "cpu", "--engine", "openvino"]
        assert main(["evaluate", "--model", str(write_tiny(tmp_path / "tiny.onnx")), *where, *more]) == 0

        def refuse(word: str) -> None:
            raise AssertionError(f"not JSON: {word}")

        measured = json.loads((tmp_path / "e.json").read_text(), parse_constant=refuse)
        assert measured["APl"] is None and measured["classes"]["person"]["objects"] == 1
        printed = capsys.readouterr().out
        assert "best F1" in printed and "F1  class" in printed
        assert "{" not in printed
        assert isinstance(json.loads((tmp_path / "r.json").read_text()), list)

    @pytest.mark.parametrize(
        ("option", "name"), [("--results", "a.json"), ("--json", "a.json"), ("--results", "e.json")]
    )
    def test_evaluate_overwrites_neither_labels_nor_its_own_figures(
        self, tmp_path: Path, option: str, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        images = tree(tmp_path, "a.png")
        (tmp_path / "a.json").write_text(json.dumps(coco()))
        where = ["--images", str(images), "--labels", str(tmp_path / "a.json"), option, str(tmp_path / name)]
        more = ["--json", str(tmp_path / "e.json")] if name == "e.json" else []
        assert main(["evaluate", "--model", "nanodet-g_416", *more, *where]) == 2
        assert "the output is the input itself" in capsys.readouterr().err
        assert json.loads((tmp_path / "a.json").read_text()) == coco()
