"""What the page knows of one source: its packets, its newest frame, and what was detected in the last seconds."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.packets import PacketFormat
from streamer.sources.base import SourceInfo
from streamer.web.fragments import PLAYABLE_CODECS

_KEPT_S = 30.0
_MOST_KEPT = 4096


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """One processed frame.

    Attributes:
        frame: as captured, without boxes.
        detections: what was found in it, in pixels of the frame.
    """

    frame: Frame
    detections: Detections


@dataclass(frozen=True, eq=False)
class Found:
    """What was detected at one moment.

    Attributes:
        number: of this, from 1 on.
        pts_s: of the frame.
        detections: in pixels of the frame.
        size_wh: of the frame.
    """

    number: int
    pts_s: float
    detections: Detections
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class LiveStatus:
    """A stream of the page at one moment.

    Attributes:
        name: the source's.
        size_wh: of its newest frame, in pixels; of the source before the first, or None.
        counts: objects in the newest frame, by label.
        viewers: how many watch it live.
        viewer_skips: how often a slow viewer was moved on to a later key frame.
        codec: FFmpeg's name of its packets' codec; None where the source keeps none.
        view: whether viewers get the source's own packets or encoded pictures.
        lost_s: seconds since its last frame while a live source reconnects, else None.
        is_ended: whether no more frames come.
    """

    name: str
    size_wh: tuple[int, int] | None
    counts: dict[str, int]
    viewers: int
    viewer_skips: int
    codec: str | None
    view: str
    lost_s: float | None
    is_ended: bool


class LiveStream:
    """One source on the page. The sink publishes on one thread at a time; everything else may be called on any.

    Attributes:
        info: the source.
        labels: class names by class id.
        viewers: how many watch it live; set on the server's thread only, as are the other counters.
        viewer_skips: how often a slow viewer was moved on to a later key frame.
        skipped_frames: how many frames slow viewers have missed so.
    """

    def __init__(
        self, info: SourceInfo, labels: Sequence[str] = (), lost_s: Callable[[], float | None] = lambda: None
    ) -> None:
        """Begins without a frame.

        Args:
            info: the source.
            labels: class names by class id.
            lost_s: returns how long the source has been lost, None while it isn't.
        """
        self.info, self.labels = info, tuple(labels)
        self.viewers = self.viewer_skips = self.skipped_frames = 0
        self._lost_s = lost_s
        self._lock = threading.Lock()
        self._newest: SeenFrame | None = None
        self._found: deque[Found] = deque(maxlen=_MOST_KEPT)
        self._count = 0
        self._is_ended = False
        self._watchers: tuple[Callable[[], None], ...] = ()

    @property
    def name(self) -> str:
        """The source's name."""
        return self.info.name

    @property
    def newest(self) -> SeenFrame | None:
        """The newest frame; None before the first."""
        return self._newest

    @property
    def is_ended(self) -> bool:
        """Whether no more frames come."""
        return self._is_ended

    @property
    def lost_s(self) -> float | None:
        """Seconds since the last frame while a live source reconnects, else None."""
        return None if self._is_ended else self._lost_s()

    @property
    def packets(self) -> PacketFormat | None:
        """What its newest packets are; None where it has none, or none yet."""
        key = None if self.info.packets is None else self.info.packets.newest_key
        return None if key is None else key.format

    def shows_packets(self, entries: Collection[str]) -> bool:
        """Whether a browser that plays sample entries such as ``avc1`` can show its packets as they are.

        MP4 of packets isn't turned, so those of a source that is turned by a quarter can't be.
        """
        packets, newest = self.packets, self._newest
        if packets is None or PLAYABLE_CODECS.get(packets.codec) not in entries:
            return False
        width, height = packets.size_wh
        is_turned = newest is not None and width != height and newest.frame.size_wh == (height, width)
        return not is_turned

    def publish(self, frame: Frame, detections: Detections) -> None:
        """Takes the next processed frame; it is kept until the next one."""
        with self._lock:
            self._newest = SeenFrame(frame, detections)
            self._count += 1
            self._found.append(Found(self._count, frame.pts_s, detections, frame.size_wh))
            while self._found[0].pts_s < frame.pts_s - _KEPT_S:
                self._found.popleft()
            watchers = self._watchers
        for watcher in watchers:
            watcher()

    def end(self) -> None:
        """Notes that no more frames come. The last is kept, unless it is in a GPU's memory. Safe to call twice."""
        with self._lock:
            self._is_ended = True
            if self._newest is not None and self._newest.frame.gpu is not None:
                self._newest = None
            watchers = self._watchers
        for watcher in watchers:
            watcher()

    def found_after(self, number: int) -> list[Found]:
        """Returns what was detected since `Found.number`, oldest first; 0 for all of the last seconds."""
        with self._lock:
            newer = takewhile(lambda found: found.number > number, reversed(self._found))
            return list(newer)[::-1]

    def watch(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Has a function called after each frame and at the end; returns what ends that.

        It is called on the thread that publishes, and must not block.
        """
        with self._lock:
            self._watchers = (*self._watchers, on_change)

        def unwatch() -> None:
            with self._lock:
                self._watchers = tuple(each for each in self._watchers if each is not on_change)

        return unwatch

    def status(self) -> LiveStatus:
        """Returns the stream as it is now."""
        newest, packets = self._newest, self.packets
        counts = Counter[str]()
        if newest is not None:
            counts.update(self.label(class_id) for class_id in newest.detections.class_ids.tolist())
        return LiveStatus(
            name=self.name,
            size_wh=self.info.size_wh if newest is None else newest.frame.size_wh,
            counts=dict(counts),
            viewers=self.viewers,
            viewer_skips=self.viewer_skips,
            codec=None if packets is None else packets.codec,
            view="packets" if self.shows_packets(PLAYABLE_CODECS.values()) else "encoded",
            lost_s=self.lost_s,
            is_ended=self._is_ended,
        )

    def label(self, class_id: int) -> str:
        """Returns the name of a class, its id in digits where it isn't known."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)
