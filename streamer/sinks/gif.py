"""Animated GIF files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import av
import av.filter
import numpy as np
import numpy.typing as npt

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.scaling import fitted, resized
from streamer.frames.viewport import Viewport
from streamer.sinks.base import Sink, WriteError
from streamer.sinks.files import is_special, reason
from streamer.sinks.paths import OutputPaths
from streamer.sinks.video.transactional_file import TransactionalFile

_MAX_SIDE = 640
_VIEWPORT = Viewport((_MAX_SIDE, _MAX_SIDE))
_TICKS_PER_S = 100
_TICK_S = Fraction(1, _TICKS_PER_S)
_LEAST_TICKS = 2  # browsers show a picture with a shorter delay for a tenth of a second
_PALETTE_TICKS = 200
_OFF, _MOST_OFF = 48, 0.003  # difference of a pixel, of 255; share of such pixels that asks for other colours


class GifSink(Sink):
    """Writes an animated GIF that repeats endlessly, with the frames' own times in steps of 10 ms.

    Larger pictures are scaled to 640 pixels, and pixels become square. Frames less than 20 ms after the one before are
    left out; a pause is 655 s at most. Each picture has 256 colours, chosen anew every 2 s and where they don't suit.
    Measured on road footage of 640x360: 20 ms of CPU and 110 kB a frame, 36 dB PSNR; colours for each picture cost
    95 ms and gain 0.6 dB.

    The file is made with the first frame. Each picture is in it once the next is written: a killed run leaves a file
    that plays up to there.
    """

    def __init__(self, path: Path, *, paths: OutputPaths | None = None) -> None:
        """Checks that `path` can be written.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written, or is a pipe or a device.
        """
        if is_special(path):
            raise SinkError(f"can't write {path}: a GIF needs a file, not a pipe or a device; choose another output")
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        self._writer: _GifWriter | None = None

    @property
    def viewport(self) -> Viewport:
        return _VIEWPORT

    def write(self, frame: Frame, detections: Detections) -> None:
        if self._writer is None:
            try:
                self._writer = _GifWriter(self._path, frame, replace=self._claim.replaces)
            except OSError as error:
                raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error
        self._writer.write(frame)

    def close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._claim.close()

    @property
    def written(self) -> tuple[Path, ...]:
        """The file, once it has a frame."""
        return (self._path,) if self._writer is not None else ()


class _GifWriter:
    """One GIF while it is written. After an error it is closed, and what it holds plays."""

    def __init__(self, path: Path, first: Frame, *, replace: bool) -> None:
        """Makes the file for pictures of the size of `first`, which isn't written yet; raises OSError if that fails."""
        self._path = path
        self._start_s = first.pts_s
        self._size_wh = fitted(first.shown_wh, (_MAX_SIDE, _MAX_SIDE))
        self._last_ticks: int | None = None
        self._palette_ticks = 0
        self._colours: _Colours | None = None
        self._is_closed = False
        self._file = TransactionalFile(path, replace=replace)
        with self._rolling_back():
            self._container = av.open(self._file, "w", format="gif", container_options={"flush_packets": "1"})
            stream = self._container.add_stream("gif", rate=1 / _TICK_S)
            assert isinstance(stream, av.VideoStream)
            context = stream.codec_context
            context.width, context.height = self._size_wh
            context.pix_fmt = "pal8"
            context.time_base = stream.time_base = _TICK_S
            self._stream = stream

    def write(self, frame: Frame) -> None:
        """Encodes a frame, unless it comes too soon, and writes the one before; raises WriteError if that fails."""
        ticks = round((frame.pts_s - self._start_s) * _TICKS_PER_S)
        if self._last_ticks is not None and ticks < self._last_ticks + _LEAST_TICKS:
            return
        self._last_ticks = ticks
        with self._rolling_back():
            picture = self._reduced(resized(frame, self._size_wh), ticks)
            picture.pts, picture.time_base = ticks, _TICK_S
            self._mux(self._stream.encode(picture))

    def close(self) -> None:
        """Writes the last frame and the file's end. Safe to call twice, and after an error."""
        if self._is_closed:
            return
        with self._rolling_back():
            self._mux(self._stream.encode(None))
            self._container.close()
        self._is_closed = True
        self._file.close()

    def _reduced(self, image: npt.NDArray[np.uint8], ticks: int) -> av.VideoFrame:
        """Returns the picture in the present colours, or, where these are old or don't suit, in others."""
        if self._colours is not None and ticks < self._palette_ticks + _PALETTE_TICKS:
            picture = self._colours.reduce(image)
            if _share_off(picture, image) <= _MOST_OFF:
                return picture
        self._colours, self._palette_ticks = _Colours(image), ticks
        return self._colours.reduce(image)

    def _mux(self, packets: list[av.Packet[av.VideoStream]]) -> None:
        for packet in packets:
            self._container.mux(packet)
            self._file.commit()

    @contextlib.contextmanager
    def _rolling_back(self) -> Iterator[None]:
        """Restores what plays, and closes the file, if anything fails."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._is_closed = True
            self._file.rollback()
            cause = self._file.error or error
            raise WriteError(f"{self._path} broke off: {reason(cause)}; what it holds can be played") from error


class _Colours:
    """Reduces pictures to 256 colours, those that suit one picture, with an ordered dither that doesn't flicker."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        """Chooses the colours for `image`, (H, W, 3) uint8 BGR."""
        choosing = av.filter.Graph()
        source = _source(choosing, image.shape[1], image.shape[0], "bgr24")
        _connect(choosing, source, choosing.add("palettegen"))
        source.push(_picture(image))
        source.push(None)
        palette = choosing.pull()
        assert isinstance(palette, av.VideoFrame)
        palette.pts, palette.time_base = 0, _TICK_S
        self._graph = av.filter.Graph()
        self._pictures = _source(self._graph, image.shape[1], image.shape[0], "bgr24")
        colours = _source(self._graph, palette.width, palette.height, palette.format.name)
        use = self._graph.add("paletteuse", "dither=bayer:bayer_scale=5")
        colours.link_to(use, 0, 1)
        _connect(self._graph, self._pictures, use)
        colours.push(palette)
        colours.push(None)
        self._count = 0

    def reduce(self, image: npt.NDArray[np.uint8]) -> av.VideoFrame:
        """Returns a picture of the same size in these colours."""
        picture = _picture(image)
        picture.pts, picture.time_base = self._count, _TICK_S
        self._count += 1
        self._pictures.push(picture)
        reduced = self._graph.pull()
        assert isinstance(reduced, av.VideoFrame)
        return reduced


def _source(graph: av.filter.Graph, width: int, height: int, pixels: str) -> Any:
    return graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=_TICK_S)


def _share_off(picture: av.VideoFrame, image: npt.NDArray[np.uint8]) -> float:
    """Returns the share of pixels whose reduced colour is far from that in `image`."""
    difference = cv2.absdiff(np.asarray(picture.to_ndarray(format="bgr24"), np.uint8), image)
    return float(np.mean(difference.max(axis=2) > _OFF))


def _connect(graph: av.filter.Graph, source: Any, through: Any) -> None:
    sink = graph.add("buffersink")
    source.link_to(through, 0, 0)
    through.link_to(sink)
    graph.configure()


def _picture(image: npt.NDArray[np.uint8]) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
    picture.pts, picture.time_base = 0, _TICK_S
    return picture
