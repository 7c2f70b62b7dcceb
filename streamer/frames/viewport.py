"""How large frames are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamer.frames.frame import Frame
from streamer.frames.scaling import fitted


@dataclass(frozen=True)
class Viewport:
    """A place on a screen or canvas that frames are scaled to.

    Attributes:
        size_wh: its width and height in pixels, both at least 1.
        covered_wh: what of its bottom left corner is covered by the source's name.
        emphasis: how many times larger than usual text and lines are to be: in one place of several, where the whole is
            seen from further away.
    """

    size_wh: tuple[int, int]
    covered_wh: tuple[int, int] = (0, 0)
    emphasis: float = 1.0

    def magnification(self, frame: Frame) -> float:
        """Returns how many times larger to draw on `frame` for text and lines to be seen at their usual size.

        At least 1, in steps of a quarter: a window that is being resized then needs few new labels.
        """
        factor = self.emphasis * frame.shown_wh[0] / self._picture_wh(frame)[0]
        return max(1.0, math.ceil(factor * 4 - 0.1) / 4)

    def covered(self, frame: Frame) -> tuple[int, int]:
        """Returns `covered_wh` in pixels of `frame`."""
        width, height = self._picture_wh(frame)
        return (
            math.ceil(self.covered_wh[0] * frame.size_wh[0] / width),
            math.ceil(self.covered_wh[1] * frame.size_wh[1] / height),
        )

    def _picture_wh(self, frame: Frame) -> tuple[int, int]:
        return fitted(frame.shown_wh, self.size_wh, enlarge=True)
