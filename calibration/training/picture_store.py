"""Decodes the pictures of a training set, once each while they fit in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from calibration.labels import Sample
from calibration.training.geometry import Image
from streamer.common.errors import SourceError
from streamer.sources.image_decoding import decode_image
from streamer.sources.image_size import image_size

_RECENT_SHARE = 0.125


class PictureStore:
    """Decoded pictures by their index; any thread may ask.

    Pictures are kept in the order in which they were first asked for, until seven eighths of the budget are used up.
    None of those is evicted: under a random order that would only change which ones are kept. The rest of the budget
    holds the others that were decoded last, for mosaics.

    Attributes:
        budget_bytes: most bytes of kept pixels.
        longest_side: width or height that a larger picture is shrunk to, in pixels; None keeps all as they are.
    """

    def __init__(self, samples: Sequence[Sample], *, budget_bytes: int, longest_side: int | None = None) -> None:
        """Notes the files; decodes nothing yet.

        Args:
            samples: whose pictures these are.
            budget_bytes: most bytes of kept pixels.
            longest_side: width or height that a larger picture is shrunk to, in pixels.
        """
        self.budget_bytes = budget_bytes
        self.longest_side = longest_side
        self._files = [sample.image for sample in samples]
        self._kept: dict[int, Image] = {}
        self._kept_bytes = 0
        self._recent: OrderedDict[int, Image] = OrderedDict()
        self._recent_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._files)

    @property
    def kept_bytes(self) -> int:
        """Returns the bytes of pixels in memory."""
        return self._kept_bytes + self._recent_bytes

    @property
    def kept_count(self) -> int:
        """Returns how many pictures are in memory for good."""
        return len(self._kept)

    def read(self, index: int) -> Image:
        """Returns a picture's pixels, (H, W, 3) uint8 BGR, upright by its EXIF; read-only.

        Raises:
            SourceError: it can't be read; the text is the reason, without the file's name.
        """
        with self._lock:
            held = self._kept.get(index)
            if held is None:
                held = self._recent.get(index)
        if held is not None:
            return held
        pixels = self._decode(index)
        pixels.flags.writeable = False
        with self._lock:
            self._hold(index, pixels)
        return pixels

    def _hold(self, index: int, pixels: Image) -> None:
        if index in self._kept or index in self._recent:  # another thread decoded it meanwhile
            return
        recent_budget = int(self.budget_bytes * _RECENT_SHARE)
        if self._kept_bytes + pixels.nbytes <= self.budget_bytes - recent_budget:
            self._kept[index] = pixels
            self._kept_bytes += pixels.nbytes
            return
        self._recent[index] = pixels
        self._recent_bytes += pixels.nbytes
        while self._recent_bytes > recent_budget:
            self._recent_bytes -= self._recent.popitem(last=False)[1].nbytes

    def _decode(self, index: int) -> Image:
        try:
            content = self._files[index].read_bytes()
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from error
        size_wh = image_size(content)
        pixels = decode_image(content, reduced_by=self._reduction(size_wh or (0, 0)))
        if self.longest_side is None or max(pixels.shape[:2]) <= self.longest_side:
            return pixels
        scale = self.longest_side / max(pixels.shape[:2])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    def _reduction(self, size_wh: tuple[int, int]) -> Literal[1, 2, 4, 8]:
        """Returns the largest reduction that leaves `longest_side` pixels at least, and one of the shorter side."""
        if self.longest_side is None:
            return 1
        shorter, longer = sorted(size_wh)
        reductions: tuple[Literal[8, 4, 2], ...] = (8, 4, 2)
        return next((each for each in reductions if longer // each >= self.longest_side and shorter >= each), 1)
