"""Draws training batches and validation pictures in a grid, with the program's own boxes and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from calibration.accuracy import Found
from calibration.dataset import read_frame
from calibration.files import write_whole
from calibration.labels import EVERY_CLASS, Sample
from calibration.run_folder.matching import RIGHT, WRONG, outcomes
from streamer.common.errors import SourceError, counted
from streamer.frames.canvas import U8
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.text import line_mask

TILE_PX = 512
"""Width and height of a picture's place in the grid."""
MOST_TRAINING = 16
MOST_VALIDATION = 8
_GAP_PX = 8
_TEXT_PX = 16
_CAPTION_PX = 28
_BACKGROUND = 245
_INK = 30
_JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a grid.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, of any size.
        boxes_xyxy: (N, 4), in its pixels.
        class_ids: (N,) indices into the names, or `EVERY_CLASS`.
        scores: (N,), 0 to 1; None for labels.
        is_ignored: (N,) bool, regions drawn as corners; None for none.
        caption: one line above it.
    """

    pixels: U8
    boxes_xyxy: npt.NDArray[np.floating]
    class_ids: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating] | None = None
    is_ignored: npt.NDArray[np.bool_] | None = None
    caption: str = ""


def draw_batch(
    images: U8,
    boxes_xyxy: Sequence[npt.NDArray[np.floating]],
    class_ids: Sequence[npt.NDArray[np.integer]],
    names: Sequence[str],
    path: Path,
    is_ignored: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> None:
    """Draws the first 16 pictures of a training batch as JPEG.

    Args:
        images: (B, H, W, 3) uint8 BGR, as augmented.
        boxes_xyxy: for each picture (N, 4), in its pixels.
        class_ids: for each picture (N,).
        names: the classes by class id.
        path: the JPEG file.
        is_ignored: for each picture (N,), which boxes are regions that are ignored; drawn as corners. None for none.

    Raises:
        ConfigError: the file can't be written.
    """
    tiles = [
        Tile(
            images[i],
            boxes_xyxy[i],
            class_ids[i],
            is_ignored=None if is_ignored is None else is_ignored[i],
            caption=counted(len(class_ids[i]), "label"),
        )
        for i in range(min(len(images), MOST_TRAINING))
    ]
    columns = math.ceil(math.sqrt(len(tiles)))
    _write(grid(tiles, names, columns), path)


def draw_validation(
    samples: Sequence[Sample],
    found: Sequence[Found],
    names: Sequence[str],
    path: Path,
    *,
    threshold: float,
    most: int = MOST_VALIDATION,
) -> None:
    """Draws validation pictures as JPEG: labels on the left, detections on the right, two pictures a row.

    The pictures are spread evenly over those with objects or detections; unreadable ones are left out.

    Args:
        samples: the pictures and their labels.
        found: their sizes and detections, in the same order.
        names: the classes by class id.
        path: the JPEG file.
        threshold: detections with a greater score are drawn.
        most: number of pictures.

    Raises:
        ConfigError: the file can't be written.
    """
    pairs = [
        (sample, size_wh, detections.where(detections.scores > np.float32(threshold)))
        for sample, (size_wh, detections) in zip(samples, found, strict=True)
    ]
    worth = [pair for pair in pairs if len(pair[0].class_ids) or len(pair[2])] or pairs
    places = np.linspace(0, len(worth) - 1, min(most, len(worth))).round().astype(int).tolist()
    tiles = []
    for place in places:
        sample, size_wh, shown = worth[place]
        try:
            pixels = read_frame(sample.image, place).image
        except SourceError:
            continue
        outcome = outcomes(sample, size_wh, shown)
        regular = int(sample.is_object.sum())
        right, wrong = int((outcome == RIGHT).sum()), int((outcome == WRONG).sum())
        labels = sample.boxes_xyxy((pixels.shape[1], pixels.shape[0]))
        caption = f"{counted(len(sample.class_ids), 'label')}, {sample.image.name}"
        result = f"found: {right} right, {regular - right} missed, {wrong} wrong"
        tiles.append(Tile(pixels, labels, sample.class_ids, None, sample.is_crowd, caption))
        tiles.append(Tile(pixels, shown.boxes_xyxy, shown.class_ids, shown.scores, caption=result))
    _write(grid(tiles, names, 2 if len(tiles) <= 2 else 4), path)


def grid(tiles: Sequence[Tile], names: Sequence[str], columns: int) -> U8:
    """Returns tiles in rows as one picture, (H, W, 3) uint8 BGR; each is scaled to its place, text is not.

    Args:
        tiles: the pictures.
        names: the classes by class id.
        columns: number of tiles in a row.
    """
    drawer = _TileDrawer(names)
    pictures = [drawer.draw(tile) for tile in tiles]
    columns = max(1, columns)
    rows = [range(first, min(first + columns, len(tiles))) for first in range(0, len(tiles), columns)]
    heights = [max(pictures[number].shape[0] for number in row) for row in rows]
    height = _GAP_PX + sum(_CAPTION_PX + each + _GAP_PX for each in heights)
    page = np.full((height, columns * (TILE_PX + _GAP_PX) + _GAP_PX, 3), _BACKGROUND, np.uint8)
    top = _GAP_PX
    for row, row_height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = _GAP_PX + column * (TILE_PX + _GAP_PX)
            _write_line(page, tiles[number].caption, left, top)
            picture = pictures[number]
            y = top + _CAPTION_PX
            page[y : y + picture.shape[0], left : left + picture.shape[1]] = picture
        top += _CAPTION_PX + row_height + _GAP_PX
    return page


class _TileDrawer:
    """Scales pictures to their place in the grid and draws their boxes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._for_labels = Annotator([*names, "ignore"], show_scores=False, apart=True)
        self._every_class = len(names)
        self._for_detections = Annotator(names, apart=True)

    def draw(self, tile: Tile) -> U8:
        height, width = tile.pixels.shape[:2]
        scale = TILE_PX / max(height, width)
        size_wh = max(1, round(width * scale)), max(1, round(height * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(tile.pixels, size_wh, interpolation=how), np.uint8)
        boxes = np.asarray(tile.boxes_xyxy, np.float32).reshape(-1, 4) * np.float32(scale)
        class_ids = np.asarray(tile.class_ids, np.int64)
        frame = Frame(pixels, "grid", 0, 0.0, 0.0)
        if tile.scores is not None:
            best_first = np.argsort(-tile.scores, kind="stable")
            found = Detections(boxes[best_first], tile.scores[best_first], class_ids[best_first])
            return self._for_detections.annotate(frame, found).image
        ignored = np.zeros(len(boxes), bool) if tile.is_ignored is None else np.asarray(tile.is_ignored, bool)
        small_first = np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
        for chosen, is_ignored in ((ignored, True), (~ignored, False)):
            places = small_first[chosen[small_first]]
            named = np.where(class_ids[places] == EVERY_CLASS, self._every_class, class_ids[places])
            labels = Detections(boxes[places], np.ones(len(places), np.float32), named, is_ignored)
            frame = self._for_labels.annotate(frame, labels)
        return frame.image


def _write_line(page: U8, text: str, left: int, top: int) -> None:
    """Writes one line above a tile."""
    mask = line_mask(text, _TEXT_PX, TILE_PX)
    height, width = min(mask.shape[0], _CAPTION_PX), min(mask.shape[1], TILE_PX)
    share = mask[:height, :width, None].astype(np.float32) / 255
    y = top + (_CAPTION_PX - height) // 2
    place = page[y : y + height, left : left + width]
    place[:] = (place * (1 - share) + _INK * share).round().astype(np.uint8)


def _write(page: U8, path: Path) -> None:
    _, content = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    write_whole(path, content.tobytes())
