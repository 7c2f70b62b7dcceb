"""A colour for each class, the same everywhere."""

from __future__ import annotations

from typing import TypeAlias

Colour: TypeAlias = tuple[int, int, int]  # blue, green, red

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

# CIEDE2000 differences: any two 9 or more, neighbouring ids 30, the 16 most frequent classes of COCO 15.
_PALETTE_RGB = """
ff4d4d 778800 aa66aa 55aaff aaeebb ffaa00 995544 ff99bb 667744 00ff88 aa11bb aa7755 9999cc eedd77 00ffdd 008855
dd0088 dd7755 ddbb22 7788ff 669966 66eeff bb7777 ffcc88 7766ff 88aa00 99eedd ff7788 aa4400 007777 bbaa77 994488
ccbbff 776600 009999 bbcc44 bb6688 0055ee 886633 00ccbb eeaa88 ff66ff 99aa77 995566 007799 aa6600 ffaaee ccdd99
447700 7755bb cc5555 aaccff 77cc66 bb8811 dd33cc cc0000 0077dd 77bb99 dd9955 bb88cc eeee00 ff0066 0099cc aa8855
bb66ff 00aa33 cc0055 44bbdd ffaaaa 7777aa 888855 99ee33 cc0033 ff7700 ff66bb 446699 11cc88 aa9900 ee4400 cc88aa
"""
_PALETTE_BGR: tuple[Colour, ...] = tuple(
    (int(rgb[4:], 16), int(rgb[2:4], 16), int(rgb[:2], 16)) for rgb in _PALETTE_RGB.split()
)
_LUMA_BGR = (0.114, 0.587, 0.299)
_INK_SWITCH_LUMA = 140.0


def class_colour(class_id: int) -> Colour:
    """Returns a class's colour as (blue, green, red), each 0..255; colours repeat after 80 classes."""
    return _PALETTE_BGR[class_id % len(_PALETTE_BGR)]


def ink_on(fill: Colour) -> Colour:
    """Returns black or white, whichever reads better on `fill` (both BGR), by its BT.601 luma."""
    luma = sum(weight * part for weight, part in zip(_LUMA_BGR, fill, strict=True))
    return BLACK if luma > _INK_SWITCH_LUMA else WHITE
