"""Pixels that aren't square: kept in recordings, undone for detection, drawing and pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import av
import numpy as np
import pytest

from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.models.letterbox import Letterbox
from streamer.sinks.images import ImagesSink
from streamer.sinks.mosaic.tiles import Mosaic, Tile, bgr_canvas
from streamer.sinks.video.sink import VideoSink
from streamer.sources import open_source
from tests.media import write_clip
from tests.recordings import ENDINGS, NOTHING

WIDE = Fraction(16, 11)


def first_frame(path: Path) -> Frame:
    with open_source(str(path)) as source:
        return next(iter(source))


@pytest.mark.parametrize("container", [".mp4", ".mkv", ".ts"])
def test_a_video_says_the_shape_of_its_pixels(container: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / f"clip{container}", 30, size_wh=(352, 288), pixel_aspect=WIDE)
    with open_source(str(clip)) as source:
        assert source.info.pixel_aspect == WIDE
    assert first_frame(clip).pixel_aspect == WIDE


def test_a_picture_that_is_turned_has_its_pixels_turned(tmp_path: Path) -> None:
    frame = first_frame(write_clip(tmp_path / "clip.mp4", 2, size_wh=(352, 288), pixel_aspect=WIDE, rotation=90))
    assert frame.size_wh == (288, 352)
    assert frame.pixel_aspect == 1 / WIDE
    assert frame.shown_wh == (288, 512)


@pytest.mark.parametrize("said", [None, Fraction(1), Fraction(1000, 1)])
def test_pixels_of_no_sensible_shape_are_square(said: Fraction | None, tmp_path: Path) -> None:
    assert first_frame(write_clip(tmp_path / "clip.mp4", 2, pixel_aspect=said)).pixel_aspect == 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_recordings_keep_the_shape(ending: str, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 4, size_wh=(352, 288), pixel_aspect=WIDE)
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with open_source(str(clip)) as source, VideoSink(tmp_path / f"out{ending}", source.info) as sink:
        for frame in source:
            sink.write(frame, NOTHING)
    with av.open(str(tmp_path / f"out{ending}")) as opened:
        stream = opened.streams.video[0]
        assert (stream.width, stream.height, Fraction(stream.sample_aspect_ratio or 1)) == (
            (512, 288, 1) if ending == ".webm" else (352, 288, WIDE)
        )


def circle(aspect: Fraction) -> Frame:
    """A white circle as it is stored: squeezed."""
    image = np.zeros((288, round(512 / aspect), 3), np.uint8)
    cv2.ellipse(image, (image.shape[1] // 2, 144), (round(100 / aspect), 100), 0, 0, 360, (255, 255, 255), -1)
    return Frame(image, "pal", 0, 0.0, 0.0, pixel_aspect=aspect)


def width_over_height(image: np.ndarray) -> float:
    rows, columns = np.nonzero(image[..., 1] > 128)
    return float((columns.max() - columns.min() + 1) / (rows.max() - rows.min() + 1))


def test_the_network_a_tile_and_a_picture_show_circles_as_circles(tmp_path: Path) -> None:
    frame = circle(WIDE)
    assert width_over_height(frame.image) == pytest.approx(1 / WIDE, abs=0.02)
    letterbox = Letterbox.fit(frame.size_wh, (416, 416), True, shown_wh=frame.shown_wh)
    network_input = np.zeros((416, 416, 3), np.uint8)
    letterbox.apply(frame, network_input)
    canvas = bgr_canvas((640, 360))
    Mosaic(canvas).paint([Tile("", frame)])
    with ImagesSink(tmp_path / "out") as sink:
        sink.write(frame, NOTHING)
    picture = cv2.imread(str(tmp_path / "out" / "pal_000000.jpg"))
    for image in (network_input, canvas.pixels, picture):
        assert width_over_height(np.asarray(image)) == pytest.approx(1, abs=0.02)


def label_wh(image: np.ndarray) -> tuple[int, int]:
    """Returns the size of the label above the box, which begins in row 100."""
    drawn = image[:100].any(axis=-1)
    return int(drawn.any(axis=0).sum()), int(drawn.any(axis=1).sum())


def test_boxes_are_drawn_where_they_are_and_text_in_its_true_shape() -> None:
    frame = Frame(np.zeros((288, 352, 3), np.uint8), "pal", 0, 0.0, 0.0, pixel_aspect=Fraction(4))
    box = Detections(np.array([[100.0, 100.0, 200.0, 220.0]]), np.array([0.9]), np.array([0]))
    wide, square = (
        Annotator(["person"]).annotate(Frame(frame.image, "pal", 0, 0.0, 0.0, pixel_aspect=aspect), box).image
        for aspect in (Fraction(4), Fraction(1))
    )
    for image in (wide, square):
        rows, columns = np.nonzero(image[100:].any(axis=-1))
        assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (100, 200, 0, 120)
    (wide_w, wide_h), (square_w, square_h) = label_wh(wide), label_wh(square)
    assert wide_w == pytest.approx(square_w / 2, abs=3)
    assert wide_h == pytest.approx(square_h * 2, abs=3)
