"""What a person may ask of a source, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import ConfigError


@dataclass(frozen=True)
class SourceOptions:
    """Wishes for cameras and patience with networks; each kind of source takes what concerns it.

    Attributes:
        width: asked of a camera in pixels; None keeps the device's own.
        height: asked of a camera in pixels; None keeps the device's own.
        fps: frame rate asked of a camera; None keeps the device's own.
        open_timeout_s: how long a stream may take to answer, and again to give its first picture.
        read_timeout_s: how long an open stream may stay silent before it counts as broken off.

    Raises:
        ConfigError: if a number isn't above zero.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    open_timeout_s: float = 10.0
    read_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above zero, got {value}")


DEFAULT_OPTIONS = SourceOptions()
