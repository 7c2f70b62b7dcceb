"""Options for recordings."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamer.common.errors import nearest
from streamer.common.units import parse_bytes, parse_seconds


@dataclass(frozen=True)
class Retention:
    """How long the segments of all outputs of a run are kept: by age or by total size, exactly one of them.

    Attributes:
        age_s: maximum time since a segment ended, seconds.
        size_bytes: maximum size of all segments together.
    """

    age_s: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.age_s is None) == (self.size_bytes is None):
            raise ValueError("wanted an age or a size")

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Parses ``24h`` or ``50GB``.

        Raises:
            ValueError: if it is neither an age nor a size.
        """
        try:
            return cls(size_bytes=parse_bytes(text))
        except ValueError:
            pass
        if text.strip()[-1:].isalpha():  # a bare number is ambiguous
            try:
                return cls(age_s=parse_seconds(text))
            except ValueError:
                pass
        raise ValueError("wanted an age such as 24h or a size such as 50GB")


QUALITIES = {"low": 50, "medium": 65, "high": 75, "best": 90}
DEFAULT_QUALITY = "high"


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
    """Returns x264's constant rate factor for a quality of 1 to 100: 50 to 10, 20 for 75."""
    return round(50 - 0.4 * quality)


DEFAULT_CRF = crf_of(QUALITIES[DEFAULT_QUALITY])


@dataclass(frozen=True)
class SinkOptions:
    """Options for recordings; other outputs ignore them.

    Attributes:
        segment_s: length of segments of videos and JSON lines, seconds; None writes one file.
        retain: which segments are kept; None keeps all.
        crf: x264's constant rate factor for video files.
    """

    segment_s: float | None = None
    retain: Retention | None = None
    crf: int = DEFAULT_CRF


DEFAULT_SINK_OPTIONS = SinkOptions()
