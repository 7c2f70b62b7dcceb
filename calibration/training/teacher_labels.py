"""Labels of pictures without any, by the network that teaches: what validation then compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from calibration.agreement import SHOWN
from calibration.data import TrainingData
from calibration.labels import LabelledObject, Sample
from calibration.training.validation import Validator
from streamer.common.errors import ConfigError, counted
from streamer.models.nanodet import NanoDet
from streamer.models.spec import ModelSpec


def with_labels(
    data: TrainingData, teacher: NanoDet, spec: ModelSpec, device: torch.device
) -> tuple[TrainingData, list[str]]:
    """Labels the splits val and test, where they have no object, with what the teacher finds.

    Args:
        data: to train on.
        teacher: in evaluation mode; is moved to the device.
        spec: its description, with the classes of `data`.
        device: where it runs.

    Returns:
        The data, and what was done, each in a sentence.

    Raises:
        ConfigError: the teacher finds nothing in a split.
    """
    splits, done = dict(data.splits), []
    for name in ("val", "test"):
        samples = splits.get(name, ())
        if not samples or any(len(sample.class_ids) for sample in samples):
            continue
        splits[name] = _labelled(data, samples, teacher.to(device), spec, device)
        count = sum(len(sample.class_ids) for sample in splits[name])
        if not count:
            raise ConfigError(f"{data.path}: {name} has no labels, and the teacher finds nothing in its pictures")
        done.append(
            f"{name} has no labels: AP is measured against the {counted(count, 'object')} that the teacher finds there"
            f" with scores of {SHOWN} and more"
        )
    return replace(data, splits=splits), done


def _labelled(
    data: TrainingData, samples: Sequence[Sample], teacher: NanoDet, spec: ModelSpec, device: torch.device
) -> tuple[Sample, ...]:
    validator = Validator(samples, spec, data.path)
    labelled = []
    for sample, (size_wh, detections) in zip(validator.samples, validator.detect(teacher, device), strict=True):
        shown = detections.scores >= SHOWN
        corners = detections.boxes_xyxy[shown] / np.tile(size_wh, 2)
        objects = [
            LabelledObject(int(class_id), ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
            for class_id, (x1, y1, x2, y2) in zip(detections.class_ids[shown], corners.tolist(), strict=True)
        ]
        labelled.append(Sample.of(sample.image, objects, sample.image_id))
    return tuple(labelled)
