"""The benchmark of training: upstream's loss written out plainly, its pictures, the clock, and a short run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")
pytest.importorskip("faster_coco_eval", reason="the loop measures accuracy")

from benchmarks import training  # noqa: E402
from benchmarks.training_clock import StepClock  # noqa: E402
from benchmarks.training_pictures import draw_pictures  # noqa: E402
from benchmarks.training_upstream import Pictures, stacked  # noqa: E402
from benchmarks.training_upstream_loss import Labels, upstream_loss  # noqa: E402
from calibration.training.losses import detection_loss  # noqa: E402
from calibration.training.truth import Truth  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402
from tests.training_truths import Drawn, predictions  # noqa: E402

CLASSES = ("bolt", "gear", "nut")
SPECS = {
    name: spec_for(f"{name}_96").model_copy(update={"labels": CLASSES})
    for name in ("nanodet-m", "nanodet-g", "nanodet-plus-m")
}
each_network = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def labels_of(truth: Truth) -> list[Labels]:
    kept = [valid.numpy() for valid in truth.is_valid]
    return [
        Labels(truth.boxes[index].numpy()[mask], truth.labels[index].numpy()[mask]) for index, mask in enumerate(kept)
    ]


@each_network
@pytest.mark.parametrize("seed", range(3))
def test_the_plain_loss_and_its_gradient_are_those_of_the_batched_one(spec: ModelSpec, seed: int) -> None:
    case = Drawn((("plain", "large", "same place"), ("tiny", "plain", "outside"), ("same place", "same place")), seed)
    truth = case.truth(spec, torch.float32)
    main = case.output(spec, torch.float32).requires_grad_()
    auxiliary = None
    if spec.family == "nanodet-plus":
        auxiliary = Drawn(case.pictures, seed + 7).output(spec, torch.float32).requires_grad_()
    made = predictions(spec, main, auxiliary)
    ours = detection_loss(made, truth, spec)
    total, terms = upstream_loss(made, labels_of(truth), spec, (96, 96))
    assert terms.keys() == ours.terms.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, ours.terms[name], rtol=1e-4, atol=1e-6)
    wanted, found = (torch.autograd.grad(each, main, retain_graph=True)[0] for each in (ours.total, total))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


@each_network
def test_a_picture_without_objects_adds_no_positives(spec: ModelSpec) -> None:
    case = Drawn((("plain",), ()), 5)
    truth = case.truth(spec, torch.float32)
    made = predictions(spec, case.output(spec, torch.float32))
    total, _ = upstream_loss(made, labels_of(truth), spec, (96, 96))
    torch.testing.assert_close(total, detection_loss(made, truth, spec).total, rtol=1e-4, atol=1e-6)


def test_boxes_follow_the_pixels_of_upstreams_pictures(tmp_path: Path) -> None:
    import cv2

    from calibration.labels import LabelledObject, Sample

    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:90, 40:80] = 255
    cv2.imwrite(str(tmp_path / "one.png"), pixels)
    sample = Sample.of(tmp_path / "one.png", [LabelledObject(1, (60 / 160, 0.5, 0.25, 0.5))])
    spec = SPECS["nanodet-g"]
    random.seed(0)
    for _ in range(8):
        image, labels = Pictures([sample], spec)[0]
        brightness = image.numpy().max(0)
        bright = brightness > (brightness.max() + brightness.min()) / 2
        rows, columns = np.nonzero(bright)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(labels.boxes[0], found, atol=1.5)
        assert labels.classes.tolist() == [1]


def test_pictures_of_several_sizes_are_padded_to_one() -> None:
    batch = stacked([torch.ones(3, 40, 64), torch.ones(3, 64, 50)], torch.device("cpu"))
    assert batch.shape == (2, 3, 64, 64)
    assert batch.sum(dim=(1, 2, 3)).tolist() == [3 * 40 * 64, 3 * 64 * 50]


def test_drawn_pictures_are_the_same_for_a_seed_and_have_objects(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = (draw_pictures(tmp_path / name, 2, 3) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes()
        assert 1 <= len(one.class_ids) <= 12
        assert set(one.class_ids.tolist()) <= {0, 1, 2}
        assert (one.boxes_xyxy((1, 1)) >= -1e-9).all()
        assert (one.boxes_xyxy((1, 1)) <= 1 + 1e-9).all()


def test_the_clock_times_the_steps_after_the_warm_up_and_ends_the_loop() -> None:
    clock = StepClock(batch=4, warmup=3, steps=2, device=torch.device("cpu"))
    for step in range(1, 6):
        assert not clock.happened
        clock.waited_s += 0.5
        clock.report_progress(step)
    assert clock.happened
    assert (clock.cold.images, clock.warm.images) == (8, 8)
    assert (clock.cold.waited_s, clock.warm.waited_s) == (1.0, 1.0)
    assert clock.warm.memory_bytes is None


@pytest.mark.slow
def test_a_short_run_measures_both_loops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    assert training.main(["--smoke", "--device", "cpu", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["loss difference"] < 1e-3
    assert set(figures["rounds"]) == {training.UPSTREAM, "this loop, f32", "this loop, f32, first epoch"}
    assert all(window["wall_s"] > 0 for windows in figures["rounds"].values() for window in windows)
    assert f"this loop, f32 / {training.UPSTREAM}: " in capsys.readouterr().out


def test_fewer_pictures_than_a_batch_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["--device", "cpu", "--pictures", "2", "--batch", "4", "--model", "nanodet-g_96"]) == 1
    assert "2 pictures don't fill a batch of 4" in capsys.readouterr().err
