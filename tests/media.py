"""Small clips and pictures made on the spot, so that no test needs a media file in the repository.

Every picture carries its number: `picture(7)` can be told from `picture(8)` after any lossy codec, with `number_of`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import cv2
import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

Image = npt.NDArray[np.uint8]

SIZE_WH = (96, 64)
_GRID = 4  # 4 x 4 blocks, one bit each, most significant bit first
_BLUE = (150, 40, 30)  # bit 0, BGR: dark
_YELLOW = (60, 220, 230)  # bit 1, BGR: light
_TIME_BASE = Fraction(1, 90_000)


def picture(number: int, size_wh: tuple[int, int] = SIZE_WH) -> Image:
    """Returns (H, W, 3) uint8 BGR: a grid of 4 x 4 blocks, blue for a 0 and yellow for a 1, that spells `number`.

    Args:
        number: 0..65535, written row by row from the top left.
        size_wh: width and height in pixels, 16 or more to survive a codec.
    """
    bits = np.array([number >> bit & 1 for bit in range(_GRID**2 - 1, -1, -1)]).reshape(_GRID, _GRID)
    width, height = size_wh
    rows, columns = (np.arange(height) * _GRID // height, np.arange(width) * _GRID // width)
    return np.array([_BLUE, _YELLOW], np.uint8)[bits[rows[:, None], columns]]


def number_of(image: Image) -> int:
    """Returns the number that a picture made by `picture` spells, read from the middle of each block."""
    height, width = image.shape[:2]
    middles = (2 * np.arange(_GRID) + 1) / (2 * _GRID)
    green = image[(middles * height).astype(int)[:, None], (middles * width).astype(int), 1]
    number = 0
    for bit in (green > 128).ravel():
        number = number << 1 | int(bit)
    return number


def write_image(path: Path, number: int = 0, size_wh: tuple[int, int] = SIZE_WH) -> Path:
    """Writes `picture(number)` in the format of the file's suffix; returns `path`."""
    done, content = cv2.imencode(path.suffix, picture(number, size_wh))
    assert done
    path.write_bytes(content.tobytes())
    return path


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a PNG's chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG of a few bytes that states any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def write_clip(
    path: Path,
    frames: int = 10,
    *,
    size_wh: tuple[int, int] = SIZE_WH,
    fps: int = 30,
    times_s: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    hflip: bool = False,
    vflip: bool = False,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    pixel_aspect: Fraction | None = None,
    with_audio: bool = False,
    audio_s: float | None = None,
    audio_codec: str = "aac",
    audio_rate: int = 48_000,
    tones_s: Sequence[tuple[float, float]] | None = None,
) -> Path:
    """Writes a clip whose frame number n is `picture(n)`; returns `path`.

    Args:
        path: the suffix chooses the container, unless `format` (FFmpeg's muxer name) does.
        frames: how many; with `times_s` as many as it has.
        size_wh: of the coded picture; some codecs want even numbers for yuv420p.
        fps: frame rate where `times_s` is None.
        times_s: each frame's presentation time in seconds, for a variable frame rate.
        codec: FFmpeg's encoder name.
        pix_fmt: FFmpeg's pixel format name.
        rotation: display rotation written to the container, degrees counter-clockwise.
        hflip: mirroring left to right written to the container.
        vflip: mirroring upside down written to the container.
        codec_options: FFmpeg's options for the encoder, over one thread and a fast preset.
        container_options: FFmpeg's options for the muxer.
        pixel_aspect: width of a pixel over its height.
        with_audio: adds a tone: AAC in stereo, or mono in another codec.
        audio_s: how long it is; None is as long as the pictures.
        audio_codec: FFmpeg's encoder name.
        audio_rate: samples a second.
        tones_s: several tones in its place, as begins and ends in seconds.
    """
    if times_s is None:
        times_s = [index / fps for index in range(frames)]
    options = {"preset": "ultrafast", "threads": "1"} if codec.startswith("libx26") else {"threads": "1"}
    with av.open(str(path), "w", format=format, container_options=container_options or {}) as output:
        stream = cast("VideoStream", output.add_stream(codec, rate=fps, options=options | (codec_options or {})))
        stream.width, stream.height = size_wh
        stream.pix_fmt = pix_fmt
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        constant = all(abs(time - index / fps) < 1e-9 for index, time in enumerate(times_s))
        time_base = Fraction(1, fps) if constant else _TIME_BASE
        stream.codec_context.time_base = time_base
        if rotation or hflip or vflip:
            stream.set_display_rotation(rotation, hflip=hflip, vflip=vflip)
        tone = _add_tone(output, audio_codec, audio_rate) if with_audio else None
        for number, time in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(picture(number, size_wh), format="bgr24").reformat(
                format=pix_fmt, threads=1
            )
            frame.pts, frame.time_base = round(time / time_base), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if tone is not None:
            whole = (0.0, times_s[-1] + 1 / fps if audio_s is None else audio_s)
            _write_tone(output, tone, tones_s or [whole])
    return path


def _add_tone(output: av.container.OutputContainer, codec: str, rate: int) -> av.AudioStream:
    stream = output.add_stream(codec, rate=rate)
    assert isinstance(stream, av.AudioStream)
    stream.layout = "stereo" if codec == "aac" else "mono"
    return stream


def _write_tone(
    output: av.container.OutputContainer, stream: av.AudioStream, tones_s: Sequence[tuple[float, float]]
) -> None:
    rate, size = stream.codec_context.sample_rate, 1024
    for begin_s, end_s in tones_s:
        for start in range(int(begin_s * rate), int(end_s * rate), size):
            wave = 0.2 * np.sin(2 * np.pi * 440 / rate * np.arange(start, start + size))
            frame = av.AudioFrame.from_ndarray(np.tile(wave.astype(np.float32), (2, 1)), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
