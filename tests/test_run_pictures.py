from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.labels import EVERY_CLASS
from calibration.run_folder.confusion import ConfusionMatrix, confusion_matrix
from calibration.run_folder.curves import detection_curves
from calibration.run_folder.drawings import MOST_TRAINING, TILE_PX, Tile, draw_batch, draw_validation, grid
from calibration.run_folder.folder import RunFolder
from calibration.run_folder.results_table import EpochResult
from streamer.common.errors import ConfigError
from streamer.frames.palette import class_colour
from tests.found import found, plausible, sample
from tests.media import Image, write_image

BOX = np.array([[8.0, 8.0, 40.0, 40.0]])


def has_colour(image: Image, colour: tuple[int, int, int], tolerance: int = 0) -> bool:
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) <= tolerance).any())


class TestDrawings:
    def test_tiles_of_all_shapes_are_scaled_to_their_place(self) -> None:
        shapes = ((64, 64), (30, 900), (900, 30), (2000, 1500), (1, 1))
        tiles = [Tile(np.full((*shape, 3), 200, np.uint8), BOX[:0], np.zeros(0, np.int64)) for shape in shapes]
        page = grid(tiles, ("a",), 2)
        assert page.dtype == np.uint8
        assert page.shape[1] > 2 * TILE_PX
        assert page.shape[0] > 3 * TILE_PX

    def test_a_row_is_as_high_as_its_highest_picture(self) -> None:
        flat = Tile(np.zeros((10, 100, 3), np.uint8), BOX[:0], np.zeros(0, np.int64))
        assert grid([flat, flat], ("a",), 2).shape[0] < TILE_PX / 3

    def test_boxes_move_with_the_scale(self) -> None:
        tile = Tile(np.zeros((64, 64, 3), np.uint8), BOX, np.array([1]))
        page = grid([tile], ("a", "b"), 1)
        is_line = (page == class_colour(1)).all(axis=-1)
        rows, columns = np.nonzero(is_line)
        assert columns.max() - columns.min() == pytest.approx(32 * TILE_PX / 64, abs=4)
        assert rows.max() - rows.min() == pytest.approx(32 * TILE_PX / 64, abs=30)  # and the label above
        assert not has_colour(page, class_colour(0))

    def test_regions_to_ignore_are_corners(self) -> None:
        def line_pixels(is_ignored: bool, class_id: int = 0, colour: int = 0) -> int:
            tile = Tile(np.zeros((64, 64, 3), np.uint8), BOX, np.array([class_id]), None, np.array([is_ignored]))
            return int((grid([tile], ("a",), 1) == class_colour(colour)).all(axis=-1).sum())

        assert 0 < line_pixels(True) < line_pixels(False)
        assert 0 < line_pixels(True, EVERY_CLASS, colour=1) and not line_pixels(True, EVERY_CLASS, colour=0)

    def test_a_batch(self, tmp_path: Path) -> None:
        images = np.zeros((MOST_TRAINING + 4, 64, 64, 3), np.uint8)
        boxes = [BOX if number % 2 else BOX[:0] for number in range(len(images))]
        draw_batch(images, boxes, [np.zeros(len(each), np.int64) for each in boxes], ("a",), tmp_path / "b.jpg")
        page = cv2.imread(str(tmp_path / "b.jpg"))
        assert page is not None
        assert page.shape[1] // TILE_PX == 4
        assert page.shape[0] // TILE_PX == 4

    def test_no_pictures(self, tmp_path: Path) -> None:
        draw_batch(np.zeros((0, 64, 64, 3), np.uint8), [], [], ("a",), tmp_path / "b.jpg")
        draw_validation([], [], ("a",), tmp_path / "v.jpg", threshold=0.5)
        assert cv2.imread(str(tmp_path / "b.jpg")) is not None
        assert cv2.imread(str(tmp_path / "v.jpg")) is not None

    def test_validation_shows_labels_beside_detections(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", 0, (640, 480))
        labels = [sample((0, 100, 100, 300, 300), name=str(tmp_path / "a.png"))]
        detected = [found((1, 0.9, 100, 100, 300, 300), (2, 0.3, 10, 10, 60, 60))]
        draw_validation(labels, detected, ("a", "b", "c"), tmp_path / "v.jpg", threshold=0.5)
        page = cv2.imread(str(tmp_path / "v.jpg"))
        assert page is not None
        left, right = np.asarray(page[:, : page.shape[1] // 2]), np.asarray(page[:, page.shape[1] // 2 :])
        assert has_colour(left, class_colour(0), 25) and not has_colour(left, class_colour(1), 25)
        assert has_colour(right, class_colour(1), 25) and not has_colour(right, class_colour(0), 25)
        assert not has_colour(right, class_colour(2), 25)

    def test_unreadable_pictures_are_left_out(self, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", 0, (640, 480))
        labels = [sample((0, 1, 1, 9, 9), name=str(tmp_path / name)) for name in ("a.png", "none.png")]
        draw_validation(labels, [found(), found()], ("a",), tmp_path / "both.jpg", threshold=0.5)
        draw_validation(labels[:1], [found()], ("a",), tmp_path / "one.jpg", threshold=0.5)
        assert (tmp_path / "both.jpg").read_bytes() == (tmp_path / "one.jpg").read_bytes()

    def test_a_place_that_cant_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"b\.jpg: can't be written"):
            draw_batch(np.zeros((1, 64, 64, 3), np.uint8), [BOX], [np.array([0])], ("a",), tmp_path / "none/b.jpg")


def size_wh(path: Path) -> tuple[int, int]:
    image = cv2.imread(str(path))
    assert image is not None
    return image.shape[1], image.shape[0]


class TestPlots:
    @pytest.fixture(autouse=True)
    def _needs_matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="plots come with [calibration]")

    @pytest.mark.parametrize(("epochs", "auxiliary"), [(0, False), (1, True), (5, True), (300, False)])
    def test_results_of_any_length(self, tmp_path: Path, epochs: int, auxiliary: bool) -> None:
        from calibration.run_folder.results_plot import draw_results

        results = [
            EpochResult(
                number,
                number * 10,
                loss=3 / number,
                qfl=1 / number,
                lr=0.1,
                aux_qfl=1.0 if auxiliary else None,
                AP=30.0 if number % 5 == 0 else None,
                int8_AP=29.0 if number == epochs else None,
                data_wait_share=0.02,
                images_per_s=100.0 if number > 2 else None,
            )
            for number in range(1, epochs + 1)
        ]
        draw_results(results, tmp_path / "results.png", "train-1")
        assert size_wh(tmp_path / "results.png")[0] > 1000

    @pytest.mark.parametrize("classes", [1, 3, 20, pytest.param(80, marks=pytest.mark.slow)])
    def test_curves_and_matrices_of_any_number_of_classes(self, tmp_path: Path, classes: int) -> None:
        from calibration.run_folder.confusion_plot import draw_confusion
        from calibration.run_folder.curve_plots import draw_confidence, draw_precision_recall

        names = [f"class {number}" for number in range(classes - 1)] + ["安全帽 $x_1$"]
        labels, detected = plausible(0, classes, 40)
        curves = detection_curves(labels, detected, names)
        draw_precision_recall(curves, tmp_path / "PR.png")
        draw_confidence(curves, tmp_path / "confidence.png")
        matrix = confusion_matrix(labels, detected, names, 0.4)
        for normalised in (False, True):
            draw_confusion(matrix, tmp_path / f"{normalised}.png", normalised=normalised)
        for name in ("PR", "confidence", "True", "False"):
            assert min(size_wh(tmp_path / f"{name}.png")) > 300
        assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()

    @pytest.mark.parametrize("with_objects", [False, True])
    def test_curves_where_nothing_was_found(self, tmp_path: Path, with_objects: bool) -> None:
        from calibration.run_folder.curve_plots import draw_confidence, draw_precision_recall

        labels = [sample((0, 0, 0, 50, 50)) if with_objects else sample()]
        curves = detection_curves(labels, [found((0, 0.9, 200, 200, 300, 300))], ("a", "b"))
        draw_precision_recall(curves, tmp_path / "PR.png")
        draw_confidence(curves, tmp_path / "confidence.png")
        assert min(*size_wh(tmp_path / "PR.png"), *size_wh(tmp_path / "confidence.png")) > 300

    def test_global_state_stays(self, tmp_path: Path) -> None:
        from calibration.run_folder.results_plot import draw_results

        before = set(sys.modules)
        draw_results([EpochResult(1, 1, loss=1.0)], tmp_path / "results.png")
        assert "matplotlib.pyplot" not in set(sys.modules) - before


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibration.run_folder.results_plot import draw_results

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"needs Matplotlib: pip install 'nanodet-streamer\[calibration\]'"):
        draw_results([], tmp_path / "results.png")


def test_importing_is_light() -> None:
    modules = "curve_plots confusion_plot results_plot drawings tensorboard model_card"
    imports = "; ".join(f"import calibration.run_folder.{name}" for name in modules.split())
    code = f"import sys; {imports}; print({{'torch', 'matplotlib', 'tensorboardX'}} & set(sys.modules))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("detects", [False, True])
def test_all_of_a_validation(tmp_path: Path, detects: bool) -> None:
    pytest.importorskip("matplotlib", reason="plots come with [calibration]")
    from calibration.run_folder.validation import write_validation

    folder = RunFolder(tmp_path)
    write_image(tmp_path / "a.png", 0, (640, 480))
    labels = [sample((0, 100, 100, 300, 300), name=str(tmp_path / "a.png"))]
    detected = [found((0, 0.9, 100, 100, 300, 300)) if detects else found()]
    curves, matrix = write_validation(folder, labels, detected, ("a", "b"))
    written = {path.name for path in tmp_path.iterdir()} - {"a.png"}
    pictures = {"PR.png", "confidence.png", "confusion.png", "confusion_normalised.png", "val_batch_0.jpg"}
    assert written == {"curves.json", *pictures}
    content = json.loads(folder.curves.read_text())
    assert content["confusion"]["counts"] == matrix.counts.tolist()
    best = curves.overall.best
    assert matrix.threshold == (best.threshold if best else 0.4)
    assert (best is not None) == detects


def test_of_many_classes_the_most_confused_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="plots come with [calibration]")
    from calibration.run_folder import confusion_plot

    counts = np.eye(151, dtype=np.int64) * 1000
    counts[140, 3] = 2
    counts[149, -1] = 1
    matrix = ConfusionMatrix(counts, tuple(f"c{number}" for number in range(150)), 0.3)
    figures: list[Any] = []
    monkeypatch.setattr(confusion_plot, "save", lambda figure, path: figures.append(figure))
    confusion_plot.draw_confusion(matrix, tmp_path / "a.png", normalised=False)
    shown = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert shown[-4:] == ["c97", "c140", "c149", "background"] and len(shown) == 101
    assert "100 of 150 classes" in figures[0].axes[0].get_title(loc="left")
