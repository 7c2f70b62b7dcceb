"""The batched assigners against plain loops over pictures, objects and points, on all kinds of objects."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch", reason="training is written in PyTorch")

from hypothesis import given, settings  # noqa: E402

from calibration.training.assignment import Assignment, counts_in_loss  # noqa: E402
from calibration.training.atss import atss  # noqa: E402
from calibration.training.boxes import decode  # noqa: E402
from calibration.training.dynamic_assigner import dynamic_soft_labels  # noqa: E402
from calibration.training.truth import Truth  # noqa: E402
from streamer.models.spec import ModelSpec, spec_for  # noqa: E402
from tests.training_truths import Drawn, counts_of, drawn, points_of  # noqa: E402

Box = Sequence[float]
CLASSES = ("bolt", "gear", "nut")
PLAIN = spec_for("nanodet-m_96").model_copy(update={"labels": CLASSES})
PLUS = spec_for("nanodet-plus-m_96").model_copy(update={"labels": CLASSES})
EVERY_KIND = Drawn((("plain", "same place", "same place", "large"), (), ("tiny", "outside", "ignored", "plain")), 5)


def overlap(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / max(areas - width * height, 1e-6)


def within(box: Box, x: float, y: float, margin: float = 0.0) -> bool:
    return min(x - box[0], y - box[1], box[2] - x, box[3] - y) > margin


def objects(truth: Truth, picture: int) -> dict[int, tuple[Box, int]]:
    return {
        row: (truth.boxes[picture, row].tolist(), int(truth.labels[picture, row]))
        for row in range(truth.boxes.shape[1])
        if truth.is_valid[picture, row] and not truth.is_ignored[picture, row]
    }


def atss_by_loops(spec: ModelSpec, truth: Truth, topk: int, cell_scale: float) -> list[dict[int, int]]:
    """For each picture the object's row of each positive point (Zhang et al. 2020, algorithm 1)."""
    points = points_of(spec, torch.float64).tolist()
    pictures = []
    for picture in range(len(truth.boxes)):
        claims: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for row, (box, _) in objects(truth, picture).items():
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            candidates, start = [], 0
            for count in counts_of(spec):
                level = range(start, start + count)
                candidates += sorted(level, key=lambda index: math.dist(points[index][:2], centre))[:topk]
                start += count
            overlaps = {}
            for index in candidates:
                x, y, stride = points[index]
                half = stride * cell_scale / 2
                overlaps[index] = overlap((x - half, y - half, x + half, y + half), box)
            threshold = statistics.fmean(overlaps.values()) + statistics.stdev(overlaps.values())
            for index, value in overlaps.items():
                if value >= threshold and within(box, *points[index][:2], margin=0.01):
                    claims[index].append((value, row))
        pictures.append({index: max(claim)[1] for index, claim in claims.items()})
    return pictures


def score_cost(logits: Sequence[float], label: int, target: float) -> float:
    cost = 0.0
    for class_id, logit in enumerate(logits):
        wanted = target if class_id == label else 0.0
        score = 1 / (1 + math.exp(-logit))
        entropy = -wanted * math.log(score) - (1 - wanted) * math.log(1 - score)
        cost += entropy * (wanted - score) ** 2
    return cost


def dynamic_by_loops(spec: ModelSpec, output: torch.Tensor, truth: Truth) -> list[dict[int, tuple[int, float]]]:
    """For each picture the object's row and overlap of each positive point."""
    points = points_of(spec, torch.float64)
    boxes = decode(output[..., spec.num_classes :], points).tolist()
    pictures = []
    for picture in range(len(truth.boxes)):
        rows = objects(truth, picture)
        inner = [
            index
            for index, (x, y, _) in enumerate(points.tolist())
            if any(within(box, x, y) for box, _ in rows.values())
        ]
        overlaps = {(i, row): overlap(boxes[picture][i], rows[row][0]) for i in inner for row in rows}
        logits = output[picture, :, : spec.num_classes].tolist()
        cost = {
            (i, row): score_cost(logits[i], rows[row][1], value) - 3 * math.log(value + 1e-7)
            for (i, row), value in overlaps.items()
        }
        takers: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            largest = sorted((overlaps[i, row] for i in inner), reverse=True)[:13]
            wanted = max(1, int(sum(largest)))
            for index in sorted(inner, key=lambda i: cost[i, row])[:wanted]:
                takers[index].append(row)
        settled = {
            index: claim[0] if len(claim) == 1 else min(rows, key=lambda row: cost[index, row])
            for index, claim in takers.items()
        }
        pictures.append({index: (row, overlaps[index, row]) for index, row in settled.items()})
    return pictures


def as_dicts(assignment: Assignment) -> list[dict[int, int]]:
    return [
        {index: int(rows[index]) for index in positive.nonzero()[:, 0].tolist()}
        for rows, positive in zip(assignment.row, assignment.is_positive, strict=True)
    ]


def assign_by_atss(case: Drawn, cell_scale: float = 5.0) -> Assignment:
    points = points_of(PLAIN, torch.float64)
    return atss(points, counts_of(PLAIN), case.truth(PLAIN), topk=9, cell_scale=cell_scale)


def assign_dynamically(case: Drawn) -> Assignment:
    points, output = points_of(PLUS, torch.float64), case.output(PLUS)
    logits, bins = output[..., : PLUS.num_classes], output[..., PLUS.num_classes :]
    return dynamic_soft_labels(logits, decode(bins, points), points, case.truth(PLUS), topk=13, iou_factor=3.0)


@pytest.mark.parametrize("cell_scale", [5.0, 8.0])
@settings(max_examples=40)
@given(case=drawn())
def test_atss_is_that_of_plain_loops(case: Drawn, cell_scale: float) -> None:
    wanted = atss_by_loops(PLAIN, case.truth(PLAIN), 9, cell_scale)
    assert as_dicts(assign_by_atss(case, cell_scale)) == wanted


@settings(max_examples=40)
@given(case=drawn())
def test_dynamic_soft_labels_are_those_of_plain_loops(case: Drawn) -> None:
    wanted = dynamic_by_loops(PLUS, case.output(PLUS), case.truth(PLUS))
    assignment = assign_dynamically(case)
    assert as_dicts(assignment) == [{index: row for index, (row, _) in each.items()} for each in wanted]
    assert assignment.quality is not None
    for picture, each in enumerate(wanted):
        for index, (_, quality) in each.items():
            assert float(assignment.quality[picture, index]) == pytest.approx(quality, abs=1e-9)


@pytest.mark.parametrize("assign", [assign_by_atss, assign_dynamically])
def test_every_kind_of_object_is_in_the_comparison(assign: object) -> None:
    assert callable(assign)
    positives = [set(each.values()) for each in as_dicts(assign(EVERY_KIND))]
    assert positives[0] >= {0, 3} and positives[1] == set() and 3 in positives[2]
    assert 2 not in positives[2], "an ignored region is no object"


@pytest.mark.parametrize("assign", [assign_by_atss, assign_dynamically])
def test_points_without_an_object_have_no_quality_and_index_zero(assign: object) -> None:
    assert callable(assign)
    assignment = assign(EVERY_KIND)
    assert not assignment.row[~assignment.is_positive].any()
    assert assignment.quality is None or not assignment.quality[~assignment.is_positive].any()


@settings(max_examples=40)
@given(case=drawn())
def test_only_background_in_ignored_regions_is_left_out(case: Drawn) -> None:
    truth, points = case.truth(PLAIN), points_of(PLAIN, torch.float64)
    assignment = assign_by_atss(case)
    counted = counts_in_loss(assignment, points, truth)
    for picture in range(len(truth.boxes)):
        ignored = truth.boxes[picture][truth.is_ignored[picture]].tolist()
        for index, (x, y, _) in enumerate(points.tolist()):
            in_region = any(within(box, x, y) for box in ignored)
            assert bool(counted[picture, index]) == (bool(assignment.is_positive[picture, index]) or not in_region)


def test_a_point_claimed_twice_goes_to_the_object_its_cell_overlaps_most() -> None:
    boxes = torch.tensor([[[20.0, 20, 76, 76], [32.0, 32, 64, 64]]], dtype=torch.float64)
    rows = torch.ones(1, 2, dtype=torch.bool)
    truth = Truth(boxes, torch.zeros(1, 2, dtype=torch.int64), rows, ~rows)
    points = points_of(PLAIN, torch.float64)
    both = atss(points, counts_of(PLAIN), truth, topk=9, cell_scale=5.0)
    alone = [
        atss(points, counts_of(PLAIN), Truth(boxes, truth.labels, keep, ~rows), topk=9, cell_scale=5.0).is_positive
        for keep in (torch.tensor([[True, False]]), torch.tensor([[False, True]]))
    ]
    contested = alone[0] & alone[1]
    assert contested.any()
    wanted = [
        max(
            range(2),
            key=lambda row: overlap((x - s * 2.5, y - s * 2.5, x + s * 2.5, y + s * 2.5), boxes[0, row].tolist()),
        )
        for x, y, s in points[contested[0]].tolist()
    ]
    assert both.row[contested].tolist() == wanted
