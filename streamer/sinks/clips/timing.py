"""How long clips are, and how much of a source's packets they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DETECTOR_DELAY_S: Final = 5.0
"""How long after its packets a live frame's detections may come, and the beginning of its event be known."""
_FILE_DELAY_S = 60.0  # a file's packets may be that far ahead of what is detected, as its own time goes


@dataclass(frozen=True)
class ClipTiming:
    """How long clips are, in seconds.

    Attributes:
        before_s: from the beginning to the event's first frame.
        after_s: from the event's last frame to the end.
        max_s: length from which on the next key frame begins another clip.
    """

    before_s: float = 5.0
    after_s: float = 5.0
    max_s: float = 300.0

    def kept_s(self, *, live: bool) -> float:
        """Returns how many seconds of packets have to be kept, beside the group of pictures that they begin in."""
        return self.before_s + (DETECTOR_DELAY_S if live else _FILE_DELAY_S)


DEFAULT_TIMING: Final = ClipTiming()
