"""COCO accuracy of a network in training, with the runtime's letterbox and postprocessing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.accuracy import Found
from calibration.dataset import check_unreadable
from calibration.evaluate import EVALUATION_CONF
from calibration.labels import Sample
from calibration.pictures import Picture, read_picture
from calibration.training.memory import available_memory_bytes
from calibration.training.photometry import network_inputs
from streamer.common.cpu_info import available_cores
from streamer.common.errors import SourceError
from streamer.models.postprocess import Postprocessor
from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)

_BATCH = 32
_MEMORY_SHARE = 0.25


class Validator:
    """The pictures of a split, as the network takes them; kept in memory where they fit.

    Attributes:
        samples: those that can be read, in order.
    """

    def __init__(self, samples: Sequence[Sample], spec: ModelSpec, where: Path) -> None:
        """Reads the pictures once.

        Args:
            samples: pictures and labels.
            spec: of the network.
            where: the description of the data, for messages.

        Raises:
            ConfigError: too many can't be read.
        """
        self._spec = spec
        width, height = spec.input_size_wh
        self._keeps = 3 * width * height * len(samples) < _MEMORY_SHARE * available_memory_bytes()
        self._kept: list[Picture] = []
        self._postprocess = Postprocessor(spec, EVALUATION_CONF)
        bad: list[Path] = []
        self.samples: list[Sample] = []
        for sample, picture in zip(samples, self._read(samples), strict=True):
            if picture is None:
                bad.append(sample.image)
                continue
            self.samples.append(sample)
            if self._keeps:
                self._kept.append(picture)
        check_unreadable(bad, len(samples), where)
        for image in bad:
            log.warning("%s: skipped in validation, as it can't be read", image)

    @torch.inference_mode()
    def detect(
        self, network: Callable[[Tensor], Tensor], device: torch.device, on_batch: Callable[[], None] = lambda: None
    ) -> list[Found]:
        """Returns the size and the detections of each picture, with scores down to `EVALUATION_CONF`.

        Args:
            network: from (B, 3, H, W) float32 to (B, N, classes + bins), scores before the sigmoid.
            device: where it runs.
            on_batch: called after each batch.
        """
        found: list[Found] = []
        classes = self._spec.num_classes
        for first in range(0, len(self.samples), _BATCH):
            pictures = self._pictures(slice(first, first + _BATCH))
            images = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).to(device)
            output = network(network_inputs(images, self._spec)).float()
            output[..., :classes] = output[..., :classes].sigmoid()
            for values, picture in zip(output.cpu().numpy(), pictures, strict=True):
                found.append((picture.size_wh, self._postprocess(values, picture.letterbox)))
            on_batch()
        return found

    def inputs(self, count: int) -> npt.NDArray[np.uint8]:
        """Returns the first `count` pictures as network inputs, (B, H, W, 3) uint8 BGR."""
        return np.stack([picture.pixels for picture in self._pictures(slice(0, count))])

    def _pictures(self, place: slice) -> list[Picture]:
        if self._keeps:
            return self._kept[place]
        return [picture for picture in self._read(self.samples[place]) if picture is not None]

    def _read(self, samples: Sequence[Sample]) -> list[Picture | None]:
        with ThreadPoolExecutor(available_cores()) as threads:
            return list(threads.map(self._read_one, samples, range(len(samples))))

    def _read_one(self, sample: Sample, index: int) -> Picture | None:
        try:
            return read_picture(sample, index, self._spec)
        except SourceError:
            return None
