"""Quantisation-aware distillation: trains a quantised graph on the float model's output, without labels.

Rounding has a straight-through gradient (Bengio et al. 2013); scales are learned too (LSQ, Esser et al. 2020).
Importing this imports torch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, numpy_helper
from torch import Tensor

from calibration.torch_graph import TorchGraph
from calibration.training.photometry import network_inputs
from streamer.common.errors import ModelError
from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps.
        batch: pictures in each.
        weight_rate: learning rate of weights and biases (Adam; warm-up, then cosine decay to 0).
        scale_rate: learning rate of the logarithms of scales.
        seed: for the order of pictures and augmentation.
    """

    steps: int = 2000
    batch: int = 32
    weight_rate: float = 3e-4
    scale_rate: float = 1e-2
    seed: int = 0


_CPU = Recipe(steps=60, batch=8, weight_rate=1e-4)
_LEAST_BATCH = 8
_WARMUP = 0.02
"""Share of the steps in which the learning rate rises from 0."""


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
    stored = torch.from_numpy(np.stack(pictures)).to(device)
    order: list[int] = []
    for step in range(recipe.steps):
        share = step / recipe.steps
        factor = min(1.0, (share + 1 / recipe.steps) / _WARMUP) * (1 + math.cos(math.pi * share)) / 2
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        while len(order) < recipe.batch:
            order += random.permutation(len(pictures)).tolist()
        chosen = stored[order[: recipe.batch]]
        del order[: recipe.batch]
        images = network_inputs(augmented(chosen, random), spec)
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


def augmented(pictures: Tensor, random: np.random.Generator) -> Tensor:
    """Returns pictures (B, H, W, 3) uint8 BGR, each randomly mirrored, scaled by 0.7 to 1.4, moved by up to 0.15 of its
    sides, padded with black, and of another brightness and contrast; computed on their device."""
    count, height, width, _ = pictures.shape
    scale = random.uniform(0.7, 1.4, count)
    mirror = np.where(random.random(count) < 0.5, -1.0, 1.0)
    place = np.zeros((count, 2, 3), np.float32)
    place[:, 0, 0], place[:, 1, 1] = mirror / scale, 1 / scale
    place[:, :, 2] = random.uniform(-0.3, 0.3, (count, 2)) / scale[:, None]  # the axes run from -1 to 1
    contrast = random.uniform(0.6, 1.4, count)
    brightness = random.uniform(-0.15, 0.15, count) * 255
    device = pictures.device
    grid = F.affine_grid(torch.from_numpy(place).to(device), [count, 3, height, width], align_corners=False)
    moved = F.grid_sample(pictures.permute(0, 3, 1, 2).float(), grid, align_corners=False)
    gain, offset = (
        torch.from_numpy(each.astype(np.float32)).to(device).view(-1, 1, 1, 1) for each in (contrast, brightness)
    )
    return (moved * gain + offset).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


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
        recipe: None takes fewer steps on a CPU, and fewer pictures a step where a GPU's memory is too small for them.
            Steps are fixed, not time, for reproducible results.

    Returns:
        The trained Q/DQ graph, and the float graph with the trained weights.

    Raises:
        ModelError: an operator can't be trained, or boxes aren't distributions.
        torch.OutOfMemoryError: eight pictures a step don't fit in the GPU's memory.
    """
    if not spec.has_bins:
        raise ModelError(f"the loss of distillation is of boxes as distributions, and {spec.family} has none")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe or (Recipe() if device.type == "cuda" else _CPU)
    constants = {item.name: item for item in original.graph.initializer}
    convolutions = [node for node in original.graph.node if node.op_type == "Conv"]
    floats = {node.name: numpy_helper.to_array(constants[node.input[1]]) for node in convolutions}
    teacher = TorchGraph(original, {}).to(device)
    while True:
        student = TorchGraph(quantized, floats).to(device)
        try:
            distill(student, teacher, spec, pictures, recipe)
            break
        except torch.OutOfMemoryError:
            if recipe.batch <= _LEAST_BATCH:
                raise
        recipe = replace(recipe, batch=max(_LEAST_BATCH, recipe.batch // 2))
        log.info("the GPU's memory is too small: distilling again with %d pictures a step", recipe.batch)
    tuned, plain = onnx.ModelProto(), onnx.ModelProto()
    tuned.CopyFrom(quantized)
    plain.CopyFrom(original)
    student.write_into(tuned)
    student.write_floats_into(plain)
    return tuned, plain
