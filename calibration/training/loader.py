"""Batches of training pictures, made ahead of the training loop by threads.

OpenCV releases the interpreter's lock while it decodes and warps, so threads suffice: nothing is copied between
processes, and there is one copy of the decoded pictures.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.dataset import check_unreadable
from calibration.labels import Sample
from calibration.training.augmentation import Augmentation
from calibration.training.composition import ColourDraw, Picture, compose
from calibration.training.geometry import Canvas, Image, Objects
from calibration.training.memory import available_memory_bytes
from calibration.training.photometry import ColourChange
from calibration.training.picture_store import PictureStore
from calibration.training.sampling import EpochSampler
from calibration.training.truth import Truth
from streamer.common.closeable import Closeable
from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, SourceError, one_line
from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)

_CLOSE_S = 1.0
_COMPOSITION = 1  # sets its random numbers apart from those of the order
_PARTNERS = 64
"""A mosaic's other pictures are among this many before its first one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The pictures of one step, or this rank's share of them; the receiver owns them.

    Attributes:
        step: from 0.
        images: (B, H, W, 3) uint8 BGR, in pinned memory where there is a GPU.
        truth: their objects.
        colour: how `calibration.training.photometry.network_inputs` changes their colours, or None.
        indices: (B,) int64, of the samples; of a mosaic or a blend the first picture's.
    """

    step: int
    images: Tensor
    truth: Truth
    colour: ColourChange | None
    indices: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Returns the same on a device; from pinned memory the copy doesn't block."""
        colour = None if self.colour is None else self.colour.to(device)
        images = self.images.to(device, non_blocking=True)
        return Batch(self.step, images, self.truth.to(device), colour, self.indices)


class _PendingBatch:
    """A batch that threads are filling.

    Attributes:
        step: its number.
        settings: of its augmentation.
        started: how many of its pictures a thread has taken.
        left: how many aren't made.
        batch: what comes of it, once none is left.
    """

    def __init__(self, step: int, settings: Augmentation, canvas: Canvas, size: int, is_pinned: bool) -> None:
        width, height = canvas.size_wh
        self.step = step
        self.settings = settings
        self.canvas = canvas
        self.images = torch.empty((size, height, width, 3), dtype=torch.uint8, pin_memory=is_pinned)
        self.pixels: npt.NDArray[np.uint8] = self.images.numpy()
        self.objects: list[Objects | None] = [None] * size
        self.colours = [ColourDraw()] * size
        self.indices = [0] * size
        self.started = 0
        self.left = size
        self.batch: Batch | None = None
        self._is_pinned = is_pinned

    def finish(self) -> None:
        """Makes the batch, once all pictures are there."""
        objects = [each for each in self.objects if each is not None]
        truth = Truth.pad(
            [torch.from_numpy(each.boxes) for each in objects],
            [torch.from_numpy(each.labels) for each in objects],
            [torch.from_numpy(each.is_ignored) for each in objects],
        )
        colour = ColourChange.of(self.colours)
        if self._is_pinned:
            truth = truth.pin_memory()
            colour = colour and colour.pin_memory()
        self.batch = Batch(self.step, self.images, truth, colour, torch.tensor(self.indices))


class Loader(Closeable):
    """An endless iterator over batches; batch k depends on the seed and k alone, not on threads or earlier batches.

    Sampling is without replacement by epochs. An unreadable picture is named once and replaced by the next one of the
    epoch. Closing, or leaving the ``with`` block, stops the threads.

    Attributes:
        sampler: which pictures a step has, and where epochs begin.
        store: of the pictures.
        waited_s: seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: ModelSpec,
        augmentation: Augmentation,
        batch: int,
        seed: int = 0,
        *,
        workers: int | None = None,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        store: PictureStore | None = None,
        ahead: int = 3,
    ) -> None:
        """Starts the threads.

        Args:
            samples: pictures and labels.
            spec: of the model whose input they become.
            augmentation: from `start_step` on, until `set_augmentation` says otherwise.
            batch: pictures a step, over all ranks.
            seed: of the order and the augmentation.
            workers: threads; None is one a core, shared by the ranks.
            start_step: the first batch's number.
            rank: of this process, which gets every `world`-th picture of a batch.
            world: number of processes that train together.
            store: of the pictures; None makes one that may take half of the available memory, shared by the ranks, and
                shrinks pictures that are much larger than training shows them.
            ahead: batches that are made ahead.

        Raises:
            ConfigError: no pictures, a batch that the ranks can't share, or a negative seed.
        """
        if not samples:
            raise ConfigError("there are no pictures to train on: check the training split of the data")
        if batch < world or batch % world:
            raise ConfigError(f"a batch of {batch} can't be shared by {world} GPUs: use a multiple of {world}")
        if seed < 0:
            raise ConfigError(f"a seed is 0 or more, got {seed}")
        self.sampler = EpochSampler(len(samples), batch, seed)
        self.waited_s = 0.0
        self._samples = samples
        self._objects = [Objects.of(sample) for sample in samples]
        self._spec = spec
        self._seed = seed
        self._rank, self._world = rank, world
        self.store = store or PictureStore(
            samples,
            budget_bytes=available_memory_bytes() // (2 * world),
            longest_side=_longest_side(spec, augmentation),
        )
        self._ahead = max(1, ahead)
        self._schedule = [(start_step, augmentation)]
        self._is_pinned = torch.cuda.is_available()
        self._changed = threading.Condition()
        self._pending: dict[int, _PendingBatch] = {}
        self._next_step = start_step
        self._bad: set[int] = set()
        self._error: BaseException | None = None
        self._is_closed = False
        count = max(1, available_cores() // world) if workers is None else max(1, workers)
        self._threads = [
            threading.Thread(target=self._work, name=f"loader-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def unreadable(self) -> list[Path]:
        """Returns the files that were skipped so far."""
        with self._changed:
            return [self._samples[index].image for index in sorted(self._bad)]

    def set_augmentation(self, augmentation: Augmentation, from_step: int) -> None:
        """Changes the settings for the batches from `from_step` on that haven't been given out, made ahead or not."""
        with self._changed:
            self._schedule = [entry for entry in self._schedule if entry[0] < from_step] + [(from_step, augmentation)]
            for step in [step for step in self._pending if step >= from_step]:
                del self._pending[step]
            self._changed.notify_all()

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            ConfigError: too many pictures are unreadable.
            ValueError: the loader is closed.
        """
        began = time.perf_counter()
        with self._changed:
            while not self._is_ready():
                self._changed.wait()
            self.waited_s += time.perf_counter() - began
            if self._error is not None:
                raise self._error
            if self._is_closed:
                raise ValueError("the loader is closed")
            made = self._pending.pop(self._next_step).batch
            assert made is not None
            self._next_step += 1
            self._changed.notify_all()
        return made

    def close(self) -> None:
        """Stops the threads; waits up to a second for the pictures that they are at."""
        with self._changed:
            self._is_closed = True
            self._pending.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _is_ready(self) -> bool:
        made = self._pending.get(self._next_step)
        return self._error is not None or self._is_closed or (made is not None and made.batch is not None)

    def _work(self) -> None:
        try:
            while (taken := self._take()) is not None:
                pending, slot = taken
                self._make(pending, slot)
                with self._changed:
                    pending.left -= 1
                    is_last = pending.left == 0
                if is_last:
                    pending.finish()
                    with self._changed:
                        self._changed.notify_all()
        except BaseException as error:  # reaches the consumer in __next__
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> tuple[_PendingBatch, int] | None:
        """Returns the next picture to make, of the earliest batch that has one; None once there is nothing to do."""
        with self._changed:
            while not self._is_closed and self._error is None:
                for step in range(self._next_step, self._next_step + self._ahead):
                    pending = self._pending.get(step)
                    if pending is None:
                        pending = self._pending[step] = self._begin(step)
                    if pending.started < len(pending.objects):
                        pending.started += 1
                        return pending, pending.started - 1
                self._changed.wait()
        return None

    def _begin(self, step: int) -> _PendingBatch:
        settings = next((each for start, each in reversed(self._schedule) if start <= step), self._schedule[0][1])
        canvas = Canvas.for_model(self._spec, settings)
        return _PendingBatch(step, settings, canvas, self.sampler.batch // self._world, self._is_pinned)

    def _make(self, pending: _PendingBatch, slot: int) -> None:
        position = pending.step * self.sampler.batch + slot * self._world + self._rank
        index, picture = self._picture_at(position)
        pending.indices[slot] = index
        pending.objects[slot], pending.colours[slot] = compose(
            picture,
            lambda where: self._partner(position, where),
            (self._seed, _COMPOSITION, position),
            pending.canvas,
            pending.settings,
            pending.pixels[slot],
        )

    def _partner(self, position: int, where: float) -> Picture:
        """Returns one of the pictures before a position, which the store is likely to hold."""
        back = 1 + int(where * _PARTNERS)
        return self._picture_at(abs(position - back * self._world))[1]

    def _picture_at(self, position: int) -> tuple[int, Picture]:
        """Returns the picture at a position of the endless sequence, or the next one of its epoch that can be read."""
        for replacement in range(len(self._samples)):
            index = self.sampler.index_at(position, replacement)
            pixels = self._read(index)
            if pixels is not None:
                return index, (pixels, self._objects[index])
        raise ConfigError(f"{self._samples[0].image.parent}: none of the pictures can be read")

    def _read(self, index: int) -> Image | None:
        """Returns a picture, or None if it can't be read, which is counted and said once."""
        if index in self._bad:
            return None
        try:
            return self.store.read(index)
        except SourceError as error:
            reason = one_line(str(error))
        image = self._samples[index].image
        with self._changed:
            if index not in self._bad:
                self._bad.add(index)
                log.warning("%s: skipped, as it can't be read: %s", image, reason)
            bad = [self._samples[each].image for each in sorted(self._bad)]
        check_unreadable(bad, len(self._samples), image.parent)
        return None


def _longest_side(spec: ModelSpec, augmentation: Augmentation) -> int | None:
    """Returns the size that pictures are shrunk to: twice what the largest zoom shows; None without augmentation.

    Below that, the one bilinear step to the input shrinks a picture as coarsely as the runtime's letterbox does.
    """
    if augmentation == Augmentation.none():
        return None
    return round(2 * max(spec.input_size_wh) * augmentation.largest_zoom)
