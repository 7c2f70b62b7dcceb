"""The code that a simulated camera puts into each picture: its number and the time it was made.

Tests and benchmarks read it from the decoded picture, and so count lost pictures and measure the age of shown ones.
"""

from __future__ import annotations

import binascii
import functools
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.base import Sink

# Cells of black (0) and white (1), row by row, over the bottom _ROWS / _HEIGHTS of the picture.
_COLUMNS, _ROWS, _HEIGHTS = 20, 4, 24
_NUMBER_BITS, _MS_BITS, _CHECK_BITS = 24, 40, 16
_BLACK, _WHITE, _GREY = 16, 235, 128
_SAMPLES = 5  # each way in a cell's middle half
_DARK, _LIGHT = 110, 146  # a cell between them is no bit


@dataclass(frozen=True)
class Code:
    """What a picture's code says.

    Attributes:
        number: counts the pictures since the camera was started, from 0; key frames are the multiples of its
            `key_interval`.
        sent_s: when it was given to the encoder, in seconds of `time.monotonic` (on Linux also `time.perf_counter`).
    """

    number: int
    sent_s: float


def code_bits(number: int, sent_ms: int) -> list[int]:
    """Returns a code's _ROWS * _COLUMNS bits: the number, the time in milliseconds, a checksum of both."""
    word = number % (1 << _NUMBER_BITS) << _MS_BITS | sent_ms % (1 << _MS_BITS)
    word = word << _CHECK_BITS | _checksum(word)
    return [word >> bit & 1 for bit in range(_ROWS * _COLUMNS - 1, -1, -1)]


def number_and_ms(bits: list[int]) -> tuple[int, int] | None:
    """Returns what `code_bits` was given, or None when the checksum is wrong."""
    coded = int("".join(map(str, bits)), 2)
    word, check = coded >> _CHECK_BITS, coded % (1 << _CHECK_BITS)
    return (word >> _MS_BITS, word % (1 << _MS_BITS)) if check == _checksum(word) else None


def _checksum(word: int) -> int:
    return binascii.crc_hqx(word.to_bytes((_NUMBER_BITS + _MS_BITS) // 8, "big"), 0xFFFF)


def coded_picture(number: int, sent_ms: int, size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Returns (3 * H / 2, W) uint8, I420: stripes that move down by two rows a picture, and the code below them."""
    width, height = size_wh
    planes = np.empty((height * 3 // 2, width), np.uint8)
    luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    luma[:] = np.roll(_stripes(size_wh, 3, 70), 2 * number, axis=0)
    for plane, waves in zip(chroma, (1, 2), strict=True):
        plane[:] = np.roll(_stripes((width // 2, height // 2), waves, 50), number, axis=0)
    top = round(height * (1 - _ROWS / _HEIGHTS))
    cells = np.where(np.reshape(code_bits(number, sent_ms), (_ROWS, _COLUMNS)), _WHITE, _BLACK)
    rows = (np.arange(top, height) * _HEIGHTS // height - (_HEIGHTS - _ROWS)).clip(0)
    luma[top:] = cells[rows[:, None], np.arange(width) * _COLUMNS // width]
    chroma[:, top // 2 :] = _GREY
    return planes


@functools.lru_cache(maxsize=8)
def _stripes(size_wh: tuple[int, int], waves: int, swing: int) -> npt.NDArray[np.uint8]:
    """Returns an (H, W) plane of winding stripes around grey."""
    width, height = size_wh
    x = np.arange(width) + width * (0.25 + 0.2 * np.sin(2 * np.pi * np.arange(height)[:, None] / height))
    turn = 2 * np.pi * waves / width
    return np.round(_GREY + swing * np.sin(turn * x) * np.cos(3 * turn * x)).astype(np.uint8)


def read_code(image: npt.NDArray[np.uint8]) -> Code | None:
    """Returns the code along the bottom of a camera's picture, or None where there is none that can be read.

    Args:
        image: (H, W, 3) BGR or (H, W) luma, uint8, of any scale that leaves the code's cells about 3 pixels.
    """
    rows, columns = _sampled(image.shape[0], image.shape[1])
    samples = image[rows[:, None], columns].reshape(_ROWS, _SAMPLES, _COLUMNS, -1)
    cells = samples.mean(axis=(1, 3))
    if np.any((cells > _DARK) & (cells < _LIGHT)):
        return None
    read = number_and_ms((cells >= _LIGHT).astype(int).ravel().tolist())
    return None if read is None else Code(read[0], read[1] / 1000)


@functools.lru_cache(maxsize=16)
def _sampled(height: int, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Returns the rows and columns at which cells are read."""
    inside = 0.25 + 0.5 * (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    rows = _HEIGHTS - _ROWS + np.add.outer(np.arange(_ROWS), inside).ravel()
    columns = np.add.outer(np.arange(_COLUMNS), inside).ravel()
    return (rows * height / _HEIGHTS).astype(np.intp), (columns * width / _COLUMNS).astype(np.intp)


def code_of(frame: Frame) -> Code | None:
    """Returns the code along the bottom of a frame, or None where it can't be read."""
    return read_code(frame.pixels.y if isinstance(frame.pixels, Yuv420) else frame.image)


class CodeSink(Sink):
    """Notes number and age of every picture, as it is shown: boxes and overlay drawn.

    Attributes:
        shown: of each picture that could be read, when it was shown (`time.monotonic`), its number and its age, both
            times in seconds.
        unreadable: how many couldn't be read.
    """

    def __init__(self, *, needs_pixels: bool = True) -> None:
        self.needs_pixels = needs_pixels
        self.shown: list[tuple[float, int, float]] = []
        self.unreadable = 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Reads the frame's code."""
        now_s = time.monotonic()
        code = code_of(frame)
        if code is None:
            self.unreadable += 1
        else:
            self.shown.append((now_s, code.number, now_s - code.sent_s))

    def close(self) -> None:
        """Holds nothing."""

    @property
    def ages_s(self) -> list[float]:
        """The ages alone."""
        return [age_s for _, _, age_s in self.shown]
