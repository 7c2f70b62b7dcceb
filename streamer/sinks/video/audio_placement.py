"""Audio packets at their times in a container, each after the one before."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av

from streamer.sinks.video.audio_remuxer import copy_of

SAME_PICTURE_S = Fraction(1, 1000)
# Max. ticks between two packets that FFmpeg writes: MP4 counts in 31 bits, AVI pads with at most 60,000 empty ones.
MAX_TICKS = {"mp4": 2**31 - 2, "mov": 2**31 - 2, "avi": 59_999}


def lead_in_of_encoded(kind: str) -> Fraction | None:
    """Returns `PacketPlacer.early_s` of what `AudioEncoder` writes into a container, by its muxer's name."""
    return Fraction(0) if kind in ("avi", "mpegts") else None


class PacketPlacer:
    """Writes packets of one audio stream.

    Attributes:
        early_s: how long before time zero a packet may begin, None for any time.
        end_s: when the last packet ends, None before the first.
    """

    def __init__(
        self,
        to: av.AudioStream,
        kind: str,
        early_s: Fraction | None,
        mux: Callable[[av.Packet[Any]], None],
    ) -> None:
        """Takes the stream of a container whose muxer is `kind`; `mux` writes a packet."""
        self.early_s = early_s
        self.end_s: Fraction | None = None
        self._to, self._kind, self._mux = to, kind, mux
        self._last: av.Packet[Any] | None = None
        self._last_ticks: int | None = None

    def write_at(self, begins_s: Fraction, packet: av.Packet[Any]) -> None:
        """Writes a packet at its time, but after the previous one; gaps that are too long get copies of that one."""
        tick_s = Fraction(self._to.time_base or 1)
        ticks = round(begins_s / tick_s)
        if self.early_s is not None:
            if begins_s < -self.early_s - SAME_PICTURE_S:
                return
            ticks = max(ticks, -round(self.early_s / tick_s))
        self.end_s = begins_s + (packet.duration or 0) * Fraction(packet.time_base or 1)
        packet.duration = round((packet.duration or 0) * Fraction(packet.time_base or 1) / tick_s)
        if self._last is not None and self._last_ticks is not None:
            ticks = max(ticks, self._last_ticks + (self._kind not in ("matroska", "webm")))
            most = MAX_TICKS.get(self._kind)
            while most is not None and ticks - self._last_ticks > most:
                self._send(copy_of(self._last), self._last_ticks + most, tick_s)
        self._last = copy_of(packet)
        self._send(packet, ticks, tick_s)

    def _send(self, packet: av.Packet[Any], ticks: int, tick_s: Fraction) -> None:
        self._last_ticks = packet.pts = packet.dts = ticks
        packet.time_base = tick_s
        packet.stream = self._to
        self._mux(packet)
