"""Decoded sound on a source's timeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AudioFormat:
    """What a source's sound is.

    Attributes:
        codec: FFmpeg's name of the codec.
        rate: samples a second.
        channels: 1 or 2; more are mixed to two.
    """

    codec: str
    rate: int
    channels: int


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """Some consecutive samples.

    Attributes:
        time_s: when the first is heard, as `Frame.pts_s`.
        rate: samples a second.
        samples: (channels, n) float32, -1 to 1; one or two channels. Not to be changed.
    """

    time_s: float
    rate: int
    samples: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.shape[0] not in (1, 2):
            raise ValueError(f"wanted (1 or 2, n) samples, got {self.samples.shape}")

    @property
    def end_s(self) -> float:
        """When the last sample ends."""
        return self.time_s + self.samples.shape[1] / self.rate

    def moved(self, by_s: float) -> AudioChunk:
        """Returns the same samples at a later time."""
        return replace(self, time_s=self.time_s + by_s)

    def split(self, time_s: float) -> tuple[AudioChunk | None, AudioChunk | None]:
        """Returns what is before a time and what is from it on; None where there is nothing."""
        count = self.samples.shape[1]
        at = min(count, max(0, round((time_s - self.time_s) * self.rate)))
        before = replace(self, samples=self.samples[:, :at]) if at else None
        rest = AudioChunk(self.time_s + at / self.rate, self.rate, self.samples[:, at:]) if at < count else None
        return before, rest
