"""The loop of NanoDet's original trainer, written out plainly: what `benchmarks.training` compares with.

From the steps of github.com/RangiLyu/nanodet (Apache-2.0): worker processes that decode every picture at every use and
warp it with OpenCV, colours and normalisation in NumPy's floats, batches as lists of pictures, float32, the loss
picture by picture (`benchmarks.training_upstream_loss`), and terms read from the device at every tenth step. The
network is this project's own, of the same layers and weights as in the other loop.

Every picture is warped to the whole input, as by its ``LegacyPipeline``, so that both loops train on as many pixels.
An epoch has no end here, as upstream's sets are large: worker processes are started once in a run.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.training_clock import StepClock
from benchmarks.training_upstream_loss import Labels, upstream_loss
from calibration.labels import Sample
from calibration.training.augmentation import Augmentation
from calibration.training.network import TrainingNetwork
from calibration.training.recipe import Averaging, Recipe
from streamer.common.errors import SourceError
from streamer.models.spec import ModelSpec

WORKERS = 10
"""Worker processes in upstream's configurations; a machine with fewer cores has one for each."""
_LOG_EVERY = 10
_ENDLESS = 1_000_000

Picture = tuple[Tensor, Labels]


class Pictures(Dataset[Picture]):
    """Reads, warps and colours one picture at a time."""

    def __init__(self, samples: Sequence[Sample], spec: ModelSpec) -> None:
        self._samples, self._spec = samples, spec
        self._settings = Augmentation.upstream(spec)

    def __len__(self) -> int:
        return len(self._samples) * max(1, _ENDLESS // len(self._samples))

    def __getitem__(self, index: int) -> Picture:
        sample = self._samples[index % len(self._samples)]
        image = cv2.imread(str(sample.image))
        if image is None:
            raise SourceError(f"can't read {sample.image}")
        height, width = image.shape[:2]
        kept = sample.is_object
        boxes = sample.boxes_xyxy((width, height))[kept].astype(np.float32)
        matrix = self._warp((width, height))
        image = cv2.warpPerspective(image, matrix, dsize=self._spec.input_size_wh)
        pixels = self._coloured(image)
        labels = Labels(_warped(boxes, matrix, self._spec.input_size_wh), sample.class_ids[kept])
        return torch.from_numpy(pixels.transpose(2, 0, 1)), labels

    def _warp(self, size_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
        settings, matrix = self._settings, np.eye(3)
        matrix[:2, 2] = -size_wh[0] / 2, -size_wh[1] / 2
        if random.random() < settings.warp:
            matrix = np.diag([*[random.uniform(*settings.scale)] * 2, 1.0]) @ matrix
        if random.random() < settings.warp:
            stretch = random.uniform(*settings.stretch), random.uniform(*settings.stretch)
            matrix = np.diag([*stretch, 1.0]) @ matrix
        if random.random() < settings.flip:
            matrix = np.diag([-1.0, 1.0, 1.0]) @ matrix
        shift = settings.translate if random.random() < settings.warp else 0.0
        moved = np.eye(3)
        moved[:2, 2] = [random.uniform(0.5 - shift, 0.5 + shift) * side for side in size_wh]
        return self._resize(size_wh) @ moved @ matrix

    def _resize(self, size_wh: tuple[int, int]) -> npt.NDArray[np.float64]:
        wanted = self._spec.input_size_wh
        factors = [wanted[axis] / size_wh[axis] for axis in range(2)]
        if self._spec.keep_ratio:
            factors = [min(factors)] * 2
        matrix = np.diag([*factors, 1.0])
        matrix[:2, 2] = [(wanted[axis] - factors[axis] * size_wh[axis]) / 2 for axis in range(2)]
        return matrix

    def _coloured(self, image: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        settings = self._settings
        pixels = image.astype(np.float32) / 255
        if random.random() < settings.colour:
            pixels += random.uniform(-settings.brightness, settings.brightness)
        if random.random() < settings.colour:
            pixels *= random.uniform(*settings.contrast)
        if random.random() < settings.colour:
            hsv = np.asarray(cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_BGR2HSV), np.float32)
            hsv[..., 1] *= random.uniform(*settings.saturation)
            pixels = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
        mean, deviation = (
            np.array(each, np.float32).reshape(1, 1, 3) / 255 for each in (self._spec.mean_bgr, self._spec.std_bgr)
        )
        return np.asarray((pixels - mean) / deviation, np.float32)


def _warped(
    boxes: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64], size_wh: tuple[int, int]
) -> npt.NDArray[np.float32]:
    if not len(boxes):
        return boxes
    corners = np.ones((len(boxes) * 4, 3))
    corners[:, :2] = boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2)
    corners = corners @ matrix.T
    x, y = (corners[:, axis].reshape(-1, 4) / corners[:, 2].reshape(-1, 4) for axis in range(2))
    sides = (x.min(1), y.min(1), x.max(1), y.max(1))
    return np.stack(sides, 1).clip(0, np.tile(size_wh, 2)).astype(np.float32)


def as_lists(pictures: Sequence[Picture]) -> tuple[list[Tensor], list[Labels]]:
    """Returns a batch as upstream's workers hand it over: pictures and labels in lists."""
    return [image for image, _ in pictures], [labels for _, labels in pictures]


def batches(
    samples: Sequence[Sample], spec: ModelSpec, batch: int, workers: int, *, is_pinned: bool
) -> Iterator[tuple[list[Tensor], list[Labels]]]:
    """Returns batches made by worker processes, in random order."""
    loader: DataLoader[Picture] = DataLoader(
        Pictures(samples, spec), batch, shuffle=True, num_workers=workers, pin_memory=is_pinned, collate_fn=as_lists,
        drop_last=True, multiprocessing_context="forkserver",
    )  # fmt: skip
    return iter(loader)


def stacked(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Returns the pictures of a batch as one tensor on the device, padded to the largest and to multiples of 32."""
    moved = [image.to(device) for image in images]
    height, width = (-(-max(image.shape[axis] for image in moved) // 32) * 32 for axis in (1, 2))
    padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in moved]
    return torch.stack(padded).contiguous()


class _Average:
    """The moving average, one tensor after another."""

    def __init__(self, network: nn.Module, settings: Averaging) -> None:
        self._settings = settings
        self._values = {name: value.detach().clone() for name, value in self._tensors(network)}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = self._settings.decay
        share = decay * math.exp(-(1 + step) / self._settings.warmup) + (1 - decay)
        for name, value in self._tensors(network):
            self._values[name].copy_(self._values[name] * (1 - share) + value * share)

    @staticmethod
    def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        yield from network.named_parameters()
        yield from network.named_buffers()


def train(
    network: TrainingNetwork,
    samples: Sequence[Sample],
    recipe: Recipe,
    device: torch.device,
    workers: int,
    clock: StepClock,
) -> None:
    """Trains until the clock says that it is over."""
    spec = network.spec
    network.to(device).train()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    parameters = list(network.parameters())
    if recipe.optimiser == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(
            parameters, recipe.scaled_lr, momentum=0.9, weight_decay=recipe.weight_decay
        )
    else:
        optimiser = torch.optim.AdamW(parameters, recipe.scaled_lr, weight_decay=recipe.weight_decay)
    average = None if recipe.averaging is None else _Average(network, recipe.averaging)
    source = batches(samples, spec, recipe.batch, workers, is_pinned=device.type == "cuda")
    step = 0
    while not clock.happened:
        began_s = time.perf_counter()
        pictures, labels = next(source)
        clock.waited_s += time.perf_counter() - began_s
        for group in optimiser.param_groups:
            group["lr"] = recipe.scaled_lr * recipe.schedule.factor(step, 0.0)
        images = stacked(pictures, device)
        loss, terms = upstream_loss(network(images), labels, spec, (images.shape[2], images.shape[3]))
        if step % _LOG_EVERY == 0:
            for term in terms.values():  # once for the line, once for the event file
                term.mean().item(), term.mean().item()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        if average is not None:
            average.update(network, step)
        step += 1
        clock.report_progress(step)
