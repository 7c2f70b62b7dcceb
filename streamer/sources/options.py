"""What a person may ask of a source, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamer.common.errors import ConfigError
from streamer.common.tls import Trust

MAX_PIXELS = 200_000_000
"""Largest picture by default: that of the largest cameras, 0.6 GB as BGR."""


@dataclass(frozen=True)
class SourceOptions:
    """Wishes for cameras and patience with networks; each kind of source takes what concerns it.

    Attributes:
        width: asked of a camera in pixels; None keeps the device's own.
        height: asked of a camera in pixels; None keeps the device's own.
        fps: frame rate asked of a camera; None keeps the device's own.
        pixel_format: four characters asked of a camera, such as ``MJPG``; None keeps the device's own.
        rtsp_transport: how RTSP carries pictures; ``auto`` is TCP, and UDP where the server refuses that.
        open_timeout_s: how long a stream may take to answer.
        key_frame_timeout_s: how long a stream that answers may take to its first picture, which is a key frame.
        stall_timeout_s: how long a live source may give no frame before it counts as lost.
        reconnect: how often in a row a lost live source is tried again; None for ever.
        freshest: whether a live source passes pictures over rather than give old ones: those that came before the
            next one was asked for, and, where decoding is too slow, those before a newer key frame.
        max_pixels: most pixels of a picture, width times height; a larger one is refused from its header.
        tls_verify: whether the certificates of https, rtsps and rtmps are checked against the system's authorities; or
            the file of other authorities, in PEM.
        gpu: number of the GPU that decodes files and streams, where it can; None leaves all to the CPU.
        gpu_only: whether what that GPU can't decode is refused, rather than decoded by the CPU.

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
    freshest: bool = True
    max_pixels: int = MAX_PIXELS
    tls_verify: Trust = True
    gpu: int | None = None
    gpu_only: bool = False

    def __post_init__(self) -> None:
        patience = ("open_timeout_s", "key_frame_timeout_s", "stall_timeout_s")
        for name in ("width", "height", "fps", "max_pixels", *patience):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above zero, got {value}")
        if self.reconnect is not None and self.reconnect < 0:
            raise ConfigError(f"reconnect must be at least 0, got {self.reconnect}")
        if self.pixel_format is not None and len(self.pixel_format) != 4:
            raise ConfigError(f"pixel_format has four characters, such as MJPG, got {self.pixel_format!r}")


def too_large(size_wh: tuple[int, int], max_pixels: int) -> str | None:
    """Returns what is wrong with a picture that has more pixels than are allowed, else None."""
    width, height = size_wh
    if width * height <= max_pixels:
        return None
    return f"{width}x{height} is above the limit of {max_pixels} pixels (--max-pixels)"


DEFAULT_OPTIONS = SourceOptions()
