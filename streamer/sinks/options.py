"""What a person may ask of an output, whatever its kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamer.common.errors import nearest
from streamer.common.units import parse_bytes, parse_seconds


@dataclass(frozen=True)
class Retention:
    """How many of a run's segments are kept, of all outputs together: by age, or by size; exactly one of the two.

    Attributes:
        age_s: segments that ended longer ago than this many seconds go.
        size_bytes: the oldest segments go until all together are no larger.
    """

    age_s: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.age_s is None) == (self.size_bytes is None):
            raise ValueError("wanted an age or a size")

    @classmethod
    def parse(cls, text: str) -> Retention:
        """Returns what ``24h`` or ``50GB`` says.

        Raises:
            ValueError: if it is neither an age nor a size.
        """
        try:
            return cls(size_bytes=parse_bytes(text))
        except ValueError:
            pass
        if text.strip()[-1:].isalpha():  # a bare number could be meant either way
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
    """Wishes for recordings; each kind of output takes what concerns it.

    Attributes:
        segment_s: length of the segments of videos and JSON lines in seconds; None writes one file.
        retain: which segments are kept; None keeps all.
        crf: x264's constant rate factor for video files.
    """

    segment_s: float | None = None
    retain: Retention | None = None
    crf: int = DEFAULT_CRF


DEFAULT_SINK_OPTIONS = SinkOptions()
