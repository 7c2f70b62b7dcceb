"""Small runs of training: pictures of coloured rectangles, and networks that train in milliseconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from calibration.data import read_data
from calibration.labels import Sample
from calibration.run_folder.folder import RunFolder
from calibration.training.augmentation import Augmentation
from calibration.training.job import Job
from calibration.training.loop import Training
from calibration.training.network import TrainingNetwork
from calibration.training.process import Process
from calibration.training.recipe import Recipe, default_recipe
from calibration.training.validation import Validator
from streamer.common.interrupt import Interrupt
from streamer.models.network_spec import HeadSpec, NetworkSpec, PanSpec, ShuffleNetV2Spec
from streamer.models.spec import ModelSpec, spec_for

CPU = torch.device("cpu")
NAMES = ("red", "blue")
_COLOURS_BGR = ((20, 30, 220), (230, 60, 10), (40, 220, 40))
LAUNCH = (sys.executable, "-m", "calibration", "train")


def narrow_spec(
    labels: Sequence[str] = NAMES, size: int = 64, channels: tuple[int, int, int] = (16, 24, 32), width: int = 16
) -> ModelSpec:
    """nanodet-m-0.5x with narrow layers."""
    network = NetworkSpec(
        backbone=ShuffleNetV2Spec(
            type="shufflenetv2", stem_channels=8, stage_channels=channels, stage_blocks=(1, 1, 1)
        ),
        neck=PanSpec(type="pan", channels=width),
        head=HeadSpec(channels=width, convs=1, kernel=3, depthwise=True),
    )
    return spec_for("nanodet-m-0.5x_320").model_copy(
        update={"labels": tuple(labels), "network": network, "input_size_wh": (size, size)}
    )


def write_config(path: Path, spec: ModelSpec) -> Path:
    """Writes a spec as a model description."""
    content = spec.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    return path


def draw(seed: int, side: int = 96, classes: int = len(NAMES)) -> tuple[np.ndarray, list[str]]:
    """Returns a grey picture with a rectangle or two in the colours of their classes, and its YOLO lines."""
    random = np.random.default_rng(seed)
    pixels = random.integers(70, 130, (side, side, 3), dtype=np.uint8)
    lines = []
    for left, top in ((4, 4), (side // 2, side // 2))[: 1 + seed % 2]:
        width, height = (int(value) for value in random.integers(side // 4, side // 2 - 4, 2))
        kind = int(random.integers(classes))
        cv2.rectangle(pixels, (left, top), (left + width - 1, top + height - 1), _COLOURS_BGR[kind], -1)
        box = ((left + width / 2) / side, (top + height / 2) / side, width / side, height / side)
        lines.append(" ".join((str(kind), *(f"{value:.6f}" for value in box))))
    return pixels, lines


def write_set(
    root: Path, train: int = 8, val: int = 4, *, names: Sequence[str] = NAMES, labels: bool = True, side: int = 96
) -> Path:
    """Writes pictures with YOLO labels, and the data.yaml, whose path it returns."""
    for split, count in (("train", train), ("val", val)):
        images, texts = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        texts.mkdir(parents=True)
        for number in range(count):
            pixels, lines = draw(number if split == "train" else 1000 + number, side, min(len(names), 3))
            cv2.imwrite(str(images / f"{number:03}.png"), pixels)
            (texts / f"{number:03}.txt").write_text("\n".join(lines) if labels else "")
    path = root / "data.yaml"
    content = {"train": "images/train", "val": "images/val", "names": list(names)}
    path.write_text(yaml.safe_dump(content))
    return path


def small_recipe(spec: ModelSpec, pictures: int, **changes: Any) -> Recipe:
    """The default recipe of a run of a few steps, without augmentation unless `changes` say so."""
    plain: dict[str, Any] = {
        "batch": 4, "steps": 6, "epochs": None, "augmentation": Augmentation.none(), "final_augmentation": None,
        "validations": 2,
    }  # fmt: skip
    return replace(default_recipe(spec, pictures, from_scratch=True), **plain | changes)


def small_job(data: Path, folder: Path, spec: ModelSpec | None = None, **changes: Any) -> Job:
    """A job over a set that `write_set` made; `changes` are of the job or of its recipe."""
    spec = spec or narrow_spec()
    folder.mkdir(parents=True, exist_ok=True)
    found = read_data(data)
    of_recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    train: Sequence[Sample] = changes.pop("train", found.splits["train"])
    recipe = changes.pop("recipe", None) or small_recipe(spec, len(train), **of_recipe)
    settings: dict[str, Any] = {"val": found.splits["val"], "workers": 1, "simulates_int8": False} | changes
    return Job(spec, recipe, train=train, data=data, folder=RunFolder(folder), **settings)


def small_training(job: Job) -> Training:
    """The training of a job from weights of its seed."""
    torch.manual_seed(job.seed)
    return Training(job, Process(CPU), TrainingNetwork(job.spec), Validator(job.val, job.spec, job.data))


class StopAfter(Interrupt):
    """A signal that comes after a step of a training."""

    def __init__(self, training: Training, step: int) -> None:
        super().__init__()
        self._training, self._step = training, step

    @property
    def happened(self) -> bool:
        return self._training.state.step >= self._step


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread of PyTorch: on tensors this small more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
