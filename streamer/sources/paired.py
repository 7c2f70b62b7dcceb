"""Two streams of one camera: pictures of a small one to detect on, packets of a large one to keep."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import replace

from streamer.common.errors import StreamerError
from streamer.frames.frame import Frame
from streamer.sources.base import Source, SourceInfo, SourceWrapper, as_source_error
from streamer.sources.packet_tap import PacketReader, PacketTap, moved
from streamer.sources.stream_pairing import ArrivalLead, PairedClock

log = logging.getLogger(__name__)

_SETTLE_S = 0.5  # a connection may begin with what its server had kept
_MAX_APART_S = 5.0  # RTCP that says more than arrival is wrong


class PairedSource(SourceWrapper):
    """Frames of the stream that is detected on and, as `info.packets`, the main stream's packets on the same timeline.

    A thread of its own reads the main stream, which was opened for its packets only (`SourceOptions.packets_only`).
    Either stream may be lost, and reconnects alone. Where both tell the camera's own clock (`Source.utc_offset_s`),
    that decides which pictures belong together; else their arrival does, which is off by as much as one stream is
    delayed more than the other.

    Attributes:
        main: the main stream.
    """

    def __init__(self, detected: Source, main: Source, kept_s: float) -> None:
        """Takes over both, which connect by themselves, and starts to read the main one; keeps `kept_s` of it.

        Raises:
            ValueError: if `main` keeps no packets.
        """
        super().__init__(detected)
        packets = main.info.packets
        if packets is None:
            raise ValueError("wanted a main stream that keeps packets")
        self.main, self._packets, self._tap = main, packets, PacketTap(kept_s)
        self._lock = threading.Lock()
        self._own, self._their = ArrivalLead(), ArrivalLead()
        self._clock = PairedClock()
        self._error: StreamerError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._read_main, name=f"packets {detected.info.name}", daemon=True)
        self._thread.start()

    @property
    def info(self) -> SourceInfo:  # type: ignore[override]
        own, main = self._source.info, self.main.info
        return replace(own, uri=main.uri, detected_uri=own.uri, packets=self._tap)

    @property
    def main_reconnects(self) -> int | None:
        return self.main.reconnects

    def wait_ready(self) -> None:
        super().wait_ready()
        self.main.wait_ready()

    def __iter__(self) -> Iterator[Frame]:
        reconnects = self._source.reconnects
        for frame in self._source:
            with self._lock:
                if self._source.reconnects != reconnects:
                    reconnects = self._source.reconnects
                    self._own.restart()
                self._own.add(frame.pts_s, frame.captured_at_s)
            yield frame
        if self._error is not None and not self._is_closed:
            raise self._error

    def interrupt(self) -> None:
        self._is_closed = True
        super().interrupt()
        self.main.interrupt()

    def close(self) -> None:
        self.interrupt()
        self._tap.close()
        super().close()
        self.main.close()

    @property
    def skipped(self) -> tuple[str, ...]:
        return (*super().skipped, *(f"{phrase} of its main stream" for phrase in self.main.skipped))

    def _read_main(self) -> None:
        reader = self._packets.read_from(-math.inf)
        reconnects, settled_s = -1, math.inf
        try:
            for frame in self.main:
                if self.main.reconnects != reconnects:
                    reconnects, settled_s = self.main.reconnects, frame.captured_at_s + _SETTLE_S
                    self._their.restart()
                    self._clock.restart()
                packet_s = self._packets.time_of(frame.pts_s)
                self._their.add(packet_s, frame.captured_at_s)
                self._tap.picture_wh = frame.size_wh
                estimate_s = self._estimate_s(frame.pts_s - packet_s)
                if estimate_s is not None and frame.captured_at_s >= settled_s:
                    self._pass_on(reader, estimate_s)
        except Exception as error:
            self._error = as_source_error(error, self._source.info.name)
            if not self._is_closed:
                log.warning("%s; no more of the main stream is recorded", self._error)
        finally:
            reader.close()
            self._tap.close()

    def _estimate_s(self, late_s: float) -> float | None:
        """Returns what turns times of the main stream's packets into those of the other; None where not known yet.

        `late_s` is by how much the main stream's frames are later than their packets.
        """
        with self._lock:
            own_s, their_s = self._own.lead_s, self._their.lead_s
        if own_s is None or their_s is None:
            return None
        by_arrival_s = own_s - their_s
        own_utc_s, their_utc_s = self._source.utc_offset_s, self.main.utc_offset_s
        if own_utc_s is None or their_utc_s is None:
            return by_arrival_s
        by_clock_s = their_utc_s + late_s - own_utc_s
        return by_arrival_s if abs(by_clock_s - by_arrival_s) > _MAX_APART_S else by_clock_s

    def _pass_on(self, reader: PacketReader, estimate_s: float) -> None:
        """Passes on what has come of the main stream."""
        if self._packets.has_sound:
            self._tap.expect_sound()
        shift_s = estimate_s
        while (packet := reader.read(0)) is not None:
            if packet.is_video:
                shift_s = self._clock.at(packet.decode_time_s, estimate_s)
            self._tap.push(moved(packet, shift_s))
