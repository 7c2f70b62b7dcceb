"""Encoding frames: choice of encoder and pixel format, and conversion from BGR."""

from __future__ import annotations

import logging
import threading
from fractions import Fraction

import cv2
import av
import numpy as np
import numpy.typing as npt

from streamer.frames.frame import Frame
from streamer.frames.yuv import COLORSPACES, FULL, LIMITED, Yuv420
from streamer.frames.yuv_matrix import Matrix, yuv_from_bgr

log = logging.getLogger(__name__)

_X264_OPTIONS = {"preset": "ultrafast", "forced-idr": "1"}
_MPEG4_QUANTISERS = (2, 31)
_KEY_EVERY_S = 2
_GOP_FRAMES = 300  # upper bound: key frames are chosen by time

_UNSPECIFIED = 2  # of primaries and transfer, by ITU-T H.273

# Several encoders may take one decoded picture, and each sets its own time on it.
_TIME_LOCKS = tuple(threading.Lock() for _ in range(61))


class VideoEncoder:
    """The video stream of a container and its encoder.

    H.264 by x264's ultrafast preset on one thread, with a key frame every 2 s. Measured at crf 20 on road footage of
    1280x720: 3.4 ms of CPU a frame, 340 kB/s at 25 frames a second, 48.7 dB PSNR over BGR (crf 23: 3.1 ms, 220 kB/s,
    47.5 dB; superfast at crf 23: 9.2 ms, 48.6 dB). An FFmpeg without x264 writes MPEG-4 part 2 of
    about the same quality: quantiser 2 to 3 for crf 20.

    Pictures of odd width or height are written as 4:4:4, since H.264 can't have them in 4:2:0. BGR becomes
    limited-range BT.601; planes keep their matrix and range, and the stream is tagged. MPEG-4 part 2 is always limited
    range: MP4, MOV and AVI have no tag for it.
    """

    def __init__(
        self, container: av.container.OutputContainer, frame: Frame, fps: Fraction, time_base: Fraction, crf: int
    ) -> None:
        """Adds a stream with the size, pixel aspect and colours of `frame`, which isn't encoded yet.

        The container's header isn't written yet. `time_base` is a tick in seconds, `crf` x264's constant rate factor, 0
        (lossless) to 51 (worst).
        """
        self._size_wh = frame.size_wh
        self._time_base = time_base
        self._key_pts: int | None = None
        self._last: av.VideoFrame | None = None
        codec, options, self._format = _choice(frame, crf)
        stream = container.add_stream(codec, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        context = stream.codec_context
        context.width, context.height = self._size_wh
        context.sample_aspect_ratio = frame.pixel_aspect
        context.pix_fmt = self._format
        context.time_base = stream.time_base = time_base
        context.thread_count = 1
        context.gop_size = _GOP_FRAMES
        context.max_b_frames = 0
        pixels = frame.host_pixels
        if isinstance(pixels, Yuv420):
            theirs = pixels.av_frame
            self._range = FULL if pixels.full_range and codec == "libx264" else LIMITED
            context.colorspace = theirs.colorspace
            context.color_primaries, context.color_trc = theirs.color_primaries, theirs.color_trc
        else:
            self._range = LIMITED
            context.colorspace = COLORSPACES[Matrix.BT601]
            context.color_primaries = context.color_trc = _UNSPECIFIED
        context.color_range = self._range

    def encode(self, frame: Frame, pts: int) -> list[av.Packet[av.VideoStream]]:
        """Encodes one frame, scaled to the stream's size; `pts` is in ticks and increases.

        Raises:
            av.FFmpegError: if the encoder fails, as all methods here.
        """
        self._last = self._picture(frame)
        return self.repeat(pts)

    def repeat(self, pts: int) -> list[av.Packet[av.VideoStream]]:
        """Encodes the latest picture again, to be shown from `pts` on."""
        picture = self._last
        assert picture is not None, "there is a picture to repeat"
        is_key = self._key_pts is None or (pts - self._key_pts) * self._time_base >= _KEY_EVERY_S
        if is_key:
            self._key_pts = pts
        with _TIME_LOCKS[id(picture) // 64 % len(_TIME_LOCKS)]:
            picture.pts, picture.time_base = pts, self._time_base
            picture.pict_type = av.video.frame.PictureType.I if is_key else av.video.frame.PictureType.NONE
            return self._stream.encode(picture)

    def finish(self) -> list[av.Packet[av.VideoStream]]:
        """Flushes the encoder."""
        return self._stream.encode(None)

    def _picture(self, frame: Frame) -> av.VideoFrame:
        pixels = frame.host_pixels
        if isinstance(pixels, np.ndarray):
            image = pixels
            if frame.size_wh != self._size_wh:
                image = np.asarray(cv2.resize(image, self._size_wh, interpolation=cv2.INTER_AREA), np.uint8)
            if self._format != "yuv444p" and not (self._size_wh[0] % 2 or self._size_wh[1] % 2):
                return _halved_chroma(image)
            picture, own_range = av.VideoFrame.from_ndarray(image, format="bgr24"), FULL
        else:
            picture, own_range = pixels.av_frame, FULL if pixels.full_range else LIMITED
            if frame.size_wh == self._size_wh and picture.format.name == self._format and own_range == self._range:
                return picture
            picture = pixels.copy().av_frame  # reformat() changes tags for a moment: copy a shared one
        width, height = self._size_wh
        return picture.reformat(
            width,
            height,
            self._format,
            dst_colorspace="ITU601" if picture.format.is_rgb else None,
            src_color_range=own_range,
            dst_color_range=self._range,
            threads=1,
        )


def _choice(frame: Frame, crf: int) -> tuple[str, dict[str, str], str]:
    """Returns the encoder's name, its options and the pixel format for a frame."""
    if "libx264" not in av.codecs_available:
        log.warning("this FFmpeg has no libx264: writing MPEG-4 part 2, which browsers can't play")
        return "mpeg4", _mpeg4_options(crf), "yuv420p"
    options = {**_X264_OPTIONS, "crf": str(crf)}
    width, height = frame.size_wh
    if width % 2 or height % 2:
        log.info("%dx%d is odd, which H.264 can't have in 4:2:0: writing 4:4:4", width, height)
        return "libx264", options, "yuv444p"
    pixels = frame.host_pixels
    own = pixels.av_frame.format.name if isinstance(pixels, Yuv420) else "yuv420p"
    return "libx264", options, own


def _mpeg4_options(crf: int) -> dict[str, str]:
    """Returns bounds for the quantiser, whose step doubles with every 6 of the rate factor as in H.264."""
    least, most = _MPEG4_QUANTISERS
    qmax = min(most, max(least, round(3 * 2 ** ((crf - 20) / 6))))
    return {"qmin": str(max(least, qmax - 1)), "qmax": str(qmax)}


def _halved_chroma(image: npt.NDArray[np.uint8]) -> av.VideoFrame:
    """Converts BGR of even size to 4:2:0, limited-range BT.601, each chroma sample the mean of its four pixels.

    OpenCV's own conversion keeps one of four chroma values: a third of the cost, but 2 dB less. It serves for the luma.
    """
    height, width = image.shape[:2]
    target = Yuv420(av.VideoFrame(width, height, "yuv420p"), writable=True)
    target.y[...] = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)[:height]
    quarter = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = cv2.transform(quarter, _CHROMA_FROM_BGR)
    target.u[...], target.v[...] = chroma[..., 0], chroma[..., 1]
    return target.av_frame


_CHROMA_FROM_BGR = yuv_from_bgr(Matrix.BT601, full_range=False)[1:]
