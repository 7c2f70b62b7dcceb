"""Encoding frames: the stream of a container, choice of pixel format, and conversion from BGR."""

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
from streamer.sinks.options import Encoding
from streamer.sinks.video.encoders import Encoder, choose_encoder, webm_encoder

log = logging.getLogger(__name__)

_KEY_EVERY_S = 2
_GOP_FRAMES = 300  # upper bound: key frames are chosen by time

_UNSPECIFIED = 2  # of primaries and transfer, by ITU-T H.273

# Several encoders may take one decoded picture, and each sets its own time on it.
_TIME_LOCKS = tuple(threading.Lock() for _ in range(61))


class VideoEncoder:
    """The video stream of a container and its encoder.

    There is a key frame every 2 s by default. See `streamer.sinks.video.encoders` for which encoder it is, and
    docs/recording.md for what was measured; x264 works on one thread. An FFmpeg without any for H.264 writes MPEG-4
    part 2 of about the same quality: quantiser 2 to 3 for crf 20.

    Pictures of odd width or height are written as 4:4:4, since H.264 can't have them in 4:2:0. BGR becomes
    limited-range BT.601; planes keep their matrix and range, and the stream is tagged. MPEG-4 part 2 is always limited
    range: MP4, MOV and AVI have no tag for it. So is hardware. WebM is VP9 of limited range with square pixels: VP9 has
    no pixel aspect, and PyAV can't tell it to the muxer (findings/pyav-webm-loses-pixel-aspect.sh).
    """

    def __init__(
        self,
        container: av.container.OutputContainer,
        frame: Frame,
        fps: Fraction,
        time_base: Fraction,
        encoding: Encoding,
        *,
        key_every_s: float = _KEY_EVERY_S,
        at_once: bool = False,
    ) -> None:
        """Adds a stream with the size, pixel aspect and colours of `frame`, which isn't encoded yet.

        The container's header isn't written yet. `time_base` is a tick in seconds, `key_every_s` the time between key
        frames, and `at_once` whether each picture is wanted as a packet before the next one comes.

        Raises:
            SinkError: if the wanted encoder doesn't work.
        """
        is_webm = container.format.name == "webm"
        self._size_wh = frame.shown_wh if is_webm else frame.size_wh
        self._time_base, self._key_every_s = time_base, key_every_s
        self._key_pts: int | None = None
        self._last: av.VideoFrame | None = None
        encoder = webm_encoder() if is_webm else choose_encoder(encoding.encoder, self._size_wh)
        self._format = _format_for(encoder, frame)
        stream = container.add_stream(encoder.name, rate=fps)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        context = stream.codec_context
        context.width, context.height = self._size_wh
        context.sample_aspect_ratio = Fraction(1) if is_webm else frame.pixel_aspect
        context.pix_fmt = self._format
        context.time_base = stream.time_base = time_base
        context.options = encoder.configure(context, encoding.crf, at_once=at_once)
        if encoder.is_h265:
            context.codec_tag = "hvc1" if container.format.name in ("mp4", "mov") else context.codec_tag
        else:
            context.thread_count = 1
        context.gop_size = _GOP_FRAMES
        context.max_b_frames = 0
        pixels = frame.host_pixels
        if isinstance(pixels, Yuv420):
            theirs = pixels.av_frame
            self._range = FULL if pixels.full_range and encoder.takes_any_format else LIMITED
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
        is_key = self._key_pts is None or (pts - self._key_pts) * self._time_base >= self._key_every_s
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
                halved = _halved_chroma(image)
                return halved if self._format == "yuv420p" else halved.reformat(format=self._format, threads=1)
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


def _format_for(encoder: Encoder, frame: Frame) -> str:
    """Returns the pixel format in which a frame is encoded: its own, if it has planes and the encoder takes them."""
    if not encoder.takes_any_format:
        return encoder.pixel_format
    width, height = frame.size_wh
    if width % 2 or height % 2:
        log.info("%dx%d is odd, which 4:2:0 can't have: writing 4:4:4", width, height)
        return "yuv444p"
    pixels = frame.host_pixels
    return pixels.av_frame.format.name if isinstance(pixels, Yuv420) else encoder.pixel_format


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
