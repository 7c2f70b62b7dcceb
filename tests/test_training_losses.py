"""The loss against official values, its gradients, and what must not change it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from calibration.training import boxes as box_functions  # noqa: E402
from calibration.training.losses import (  # noqa: E402
    Losses,
    LossSettings,
    detection_loss,
    distribution_focal_loss,
    quality_focal_loss,
)
from calibration.training.truth import Truth  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402
from tests.training_truths import Drawn, drawn, predictions  # noqa: E402

CLASSES = ("bolt", "gear", "nut")
SPECS = {
    name: spec_for(f"{name}_96").model_copy(update={"labels": CLASSES})
    for name in ("nanodet-m", "nanodet-g", "nanodet-plus-m")
}
SOME = Drawn((("plain", "large"), ("tiny", "plain", "ignored")), 11)
each_network = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def case_loss(case: Drawn, spec: ModelSpec, auxiliary: Drawn | None = None) -> tuple[Losses, Tensor]:
    main = case.output(spec, torch.float32).requires_grad_()
    other = None if auxiliary is None else auxiliary.output(spec, torch.float32)
    return detection_loss(predictions(spec, main, other), case.truth(spec, torch.float32), spec), main


def confident(spec: ModelSpec) -> Tensor:
    """Predictions whose positives' scores add up to over 1 in each picture, below which the sum doesn't count."""
    return SOME.output(spec, torch.float32) + 3


def gradient(losses: Losses, of: Tensor) -> Tensor:
    (wanted,) = torch.autograd.grad(losses.total, of)
    return wanted


def official_truth() -> Truth:
    """The truth of the official losses: see `goldens/losses.json` in the README of the shared folder."""
    boxes, labels = [], []
    for seed, count in ((1, 7), (2, 3)):
        random = np.random.RandomState(seed)
        centre = random.rand(count, 2) * 0.8 * 320 + 32
        size = np.exp(random.uniform(np.log(12), np.log(224), (count, 2)))
        corners = np.concatenate((centre - size / 2, centre + size / 2), 1).clip(0, 319)
        boxes.append(torch.from_numpy(corners.astype(np.float32)))
        labels.append(torch.from_numpy(random.randint(0, 80, count)))
    return Truth.pad(boxes, labels)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "mode"), [("nanodet-m", "main"), ("nanodet-plus-m", "no_aux"), ("nanodet-plus-m", "aux")]
)
def test_terms_and_gradient_norms_are_official(shared: Path, name: str, mode: str) -> None:
    golden: dict[str, float] = json.loads((shared / "goldens" / "losses.json").read_text())[name][mode]
    spec, random = spec_for(f"{name}_320"), np.random.RandomState(7)
    outputs = [
        torch.from_numpy(
            np.concatenate((random.randn(2, spec.num_points, 80) - 4, random.randn(2, spec.num_points, 32) * 1.5), -1)
        ).float()
        for _ in range(2 if mode == "aux" else 1)
    ]
    for output in outputs:
        output.requires_grad_()
    losses = detection_loss(predictions(spec, *outputs), official_truth(), spec)
    losses.total.backward()
    got = {"total": losses.total}
    for term, value in losses.terms.items():
        got[f"aux_loss_{term.removeprefix('aux_')}" if term.startswith("aux_") else f"loss_{term}"] = value
    for prefix, output in zip(("", "aux_"), outputs, strict=False):
        assert output.grad is not None
        got[f"{prefix}grad_norm"] = output.grad.norm()
    assert {key: value.item() for key, value in got.items()} == pytest.approx(golden, rel=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, targets), logits)
    bins = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    sides = torch.rand(6, dtype=torch.float64) * 6.9
    assert torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, sides), bins)
    spec = SPECS["nanodet-m"]
    points = torch.tensor([[20.0, 30, 8], [48, 48, 16]], dtype=torch.float64)
    wanted = torch.tensor([[[4.0, 8, 50, 60], [40, 20, 80, 90]]], dtype=torch.float64)
    raw = torch.randn(1, 2, 4 * (spec.reg_max + 1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: box_functions.giou(box_functions.decode(x, points), wanted), raw)


def test_giou_of_known_boxes() -> None:
    first = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]])
    second = torch.tensor([[0.0, 0, 10, 10], [0, 5, 10, 15], [10, 10, 20, 20], [5, 5, 5, 5]])
    assert box_functions.iou(first, second).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert box_functions.giou(first, second)[:3].tolist() == pytest.approx([1, 1 / 3, -0.5])
    assert bool(box_functions.giou(first, second).isfinite().all())


@pytest.mark.parametrize("wanted", [0.0, 0.25, 3.0, 6.9])
def test_the_distribution_loss_is_least_at_the_two_bins_around_the_target(wanted: float) -> None:
    ideal = torch.full((8,), 1e-9)
    left = int(wanted)
    ideal[left], ideal[left + 1] = 1 - (wanted - left), max(wanted - left, 1e-9)
    target = torch.tensor(wanted)
    least = float(distribution_focal_loss(ideal.log(), target))
    for seed in range(5):
        other = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        assert float(distribution_focal_loss(other, target)) > least


@each_network
@settings(max_examples=15)
@given(case=drawn(), more=st.integers(1, 5))
def test_more_rows_of_padding_change_nothing(spec: ModelSpec, case: Drawn, more: int) -> None:
    losses, main = case_loss(case, spec)
    truth = case.truth(spec, torch.float32)
    pictures = len(truth.boxes)
    padded = Truth(
        torch.cat((truth.boxes, torch.full((pictures, more, 4), 40.0)), 1),
        torch.cat((truth.labels, torch.full((pictures, more), -1)), 1),
        torch.cat((truth.is_valid, torch.zeros(pictures, more, dtype=torch.bool)), 1),
        torch.cat((truth.is_ignored, torch.zeros(pictures, more, dtype=torch.bool)), 1),
    )
    again = detection_loss(predictions(spec, main), padded, spec)
    torch.testing.assert_close(gradient(again, main), gradient(losses, main))
    assert again.total.item() == pytest.approx(losses.total.item(), rel=1e-6)
    assert int(again.positives) == int(losses.positives)


@each_network
@settings(max_examples=15)
@given(case=drawn())
def test_the_order_of_pictures_and_objects_changes_nothing(spec: ModelSpec, case: Drawn) -> None:
    losses, main = case_loss(case, spec)
    truth = case.truth(spec, torch.float32)
    turned = Truth(*(each.flip(0, 1) for each in (truth.boxes, truth.labels, truth.is_valid, truth.is_ignored)))
    again = detection_loss(predictions(spec, main.flip(0)), turned, spec)
    for term, value in losses.terms.items():
        assert again.terms[term].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7)


@each_network
@settings(max_examples=15)
@given(case=drawn())
def test_each_picture_twice_is_the_loss_of_each_once(spec: ModelSpec, case: Drawn) -> None:
    losses, main = case_loss(case, spec)
    truth = case.truth(spec, torch.float32)
    doubled = Truth(*(each.repeat(2, *[1] * (each.ndim - 1)) for each in vars(truth).values()))
    again = detection_loss(predictions(spec, main.repeat(2, 1, 1)), doubled, spec)
    floor_counts = spec.family == "nanodet-plus"  # at least 1 for the batch, however many pictures
    for term, value in losses.terms.items():
        factor = again.terms[term].item() / value.item() if value.item() > 1e-6 else 1.0
        assert factor == pytest.approx(1, rel=1e-4) or (floor_counts and 1 <= factor <= 2.0001)


def test_scores_of_two_pictures_weigh_by_their_positives() -> None:
    spec = SPECS["nanodet-plus-m"]
    both, main = case_loss(SOME, spec)
    truth = SOME.truth(spec, torch.float32)
    singles = []
    for picture in range(2):
        part = Truth(*(each[picture : picture + 1] for each in vars(truth).values()))
        singles.append(detection_loss(predictions(spec, main[picture : picture + 1]), part, spec))
    counts = [int(each.positives) for each in singles]
    assert min(counts) > 0 and sum(counts) == int(both.positives)
    wanted = sum(each.terms["qfl"].item() * count for each, count in zip(singles, counts, strict=True)) / sum(counts)
    assert both.terms["qfl"].item() == pytest.approx(wanted, rel=1e-5)


@each_network
def test_background_alone_lowers_every_score_and_moves_no_box(spec: ModelSpec) -> None:
    losses, main = case_loss(Drawn(((), ()), 3), spec)
    slopes = gradient(losses, main)
    assert bool((slopes[..., : spec.num_classes] > 0).all()) and not slopes[..., spec.num_classes :].any()
    assert int(losses.positives) == 0 and losses.terms["bbox"].item() == losses.terms["dfl"].item() == 0


@each_network
def test_an_ignored_region_over_everything_leaves_no_loss(spec: ModelSpec) -> None:
    everywhere = torch.tensor([[-1.0, -1, 97, 97]])
    truth = Truth.pad([everywhere], [torch.tensor([0])], [torch.tensor([True])])
    main = SOME.output(spec, torch.float32)[:1].requires_grad_()
    losses = detection_loss(predictions(spec, main), truth, spec)
    assert losses.total.item() == 0 and not gradient(losses, main).any()


def test_the_auxiliary_head_assigns_for_both() -> None:
    spec, other = SPECS["nanodet-plus-m"], Drawn(SOME.pictures, 99)
    losses, main = case_loss(SOME, spec, auxiliary=other)
    truth = SOME.truth(spec, torch.float32)
    alone = detection_loss(predictions(spec, other.output(spec, torch.float32)), truth, spec)
    for term in ("qfl", "bbox", "dfl"):
        assert losses.terms[f"aux_{term}"].item() == pytest.approx(alone.terms[term].item())
    by_itself, _ = case_loss(SOME, spec)
    assert losses.terms["qfl"].item() != pytest.approx(by_itself.terms["qfl"].item())
    assert losses.total.item() == pytest.approx(sum(term.item() for term in losses.terms.values()))
    assert gradient(losses, main).any()


def test_the_main_head_may_assign_for_both() -> None:
    spec, other = SPECS["nanodet-plus-m"], Drawn(SOME.pictures, 99)
    settings = dataclasses.replace(LossSettings.of(spec), auxiliary_assigns=False)
    outputs = (SOME.output(spec, torch.float32), other.output(spec, torch.float32))
    losses = detection_loss(predictions(spec, *outputs), SOME.truth(spec, torch.float32), spec, settings)
    by_itself, _ = case_loss(SOME, spec)
    for term, value in by_itself.terms.items():
        assert losses.terms[term].item() == pytest.approx(value.item())


@pytest.mark.parametrize(
    ("name", "assigner", "cell_scale"),
    [
        ("nanodet-m", "atss", 5.0),
        ("nanodet-m-0.5x", "atss", 5.0),
        ("nanodet-m-1.5x", "atss", 5.0),
        ("nanodet-g", "atss", 8.0),
        ("nanodet-plus-m", "dynamic", 5.0),
        ("nanodet-plus-m-1.5x", "dynamic", 5.0),
    ],
)
def test_settings_are_upstreams(name: str, assigner: str, cell_scale: float) -> None:
    settings = LossSettings.of(spec_for(f"{name}_320"))
    assert (settings.assigner, settings.cell_scale) == (assigner, cell_scale)
    assert (settings.atss_topk, settings.dynamic_topk, settings.iou_factor) == (9, 13, 3.0)
    assert (settings.qfl_weight, settings.qfl_beta, settings.dfl_weight, settings.giou_weight) == (1, 2, 0.25, 2)


@each_network
def test_the_loss_is_float32_under_autocast(spec: ModelSpec) -> None:
    main = SOME.output(spec, torch.float32).bfloat16().requires_grad_()
    truth = SOME.truth(spec, torch.float32)
    wanted = detection_loss(predictions(spec, main.float()), truth, spec)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detection_loss(predictions(spec, main), truth, spec)
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == wanted.total.item()
    assert gradient(losses, main).isfinite().all()


@each_network
def test_nothing_waits_for_the_device(spec: ModelSpec) -> None:
    """Tensors without values: reading one, or a shape that depends on one, raises."""
    with FakeTensorMode() as mode:
        main = mode.from_tensor(SOME.output(spec, torch.float32)).requires_grad_()
        truth = Truth(*(mode.from_tensor(each) for each in vars(SOME.truth(spec, torch.float32)).values()))
        losses = detection_loss(predictions(spec, main, main if "plus" in spec.name else None), truth, spec)
        losses.total.backward()
        assert main.grad is not None and main.grad.shape == main.shape


@each_network
def test_one_graph_without_breaks_is_compiled(spec: ModelSpec) -> None:
    torch.compiler.reset()
    compiled = torch.compile(detection_loss, backend="eager", fullgraph=True)
    main = SOME.output(spec, torch.float32)
    truth = SOME.truth(spec, torch.float32)
    wanted = detection_loss(predictions(spec, main), truth, spec)
    assert float(compiled(predictions(spec, main), truth, spec).total) == pytest.approx(wanted.total.item())


_PROCESS = """
import sys, torch
import torch.distributed as dist
from calibration.training.losses import detection_loss
from tests.test_training_losses import SOME, SPECS, Truth, confident, predictions
rank, store, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
spec = SPECS[name]
truth = Truth(*(each[rank : rank + 1] for each in vars(SOME.truth(spec, torch.float32)).values()))
main = confident(spec)[rank : rank + 1]
print(*(float(value) for value in detection_loss(predictions(spec, main), truth, spec).terms.values()))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nanodet-m", "nanodet-plus-m"])
def test_two_processes_together_have_the_loss_of_one(name: str, tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(rank), str(tmp_path / "store"), name],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        for rank in range(2)
    ]
    terms = [[float(word) for word in process.communicate(timeout=120)[0].split()] for process in processes]
    spec = SPECS[name]
    together = detection_loss(predictions(spec, confident(spec)), SOME.truth(spec, torch.float32), spec)
    mean = [sum(values) / 2 for values in zip(*terms, strict=True)]
    assert mean == pytest.approx([term.item() for term in together.terms.values()], rel=1e-5)
