"""Compressed packets on a source's timeline, as they came from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal


@dataclass(frozen=True)
class PacketFormat:
    """What a stream of packets is. Packets of equal formats can follow each other in one file.

    Attributes:
        kind: of the stream.
        codec: FFmpeg's name, such as ``h264`` or ``pcm_alaw``.
        extradata: parameter sets and the like, in the form of the packets; empty where they are within these.
        size_wh: of the stored picture; (0, 0) for sound.
        pixel_aspect: width of a pixel over its height.
        rate: samples a second of sound; 0 for pictures.
        channels: of sound; 0 for pictures.
        orientation: how stored pictures are turned for display: whether transposed, then flipped as `cv2.flip` counts.
        template: a NUT file with one packet, from which a muxer takes the parameters of its stream.
    """

    kind: Literal["video", "audio"]
    codec: str
    extradata: bytes
    size_wh: tuple[int, int] = (0, 0)
    pixel_aspect: Fraction = Fraction(1)
    rate: int = 0
    channels: int = 0
    orientation: tuple[bool, int | None] = (False, None)
    template: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class MediaPacket:
    """One packet, shared by all who need it and never changed.

    Attributes:
        format: of its stream.
        data: its content.
        time_s: when it is shown or heard, as `Frame.pts_s`.
        decode_time_s: when it is decoded; rises from packet to packet of a stream, and is at most `time_s`.
        duration_s: 0 where unknown.
        is_key: whether decoding can begin with it; always for sound.
        captured_at_s: when it arrived, by `time.perf_counter`.
    """

    format: PacketFormat
    data: memoryview | bytes
    time_s: float
    decode_time_s: float
    duration_s: float
    is_key: bool
    captured_at_s: float

    @property
    def is_video(self) -> bool:
        """Whether it belongs to the pictures."""
        return self.format.kind == "video"
