"""Quantisation-aware distillation: trains a quantised graph on the float model's output, without labels.

Rounding has a straight-through gradient (Bengio et al. 2013); scales are learned too (LSQ, Esser et al. 2020).
Importing this imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, numpy_helper
from torch import Tensor

from calibration.torch_graph import TorchGraph
from streamer.common.errors import ModelError
from streamer.models.spec import ModelSpec


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch: pictures in each.
        weight_rate: learning rate of weights and biases (Adam, cosine decay to 0).
        scale_rate: learning rate of the logarithms of scales.
        seed: for the order of pictures and augmentation.
    """

    steps: int = 400
    batch: int = 8
    weight_rate: float = 1e-4
    scale_rate: float = 1e-2
    seed: int = 0


_CPU_STEPS = 60


def distill(
    student: TorchGraph,
    teacher: TorchGraph,
    spec: ModelSpec,
    pictures: Sequence[npt.NDArray[np.uint8]],
    recipe: Recipe,
    *,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Trains `student` in place.

    Args:
        student: the Q/DQ graph.
        teacher: the float graph.
        spec: their description.
        pictures: network inputs, each (H, W, 3) uint8 BGR.
        recipe: the hyperparameters.
        on_step: called with the number of steps done and the loss.
    """
    device = next(student.parameters()).device
    groups = [
        {"params": list(student.weights.parameters()), "lr": recipe.weight_rate},
        {"params": list(student.scales.parameters()), "lr": recipe.scale_rate},
    ]
    optimizer = torch.optim.Adam(groups)
    rates = [group["lr"] for group in optimizer.param_groups]
    random = np.random.default_rng(recipe.seed)
    order: list[int] = []
    for step in range(recipe.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        while len(order) < recipe.batch:
            order += random.permutation(len(pictures)).tolist()
        chosen = [_augmented(pictures[index], random) for index in order[: recipe.batch]]
        del order[: recipe.batch]
        images = _normalised(np.stack(chosen), spec).to(device)
        with torch.no_grad():
            target = teacher(images)
        loss = distillation_loss(student(images), target, spec)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_step(step + 1, float(loss.detach()))


def distillation_loss(output: Tensor, target: Tensor, spec: ModelSpec) -> Tensor:
    """Returns the loss of an output (B, N, classes + 4 (reg_max + 1)), scores after sigmoid, against the float model's.

    Scores: cross entropy weighted by the difference, as in the quality focal loss (Li et al. 2020). Boxes: the
    Kullback-Leibler divergence of the distributions, weighted by the target's best score.
    """
    classes = spec.num_classes
    least = 1e-6
    wanted = target[..., :classes].clamp(least, 1 - least)
    got = output[..., :classes].clamp(least, 1 - least)
    weight = target[..., :classes].amax(-1)
    total = weight.sum().clamp(min=1.0)
    entropy = F.binary_cross_entropy(got, wanted, reduction="none") - F.binary_cross_entropy(
        wanted, wanted, reduction="none"
    )
    scores = ((got - wanted).abs() * entropy).sum() / total
    shape = (*output.shape[:2], 4, spec.reg_max + 1)
    bins = F.log_softmax(output[..., classes:].reshape(shape), -1)
    wanted_bins = F.log_softmax(target[..., classes:].reshape(shape), -1)
    divergence = F.kl_div(bins, wanted_bins, reduction="none", log_target=True).sum((-1, -2))
    return scores + (divergence * weight).sum() / (4 * total)


def _augmented(picture: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Returns a picture randomly mirrored, scaled by 0.7 to 1.4 and moved, padded with black."""
    import cv2

    height, width = picture.shape[:2]
    scale = random.uniform(0.7, 1.4)
    mirror = random.random() < 0.5
    matrix = np.array([[-scale if mirror else scale, 0, 0], [0, scale, 0]], np.float64)
    centre = matrix[:, :2] @ (width / 2, height / 2)
    moved = random.uniform(-0.15, 0.15, 2) * (width, height)
    matrix[:, 2] = (width / 2, height / 2) - centre + moved
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def _normalised(pictures: npt.NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """Returns (B, 3, H, W) float32 of (B, H, W, 3) uint8 BGR."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (spec.mean_bgr, spec.std_bgr))
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - mean) / std


def tune(
    quantized: ModelProto,
    original: ModelProto,
    spec: ModelSpec,
    pictures: Sequence[npt.NDArray[np.uint8]],
    recipe: Recipe | None = None,
) -> tuple[ModelProto, ModelProto]:
    """Trains a Q/DQ graph, on a GPU if PyTorch has one.

    Args:
        quantized: the Q/DQ graph of `original`.
        original: the float graph, every node named.
        spec: the model's description.
        pictures: network inputs, each (H, W, 3) uint8 BGR.
        recipe: None takes fewer steps on a CPU. Steps are fixed, not time, for reproducible results.

    Returns:
        The trained Q/DQ graph, and the float graph with the trained weights.

    Raises:
        ModelError: an operator can't be trained, or boxes aren't distributions.
    """
    if not spec.has_bins:
        raise ModelError(f"the loss of distillation is of boxes as distributions, and {spec.family} has none")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe or (Recipe() if device.type == "cuda" else Recipe(steps=_CPU_STEPS))
    constants = {item.name: item for item in original.graph.initializer}
    convolutions = [node for node in original.graph.node if node.op_type == "Conv"]
    floats = {node.name: numpy_helper.to_array(constants[node.input[1]]) for node in convolutions}
    student = TorchGraph(quantized, floats).to(device)
    distill(student, TorchGraph(original, {}).to(device), spec, pictures, recipe)
    tuned, plain = onnx.ModelProto(), onnx.ModelProto()
    tuned.CopyFrom(quantized)
    plain.CopyFrom(original)
    student.write_into(tuned)
    student.write_floats_into(plain)
    return tuned, plain
