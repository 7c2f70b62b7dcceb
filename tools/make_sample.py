"""Makes the packaged sample clip: a slow camera move past four photographs hung on a wall.

``python -m tools.make_sample OUT.mp4``: 10 s of 1280x720 at 30 frames a second, no sound, below 1.5 MB.

The photographs are files that the scikit-image package ships, each free of copyright: a portrait of the astronaut
Eileen Collins (NASA, public domain), a cat (Stefan van der Walt, CC0), a cameraman (Lav Varshney, CC0) and a cup of
coffee (Rachel Michetti, CC0). They are read from the installed package, never downloaded, and their checksums are
those of the files whose licences were checked: older releases ship another, copyrighted, ``camera.png``.

The same versions of OpenCV, NumPy and PyAV on the same machine give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ConfigError, SinkError, StreamerError
from streamer.frames.yuv_matrix import Matrix, bgr_from_yuv

Image = npt.NDArray[np.uint8]

SIZE_WH = (1280, 720)
PICTURE_SIZE_WH = (416, 234)
FPS = 30
FRAMES = 300

_WALL_HEIGHT = 860
_MARGIN = 70  # wall left and right of the first and last frame
_GAP = 74  # wall between two frames
_BORDER = 8  # black frame
_MAT = 20  # white card between frame and photograph
_WALL_BGR = (196.0, 205.0, 211.0)
_KEYFRAME_INTERVAL = 45  # 1.5 s: a player or a test can seek
_CRF = 23
_COLOR_BT709 = 1  # the code of H.273 for primaries, transfer and matrix alike
_COLOR_LIMITED = 1  # AVCOL_RANGE_MPEG


@dataclass(frozen=True)
class _Print:
    """A photograph on the wall: `crop_xyxy` of the file, in its pixels, shown `height` pixels high."""

    file: str
    sha256: str
    crop_xyxy: tuple[int, int, int, int]
    height: int


_PRINTS = (
    _Print("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", (0, 0, 450, 512), 560),
    _Print("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", (0, 0, 600, 400), 550),
    _Print("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", (0, 0, 400, 300), 570),
    _Print("camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", (0, 32, 480, 512), 560),
)


def _read_print(entry: _Print, folder: Path) -> Image:
    """Returns the photograph cropped and scaled, (height, W, 3) uint8 BGR.

    Raises:
        ConfigError: the file is missing or is not the one whose licence was checked.
    """
    path = folder / entry.file
    if not path.is_file():
        raise ConfigError(
            f"this scikit-image ships no data/{entry.file}: pip install 'scikit-image>=0.22' from a wheel"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ConfigError(
            f"data/{entry.file} of this scikit-image is not the public-domain picture wanted here:"
            " pip install 'scikit-image>=0.22'"
        )
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # the checksum says so
    left, top, right, bottom = entry.crop_xyxy
    image = image[top:bottom, left:right]
    width = round((right - left) * entry.height / (bottom - top))
    return np.asarray(cv2.resize(image, (width, entry.height), interpolation=cv2.INTER_LANCZOS4), np.uint8)


def load_prints() -> list[Image]:
    """Returns the photographs in the order they hang, each (H, W, 3) uint8 BGR.

    Raises:
        ConfigError: scikit-image is not installed, or does not ship these pictures.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ConfigError("the sample clip is made from pictures of scikit-image: pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    return [_read_print(entry, folder) for entry in _PRINTS]


def _framed(photo: Image) -> Image:
    """Returns the photograph with a white mat and a thin black frame around it."""
    edge = cv2.copyMakeBorder(photo, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(176, 180, 182))
    matted = cv2.copyMakeBorder(edge, _MAT, _MAT, _MAT, _MAT, cv2.BORDER_CONSTANT, value=(240, 244, 246))
    framed = cv2.copyMakeBorder(matted, _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_CONSTANT, value=(34, 36, 40))
    return np.asarray(framed, np.uint8)


def hang(photos: list[Image]) -> Image:
    """Returns the photographs framed, in a row on a lit wall, (H, W, 3) uint8 BGR."""
    framed = [_framed(photo) for photo in photos]
    width = 2 * _MARGIN + sum(item.shape[1] for item in framed) + _GAP * (len(framed) - 1)
    light = np.full((_WALL_HEIGHT, width), 0.84, np.float32)
    shadow = np.zeros((_WALL_HEIGHT, width), np.float32)
    y_grid, x_grid = np.mgrid[0:_WALL_HEIGHT, 0:width].astype(np.float32)
    corners_xy: list[tuple[int, int]] = []
    left = _MARGIN
    for item in framed:
        height, item_width = item.shape[:2]
        top = (_WALL_HEIGHT - height) // 2
        corners_xy.append((left, top))
        # A lamp above each frame: a soft pool of light. The frame's shadow falls down and a little to the right.
        across, down = x_grid - (left + item_width / 2), y_grid - 0.36 * _WALL_HEIGHT
        light += 0.20 * np.exp(-((across / 330) ** 2) - (down / 400) ** 2)
        shadow[top + 16 : top + height + 20, left + 2 : left + item_width + 6] = 1.0
        left += item_width + _GAP
    tone = light * (1.0 - 0.42 * cv2.GaussianBlur(shadow, (0, 0), 11))
    # A little fixed grain keeps the smooth wall from showing bands after compression.
    grain = np.random.default_rng(7).normal(0.0, 1.1, tone.shape)
    lit = np.clip(np.rint(tone[..., None] * np.array(_WALL_BGR) + grain[..., None]), 0, 255)
    wall: Image = lit.astype(np.uint8)
    for item, (x, y) in zip(framed, corners_xy, strict=True):
        wall[y : y + item.shape[0], x : x + item.shape[1]] = item
    return wall


def _ease(progress: float) -> float:
    """Returns `progress` (0..1) with a soft start and stop, nearly even between."""
    ramp = 0.18
    speed = 1.0 / (1.0 - ramp)
    if progress < ramp:
        return speed * progress * progress / (2 * ramp)
    if progress > 1.0 - ramp:
        return 1.0 - speed * (1.0 - progress) ** 2 / (2 * ramp)
    return speed * (progress - ramp / 2)


def frames() -> Iterator[Image]:
    """Yields the clip's frames, each (720, 1280, 3) uint8 BGR.

    Raises:
        ConfigError: scikit-image is not installed, or does not ship these pictures.
    """
    wall = hang(load_prints())
    width, height = SIZE_WH
    for index in range(FRAMES):
        progress = index / (FRAMES - 1)
        zoom = 0.97 + 0.05 * math.sin(math.pi * progress) ** 2
        half_width = width / zoom / 2
        centre_x = half_width + _ease(progress) * (wall.shape[1] - 2 * half_width)
        centre_y = wall.shape[0] / 2 + 10 * math.sin(2 * math.pi * progress)
        matrix = np.array([[zoom, 0.0, width / 2 - zoom * centre_x], [0.0, zoom, height / 2 - zoom * centre_y]])
        frame = cv2.warpAffine(wall, matrix, SIZE_WH, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        yield np.asarray(frame, np.uint8)


def yuv420(image: Image) -> Image:
    """Converts (H, W, 3) BGR to the planes Y, U, V one below the other, (3 H / 2, W) uint8, BT.709 limited range.

    Rounded to the nearest: FFmpeg's scaler truncates unless told otherwise, and the clip would be darker.
    """
    to_bgr = bgr_from_yuv(Matrix.BT709, full_range=False)
    matrix = np.linalg.inv(to_bgr[:, :3])
    offset = -matrix @ to_bgr[:, 3]
    yuv = cv2.transform(image.astype(np.float32), np.column_stack([matrix, offset]))
    height, width = image.shape[:2]
    chroma = cv2.resize(yuv[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    planes = np.concatenate([yuv[..., 0].ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()])
    return np.rint(planes).astype(np.uint8).reshape(-1, width)


def _encode(output: Path) -> None:
    """Writes the clip as H.264 in MP4: yuv420p, BT.709, limited range."""
    with av.open(
        str(output), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
    ) as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": str(_CRF), "preset": "slow", "flags": "+bitexact"}
        )
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.gop_size = _KEYFRAME_INTERVAL
        codec.thread_count = 1
        codec.color_primaries = codec.color_trc = codec.colorspace = _COLOR_BT709
        codec.color_range = _COLOR_LIMITED
        for index, image in enumerate(frames()):
            frame = av.VideoFrame.from_ndarray(yuv420(image), format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_sample(output: Path) -> None:
    """Makes the clip and writes it to `output`, replacing an older file only when all of it is written.

    Raises:
        ConfigError: scikit-image is not installed, or does not ship these pictures.
        SinkError: `output` can't be written.
    """
    try:
        with atomic_file(output) as partial:
            _encode(partial)
    except OSError as error:
        raise SinkError(f"can't write {output}: {error.strerror or error}") from error


def make_picture(output: Path) -> None:
    """Makes the picture of the self-check, the clip's first frame made small, and writes it to `output`, a PNG.

    Raises:
        ConfigError: scikit-image is not installed, or does not ship these pictures.
        SinkError: `output` can't be written.
    """
    small = cv2.resize(next(frames()), PICTURE_SIZE_WH, interpolation=cv2.INTER_AREA)
    try:
        with atomic_file(output) as partial:
            partial.write_bytes(cv2.imencode(".png", small)[1].tobytes())
    except OSError as error:
        raise SinkError(f"can't write {output}: {error.strerror or error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_sample", description="Make the sample clip.")
    parser.add_argument("output", type=Path, metavar="OUT.mp4|OUT.png", help="the clip, or the self-check's picture")
    output: Path = parser.parse_args(arguments).output
    try:
        make_picture(output) if output.suffix == ".png" else make_sample(output)
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
