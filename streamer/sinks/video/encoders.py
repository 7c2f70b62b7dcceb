"""Which encoders there are, which of them work here, and their options. Hardware counts once it has encoded."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
import numpy as np
import numpy.typing as npt

from streamer.common.errors import SinkError
from streamer.sinks.files import reason
from streamer.sinks.options import ENCODERS

log = logging.getLogger(__name__)

_MPEG4_QUANTISERS = (2, 31)
_TRIAL_FRAMES, _TRIAL_WH, _TRIAL_FPS = 5, (640, 480), Fraction(30)
_MAX_TRIAL_ERROR = 12.0  # mean difference of luma, of 255
_VIDEOTOOLBOX_UNIT = 118  # FF_QP2LAMBDA
_BITS_A_PIXEL = 0.06  # at crf 27, of an encoder that takes a bit rate only
# Half-pixel motion search, CABAC and deblocking halve ultrafast's files for 5 % more CPU; superfast gives no more.
_X264 = {"preset": "ultrafast", "x264-params": "subme=1:cabac=1:deblock=0,0", "forced-idr": "1"}
_X265 = {"preset": "superfast", "x265-params": "log-level=none:frame-threads=1:scenecut=0", "forced-idr": "1"}
# x264 and NVENC otherwise keep a picture or more until the next ones come.
_AT_ONCE = {
    "libx264": {"tune": "zerolatency"},
    "libx265": {"tune": "zerolatency"},
    "nvenc": {"delay": "0", "zerolatency": "1"},
    "amf": {"usage": "lowlatency"},
}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "0"}
_VP9_CRF, _VP9_STEPS = 38, 2.13  # what looks like x264's crf 27, and for each step of that
_X265_CRF = -1  # the same look as x264 with a crf one higher


@dataclass(frozen=True)
class Encoder:
    """One of FFmpeg's encoders.

    Attributes:
        name: FFmpeg's.
    """

    name: str

    @property
    def is_h265(self) -> bool:
        """Whether it writes H.265 (HEVC)."""
        return self.name.startswith("hevc_") or self.name == "libx265"

    @property
    def is_hardware(self) -> bool:
        """Whether it needs a device of this machine."""
        return self.name.startswith(("h264_", "hevc_"))

    @property
    def takes_any_format(self) -> bool:
        """Whether it takes 4:2:2 and 4:4:4, and full range."""
        return self.name.startswith("libx26")

    @property
    def pixel_format(self) -> str:
        """The 4:2:0 format that it takes."""
        return "nv12" if self.is_hardware and not self.name.endswith("_nvenc") else "yuv420p"

    def configure(self, context: av.VideoCodecContext, crf: int, *, at_once: bool = False) -> dict[str, str]:
        """Sets what of the quality is no option on a context whose size and rate are set; returns the options.

        `crf` is x264's constant rate factor; other encoders get what looks about the same. `at_once` is whether each
        picture is wanted as a packet before the next one comes.
        """
        family = self.name.rpartition("_")[2]
        return self._quality(family, context, crf) | (_AT_ONCE.get(family, {}) if at_once else {})

    def _quality(self, family: str, context: av.VideoCodecContext, crf: int) -> dict[str, str]:
        match family:
            case "libx264":
                return {**_X264, "crf": str(crf)}
            case "libx265":
                return {**_X265, "crf": str(max(0, crf + _X265_CRF))}
            case "libvpx-vp9":
                context.bit_rate = 0
                return {**_VP9, "crf": str(min(63, max(2, round(_VP9_CRF + _VP9_STEPS * (crf - 27)))))}
            case "nvenc":
                context.bit_rate = 0
                return {"preset": "p4", "rc": "vbr", "cq": str(max(1, crf)), "forced-idr": "1"}
            case "qsv":
                return {"global_quality": str(max(1, crf)), "forced_idr": "1", "async_depth": "1"}
            case "amf":
                return {"rc": "cqp", "qp_i": str(crf), "qp_p": str(crf), "forced_idr": "1"}
            case "videotoolbox":
                quality = max(1, round((50 - crf) / 0.4))
                return {"flags": "+qscale", "global_quality": str(quality * _VIDEOTOOLBOX_UNIT), "realtime": "1"}
            case "v4l2m2m":
                pixels = context.width * context.height * float(context.framerate or _TRIAL_FPS)
                context.bit_rate = round(pixels * _BITS_A_PIXEL * 2 ** ((27 - crf) / 6))
                return {}
            case _:
                return _mpeg4_options(crf) if self.name == "mpeg4" else {}


def choose_encoder(wanted: str, size_wh: tuple[int, int]) -> Encoder:
    """Returns the encoder for pictures of a size: hardware that works, else software.

    Args:
        wanted: one of `ENCODERS`, or FFmpeg's name of one.
        size_wh: in pixels. Hardware can't have odd sizes.

    Raises:
        SinkError: if there is none, or the one that is named doesn't work.
    """
    if wanted not in ENCODERS:
        encoder = Encoder(wanted)
        if (problem := problem_of(encoder, size_wh)) is not None:
            raise SinkError(f"can't encode with {wanted}: {problem}; nanodet-stream --list encoders shows which work")
        return encoder
    for encoder in _candidates("h265" if wanted == "h265" else "h264"):
        if problem_of(encoder, size_wh) is None:
            _log_choice(encoder.name)
            return encoder
    if wanted != "auto":
        raise SinkError(f"can't encode {wanted}: this FFmpeg has no encoder for it; choose --encoder auto")
    _log_choice("mpeg4")
    return Encoder("mpeg4")


def webm_encoder() -> Encoder:
    """Returns the encoder of WebM files, which hold neither H.264 nor H.265: VP9 in software.

    On road footage of 1280x720 it needs 12 ms of CPU a frame for what x264 does in 5 ms, at the same size and PSNR.

    Raises:
        SinkError: if this build of PyAV doesn't have it.
    """
    encoder = Encoder("libvpx-vp9")
    if (problem := problem_of(encoder)) is not None:
        raise SinkError(f"can't write WebM: {problem}; choose .mkv or .mp4")
    return encoder


def problem_of(encoder: Encoder, size_wh: tuple[int, int] = _TRIAL_WH) -> str | None:
    """Returns why an encoder can't encode pictures of a size here, None if it can."""
    if encoder.name not in av.codecs_available:
        return "this build of PyAV doesn't have it"
    if not encoder.is_hardware:
        return None
    if size_wh[0] % 2 or size_wh[1] % 2:
        return "it takes even sizes only"
    return _try_hardware(encoder, size_wh)


def list_encoders() -> list[str]:
    """Returns a line for each encoder: its name, what it writes, and whether it works here."""
    lines = []
    for codec in ("h264", "h265"):
        for encoder in sorted(_candidates(codec), key=lambda encoder: encoder.is_hardware):
            problem = problem_of(encoder)
            kind = f"{codec.upper().replace('H26', 'H.26')}, {'hardware' if encoder.is_hardware else 'software'}"
            lines.append(f"{encoder.name:18} {kind}: {problem or 'works'}")
    return lines


def _candidates(codec: str) -> Iterator[Encoder]:
    """Yields the encoders of a codec, the preferred first."""
    prefix = "h264" if codec == "h264" else "hevc"
    for family in ("nvenc", "qsv", "videotoolbox", "amf", "vaapi", "v4l2m2m"):
        yield Encoder(f"{prefix}_{family}")
    yield Encoder("libx264" if codec == "h264" else "libx265")


@functools.cache
def _log_choice(name: str) -> None:
    if name == "mpeg4":
        log.warning("this FFmpeg has no libx264: writing MPEG-4 part 2, which browsers can't play")
    else:
        log.info("videos are encoded by %s (%s)", name, "hardware" if Encoder(name).is_hardware else "software")


@functools.lru_cache(maxsize=64)
def _try_hardware(encoder: Encoder, size_wh: tuple[int, int]) -> str | None:
    """Encodes some pictures and compares them, decoded, with what was given; returns what is wrong, else None."""
    try:
        context = _opened(encoder, size_wh)  # before pictures are made, which takes longer: few machines have hardware
        given = [_picture(number, size_wh) for number in range(_TRIAL_FRAMES)]
        seen = _decoded(context, given)
    except (av.FFmpegError, ValueError, OSError) as error:
        return f"it can't be opened here ({reason(error)})"
    if len(seen) != len(given):
        return f"it returned {len(seen)} of {len(given)} pictures"
    worst = max(float(np.abs(a.astype(np.int16) - b).mean()) for a, b in zip(given, seen, strict=True))
    return None if worst <= _MAX_TRIAL_ERROR else "the pictures that it returned are wrong"


def _opened(encoder: Encoder, size_wh: tuple[int, int]) -> av.VideoCodecContext:
    context = av.CodecContext.create(encoder.name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = size_wh
    context.pix_fmt = encoder.pixel_format
    context.framerate, context.time_base = _TRIAL_FPS, 1 / _TRIAL_FPS
    context.max_b_frames = 0
    context.options = encoder.configure(context, 27)
    context.open()
    return context


def _decoded(context: av.VideoCodecContext, given: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Encodes planes of luma, (H, W) uint8, and returns those decoded by software."""
    height, width = given[0].shape
    packets = []
    for number, luma in enumerate(given):
        planes = np.concatenate([luma, np.full((height // 2, width), 128, np.uint8)])
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p").reformat(format=context.pix_fmt)
        frame.pts, frame.time_base = number, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    decoder = av.CodecContext.create(context.codec.canonical_name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = context.extradata
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return [np.asarray(frame.to_ndarray(format="gray"), np.uint8) for frame in frames]


def _picture(number: int, size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Returns an (H, W) plane of waves that move with `number`."""
    width, height = size_wh
    x, y = np.arange(width), np.arange(height)[:, None]
    return np.round(128 + 90 * np.sin((x + 4 * number) / 40) * np.cos(y / 30)).astype(np.uint8)


def _mpeg4_options(crf: int) -> dict[str, str]:
    """Returns bounds for the quantiser, whose step doubles with every 6 of the rate factor as in H.264."""
    least, most = _MPEG4_QUANTISERS
    qmax = min(most, max(least, round(3 * 2 ** ((crf - 20) / 6))))
    return {"qmin": str(max(least, qmax - 1)), "qmax": str(qmax)}
