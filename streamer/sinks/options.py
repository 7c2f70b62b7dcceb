"""Options for recordings."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from streamer.common.errors import nearest
from streamer.common.units import parse_bytes, parse_seconds


@dataclass(frozen=True)
class Retention:
    """Which segments are kept; the oldest are deleted wherever one of the limits, at least one, is exceeded.

    Attributes:
        age_s: maximum time since a segment ended, seconds.
        size_bytes: maximum size of all segments together.
        free_bytes: what stays free on the file system.
        free_share: what stays free, as a share of the file system, 0 to 1.
        whole_folder: whether all segments in the folders of the outputs count, and not the run's outputs' alone.
    """

    age_s: float | None = None
    size_bytes: int | None = None
    free_bytes: int | None = None
    free_share: float | None = None
    whole_folder: bool = False

    def __post_init__(self) -> None:
        if (self.age_s, self.size_bytes, self.free_bytes, self.free_share) == (None,) * 4:
            raise ValueError("wanted an age, a size, or what stays free")

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Parses ``24h``, ``50GB``, ``20GB-free``, ``10%-free`` or several with commas between, and ``folder``.

        Raises:
            ValueError: if a part is none of these, or one is there twice.
        """
        found: dict[str, Any] = {}
        for part in (each.strip() for each in text.split(",")):
            key, value = _limit(part)
            if key in found:
                raise ValueError(f"wanted one limit of each kind, got {part!r} beside another")
            found[key] = value
        return cls(**found)


def _limit(text: str) -> tuple[str, float | int | bool]:
    """Returns a field of `Retention` and its value."""
    if text == "folder":
        return "whole_folder", True
    free = text.removesuffix("-free")
    percent = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", free)
    if free != text and percent is not None and 0 < float(percent[1]) < 100:
        return "free_share", float(percent[1]) / 100
    with contextlib.suppress(ValueError):
        return ("size_bytes" if free == text else "free_bytes"), parse_bytes(free)
    if text[-1:].isalpha() and free == text:  # a bare number is ambiguous
        with contextlib.suppress(ValueError):
            return "age_s", parse_seconds(text)
    raise ValueError(
        "wanted an age such as 24h, a size such as 50GB, or what stays free, such as 20GB-free or 10%-free"
    )


QUALITIES = {"low": 42, "medium": 52, "high": 68, "best": 90}
DEFAULT_QUALITY = "medium"


def parse_quality(text: str) -> int:
    """Returns a video's quality, 1 (worst) to 100, for such a number or one of the words in `QUALITIES`.

    Raises:
        ValueError: if it is neither.
    """
    word = text.strip().lower()
    number = QUALITIES.get(word, int(word) if re.fullmatch("[0-9]{1,3}", word) else 0)
    if not 1 <= number <= 100:
        raise ValueError(f"wanted {', '.join(QUALITIES)} or a number from 1 to 100{nearest(word, QUALITIES)}")
    return number


def crf_of(quality: int) -> int:
    """Returns x264's constant rate factor for a quality of 1 to 100: 50 to 10, 29 for medium."""
    return round(50 - 0.4 * quality)


DEFAULT_CRF = crf_of(QUALITIES[DEFAULT_QUALITY])


ENCODERS = ("auto", "h264", "h265")
_FAMILIES = ("nvenc", "qsv", "videotoolbox", "amf", "vaapi", "v4l2m2m")
_NAMED_ENCODERS = (
    *("libx264", "libx265"),
    *(f"{codec}_{family}" for codec in ("h264", "hevc") for family in _FAMILIES),
)
_ENCODER_ALIASES = {
    "h.264": "h264",
    "avc": "h264",
    "h.265": "h265",
    "hevc": "h265",
    "x264": "libx264",
    "x265": "libx265",
}


def parse_encoder(text: str) -> str:
    """Returns an encoder's name as `streamer.sinks.video.encoders.choose_encoder` takes it.

    Raises:
        ValueError: if there is none of that name.
    """
    word = text.strip().lower()
    word = _ENCODER_ALIASES.get(word, word)
    if word not in (*ENCODERS, *_NAMED_ENCODERS):
        near = nearest(word, [*ENCODERS, *_NAMED_ENCODERS])
        raise ValueError(f"wanted {', '.join(ENCODERS)} or a name of --list encoders{near}")
    return word


@dataclass(frozen=True)
class Encoding:
    """How video files are encoded.

    Attributes:
        crf: x264's constant rate factor, 0 (lossless) to 51 (worst); other encoders get what looks about the same.
        encoder: as `parse_encoder` returns it.
    """

    crf: int = DEFAULT_CRF
    encoder: str = ENCODERS[0]


DEFAULT_ENCODING = Encoding()


@dataclass(frozen=True)
class SinkOptions:
    """Options for files; outputs that an option isn't for ignore it.

    Attributes:
        segment_s: length of segments of videos, JSON lines and CSV, seconds; None writes one file.
        retain: which segments are kept; None keeps all.
        encoding: of video files.
        audio: whether the source's sound is written into video files.
        rounded: whether JSON lines and CSV have scores with 4 and boxes with 2 decimals, or all digits.
        yolo_scores: whether YOLO labels have the score as a sixth column.
    """

    segment_s: float | None = None
    retain: Retention | None = None
    encoding: Encoding = DEFAULT_ENCODING
    audio: bool = True
    rounded: bool = True
    yolo_scores: bool = False


DEFAULT_SINK_OPTIONS = SinkOptions()
