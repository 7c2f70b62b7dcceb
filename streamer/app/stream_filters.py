"""Which detections each stream reports, and what the detector has to find for that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from streamer.app.config import StreamConfig
from streamer.app.overrides import SourceOverrides
from streamer.detector.filter_options import FilterOptions, lowest
from streamer.tracking.options import chosen_tracker, continuing, require_trackers, said_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamer.detector.base import Detector
    from streamer.frames.detections import Keep
    from streamer.sources.base import SourceInfo
    from streamer.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class StreamFilters:
    """Makes the filter of each stream of a run.

    Attributes:
        detected: the lowest scores and all classes that the detector reports, so that each source finds what it wants.
        labels: class names by class id, once the model is known.
    """

    def __init__(self, config: StreamConfig) -> None:
        """Has the detector report what the sources of `config` want; raises ConfigError if no tracker is installed."""
        if any(_is_tracked(config.overrides_for(spec.name)) for spec in config.source):
            require_trackers()
        self.detected = wanted_of(config)
        self.labels: Sequence[str] = ()
        self._said: set[str] = set()

    def keep_for(self, name: str, overrides: SourceOverrides, info: SourceInfo | None = None) -> Keep | None:
        """Returns what drops detections of a source that aren't to be reported; None reports all that are found.

        `info` is the source, where it is known: the log then says how much of its pictures is ignored.

        Raises:
            ConfigError: if a class is unknown, or a mask picture can't be read.
        """
        from streamer.detector.detection_filter import DetectionFilter

        if not overrides.detect_every:
            return None
        options, found = overrides.filter_options, self.detected
        if not self.finds(options):
            log.warning("source %r wants scores or classes that this run doesn't detect: restart it for them", name)
        if not options.drops_more and (options.conf, options.classes) == (found.conf, found.classes):
            return None
        keep = DetectionFilter(options, self.labels)
        share = keep.ignored_share(info.size_wh) if info is not None and info.size_wh is not None else None
        if share is not None:
            log.log(
                logging.INFO if share else logging.WARNING, "source %r: %.0f %% of it is ignored", name, share * 100
            )
        return keep

    def tracker_for(self, overrides: SourceOverrides) -> Tracker | None:
        """Returns a new tracker for a source, and says once what it goes by; None where nothing is tracked.

        Raises:
            ConfigError: if the trackers aren't installed, or a class is unknown.
        """
        name = chosen_tracker(overrides.track or "off")
        if name is None or not _is_tracked(overrides):
            return None
        from streamer.tracking.tracker import Tracker

        options = overrides.filter_options
        said = said_of(name, options.conf)
        if said not in self._said:
            self._said.add(said)
            log.info("%s", said)
        return Tracker(name, conf=options.conf, classes=options.classes, labels=self.labels)

    def begin_scores(self, overrides: SourceOverrides) -> npt.NDArray[np.float32] | None:
        """Returns the score above which a box of each class begins a track, None where nothing is tracked.

        Raises:
            ConfigError: if a class is unknown.
        """
        if not _is_tracked(overrides):
            return None
        from streamer.detector.detection_filter import thresholds_by_id

        options = overrides.filter_options
        return thresholds_by_id(options.conf, options.classes, self.labels)

    def check(self, config: StreamConfig) -> None:
        """Checks which detections are reported of each source; raises ConfigError as `keep_for`."""
        from streamer.detector.detection_filter import DetectionFilter

        for spec in config.source:
            overrides = config.overrides_for(spec.name)
            if overrides.detect_every:
                DetectionFilter(overrides.filter_options, self.labels)

    def finds(self, options: FilterOptions) -> bool:
        """Whether the detector reports all that `options` want."""
        found, wanted = self.detected, options
        names = {name for each in (found.conf, wanted.conf) for name, _ in each.by_class}
        has_scores = found.conf.default <= wanted.conf.default and all(
            found.conf.of(name) <= wanted.conf.of(name) for name in names
        )
        if not has_scores or found.classes is None:
            return has_scores
        return wanted.classes is not None and set(wanted.classes) <= set(found.classes)

    def missing(self, config: StreamConfig, detectors: Sequence[Detector]) -> FilterOptions | None:
        """Returns what the detectors have to report for `config`; None where they do, or one of them can't change.

        The caller has it reported, after each stream has its filter for that: see `keep_for`.
        """
        wanted = wanted_of(config)
        if self.finds(wanted) or not all(detector.can_report_more for detector in detectors):
            return None
        return union([self.detected, wanted])


def wanted_of(config: StreamConfig) -> FilterOptions:
    """Returns the lowest scores and all classes that any source of a configuration wants."""
    return union([_found_for(config.overrides_for(spec.name)) for spec in config.source])


def _found_for(overrides: SourceOverrides) -> FilterOptions:
    """Returns what the detector has to find for a source: a tracker needs lower scores than are reported."""
    options = overrides.filter_options
    return replace(options, conf=continuing(options.conf)) if _is_tracked(overrides) else options


def _is_tracked(overrides: SourceOverrides) -> bool:
    return overrides.track not in (None, "off") and overrides.detect_every != 0


def union(options: Sequence[FilterOptions]) -> FilterOptions:
    """Returns the lowest scores and all classes that any of several, at least one, wants; nothing else of them."""
    classes: dict[str, None] | None = {}
    for each in options:
        classes = None if classes is None or each.classes is None else classes | dict.fromkeys(each.classes)
    return FilterOptions(lowest([each.conf for each in options]), None if classes is None else tuple(classes))
