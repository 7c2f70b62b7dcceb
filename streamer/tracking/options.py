"""Which tracker follows a source's objects, and the scores that it needs. Values without pixels, parsed once."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from streamer.common.errors import ConfigError, nearest
from streamer.detector.filter_options import ClassThresholds

TrackerName: TypeAlias = Literal["bytetrack", "ocsort", "botsort"]
TrackChoice: TypeAlias = Literal["auto", "bytetrack", "ocsort", "botsort", "off"]

TRACKERS: Final[tuple[TrackerName, ...]] = ("bytetrack", "ocsort", "botsort")
DEFAULT_TRACKER: Final[TrackerName] = "bytetrack"
"""What ``auto`` takes; docs/tracking.md has the measurement."""

LOST_S: Final = 1.0
"""For so long an object that isn't found keeps its id, seconds of the source's own time."""
CONTINUE_SHARE: Final = 0.25
"""A track begins with a box above the lowest score to report, and continues with one above this share of it."""


def chosen_tracker(choice: str) -> TrackerName | None:
    """Returns the tracker that a choice means; None for ``off``.

    Raises:
        ConfigError: if there is no tracker of that name.
    """
    if choice == "off":
        return None
    for name in TRACKERS:
        if choice == name:
            return name
    if choice == "auto":
        return DEFAULT_TRACKER
    known = ("auto", *TRACKERS, "off")
    raise ConfigError(f"there is no tracker {choice!r}{nearest(choice, known)} ({', '.join(known)})")


def continuing(conf: ClassThresholds) -> ClassThresholds:
    """Returns the lowest scores that the detector has to report to a tracker, where `conf` is what is to be shown."""
    return ClassThresholds(
        conf.default * CONTINUE_SHARE, tuple((name, score * CONTINUE_SHARE) for name, score in conf.by_class)
    )


def require_trackers() -> None:
    """Raises ConfigError with the fix if the package of the trackers isn't installed."""
    from importlib.util import find_spec

    if find_spec("trackers") is None:
        raise ConfigError("tracking needs the package trackers: pip install 'nanodet-streamer[track]'")


def said_of(name: TrackerName, conf: ClassThresholds) -> str:
    """Returns in words which scores begin and continue a track."""

    def scores(thresholds: ClassThresholds) -> str:
        by_class = [f"{label} {score:.3g}" for label, score in thresholds.by_class]
        return ", ".join([*by_class, f"{'others ' if by_class else ''}{thresholds.default:.3g}"])

    low = "" if name == "ocsort" else f", lower ones from {scores(continuing(conf))} on continue one unseen"
    return (
        f"tracking with {name}: boxes are reported and begin a track above {scores(conf)}{low}; "
        f"an object has its id from its second frame on, and keeps it for {LOST_S:g} s without a box"
    )
