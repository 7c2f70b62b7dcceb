"""Where labels and panels go on a picture, so that they don't cover each other."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from streamer.frames.canvas import Box
from streamer.frames.text import even_down, even_up

Size = tuple[int, int]


class Corner(enum.Enum):
    """A corner of the picture, in the order in which they are tried."""

    TOP_LEFT = enum.auto()
    TOP_RIGHT = enum.auto()
    BOTTOM_LEFT = enum.auto()
    BOTTOM_RIGHT = enum.auto()

    def place(self, panel_wh: Size, margin_px: int, size_wh: Size) -> Box:
        """Returns the panel's rectangle, `margin_px` from the edges of a picture of `size_wh`; edges are even."""
        (width, height), (panel_w, panel_h) = size_wh, panel_wh
        is_right = self in (Corner.TOP_RIGHT, Corner.BOTTOM_RIGHT)
        is_bottom = self in (Corner.BOTTOM_LEFT, Corner.BOTTOM_RIGHT)
        left = max(0, even_down(width - margin_px - panel_w)) if is_right else margin_px
        top = max(0, even_down(height - margin_px - panel_h)) if is_bottom else margin_px
        return Box(left, top, left + panel_w, top + panel_h)


def is_hiding(panel_wh: Size, size_wh: Size) -> bool:
    """Whether a panel would hide too much of a picture: more than three quarters of its width or 15 % of its area."""
    (panel_w, panel_h), (width, height) = panel_wh, size_wh
    return panel_w > 0.75 * width or panel_w * panel_h > 0.15 * width * height


def free_corner(
    corners: Sequence[Corner], panel_wh: Size, margin_px: int, size_wh: Size, boxes_xyxy: npt.NDArray[np.float32]
) -> Corner:
    """Returns the first corner where a panel covers no box; the one where it covers least if it does in each.

    The first corner is where the panel is now: it is only left where it covers more than twice as much as elsewhere.
    """
    places = np.array([corner.place(panel_wh, margin_px, size_wh) for corner in corners], np.float32)[:, None]
    sides = np.minimum(boxes_xyxy[:, 2:], places[..., 2:]) - np.maximum(boxes_xyxy[:, :2], places[..., :2])
    covered: list[float] = sides.clip(0).prod(axis=2).sum(axis=1).tolist()
    return corners[0] if covered[0] <= 2 * min(covered) else corners[covered.index(min(covered))]


def label_place(
    box_xyxy: Sequence[int], label_wh: Size, size_wh: Size, labels: Sequence[Box], panels: Sequence[Box] = ()
) -> tuple[Box, bool]:
    """Returns where a label covers no other and no panel, else where it covers least of these; and whether none.

    It may lie above its box, inside it at the top, below it, or inside it at the bottom, in this order, then a line
    further inside, each at its left or right end. It is inside the picture where that is large enough, and its left and
    top edges are even.
    """
    left, top, right, bottom = box_xyxy
    (label_w, label_h), (width, height) = label_wh, size_wh
    ends = [max(0, even_down(min(x, width - label_w))) for x in (left, right - label_w)]
    below, lowest = even_up(bottom), even_down(bottom) - label_h
    heights = [top - label_h, top, below, lowest]
    if bottom - top >= 4 * label_h:
        heights += [top + label_h, lowest - label_h]
    low, high = min(ends), max(ends) + label_w
    near = [other for taken in (panels, labels) for other in taken if other.left < high and other.right > low]
    places = [(x, y) for y in heights if 0 <= y <= height - label_h for x in ends] or [(x, 0) for x in ends]
    for x, y in places:
        for other in near:
            if x < other.right and other.left < x + label_w and y < other.bottom and other.top < y + label_h:
                break
        else:
            return Box(x, y, x + label_w, y + label_h), True
    boxes = [Box(x, y, x + label_w, y + label_h) for x, y in places]
    return min(boxes, key=lambda place: (_covered_px(place, panels), _covered_px(place, near))), False


def _covered_px(place: Box, others: Sequence[Box]) -> int:
    """Returns the areas that a rectangle shares with others, added up."""
    area = 0
    for other in others:
        width = min(place.right, other.right) - max(place.left, other.left)
        height = min(place.bottom, other.bottom) - max(place.top, other.top)
        area += width * height if width > 0 and height > 0 else 0
    return area
