"""Options of sources, whatever their kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamer.common.errors import ConfigError
from streamer.common.queues import OverflowPolicy
from streamer.common.tls import Trust
from streamer.sources.base import Pace

MAX_PIXELS = 200_000_000
"""Most pixels of a picture by default: those of the largest cameras, 0.6 GB as BGR."""
_LIVE_POLICY = Pace.LIVE.overflow_policy()


@dataclass(frozen=True)
class SourceOptions:
    """Settings of cameras, time-outs of networks, and the decoder; each kind of source uses what applies to it.

    Attributes:
        width: of a camera's frames in pixels; None keeps the device's setting.
        height: of a camera's frames in pixels; None keeps the device's setting.
        fps: a camera's frame rate, or how often a snapshot URL is polled; None keeps the default.
        pixel_format: a camera's, four characters such as ``MJPG``; None keeps the device's setting.
        rtsp_transport: ``auto`` is TCP, and UDP where the server refuses that.
        open_timeout_s: for a stream to answer.
        key_frame_timeout_s: for a stream that answers to give its first picture, which is a key frame.
        stall_timeout_s: without a frame until a live source counts as lost.
        reconnect: attempts in a row to reconnect a lost live source; None is unlimited.
        overflow_policy: of a live source. DROP_OLDEST drops stale frames: those that arrived before the next one was
            read, and, where decoding is too slow, those before a newer key frame.
        max_pixels: most pixels of a picture, width times height; larger ones are refused by their header.
        tls_verify: whether to check the certificates of https, rtsps and rtmps against the system's authorities; or
            the file of other authorities, in PEM.
        gpu: number of the GPU that decodes files and streams, where it can; None is the CPU.
        audio: whether the sound of streams is read, see `SourceInfo.audio`.
        kept_packets_s: how much of a file's or stream's packets is kept, in seconds, see `SourceInfo.packets`; 0 is
            none.
        packets_only: whether only the packets of a file or stream are wanted: frames are then black, and nothing but a
            first key frame is decoded.
        gpu_only: whether to refuse what that GPU can't decode, rather than decode it on the CPU.

    Raises:
        ConfigError: if a number isn't above zero (`reconnect`: below it), or `pixel_format` isn't four characters.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    rtsp_transport: Literal["auto", "tcp", "udp"] = "auto"
    open_timeout_s: float = 10.0
    key_frame_timeout_s: float = 20.0
    stall_timeout_s: float = 5.0
    reconnect: int | None = None
    overflow_policy: OverflowPolicy = _LIVE_POLICY
    max_pixels: int = MAX_PIXELS
    tls_verify: Trust = True
    gpu: int | None = None
    gpu_only: bool = False
    audio: bool = False
    kept_packets_s: float = 0.0
    packets_only: bool = False

    def __post_init__(self) -> None:
        timeouts = ("open_timeout_s", "key_frame_timeout_s", "stall_timeout_s")
        for name in ("width", "height", "fps", "max_pixels", *timeouts):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above zero, got {value}")
        if self.reconnect is not None and self.reconnect < 0:
            raise ConfigError(f"reconnect must be at least 0, got {self.reconnect}")
        if self.pixel_format is not None and len(self.pixel_format) != 4:
            raise ConfigError(f"pixel_format has four characters, such as MJPG, got {self.pixel_format!r}")

    def drops_stale(self, *, live: bool) -> bool:
        """Whether a source drops frames that are not the newest; one that isn't live, or isn't decoded, never does."""
        return live and not self.packets_only and self.overflow_policy is OverflowPolicy.DROP_OLDEST


def too_large(size_wh: tuple[int, int], max_pixels: int) -> str | None:
    """Returns what is wrong with a picture of more than `max_pixels` pixels, else None."""
    width, height = size_wh
    if width * height <= max_pixels:
        return None
    return f"{width}x{height} is above the limit of {max_pixels} pixels (--max-pixels)"


DEFAULT_OPTIONS = SourceOptions()
