"""Time stamps of packets, put right before any muxer sees them."""

from __future__ import annotations

from typing import NamedTuple

_MAX_STEP_S = 10.0
_MAX_AHEAD_S = 2.0
_NOMINAL_S = 0.04
_TICK_S, _MIN_STEP_S = 1e-6, 1e-4
_REORDERED_S, _MAX_REORDERED_S = 0.2, 0.5
_LEAST_APART_S = 1e-3


class PacketTimes(NamedTuple):
    """When a packet is shown and decoded, in seconds; the second rises from packet to packet."""

    time_s: float
    decode_time_s: float


class PacketClock:
    """Puts the time stamps of one stream's packets, in the order of decoding, on a line without jumps.

    A stamp that is missing, doubled, goes back or leaps by more than ten seconds continues one duration after the
    packet before. If the packets after it go on from there the whole stream has moved, and so do they; if not, it was a
    stray stamp, and they are where they would have been. Containers leave out the decoding times of the first packets
    where pictures are reordered: they are decoded a millisecond apart, and shown when their stamps say.

    Attributes:
        repaired: packets whose stamps were put right.
        shift_s: added to stamps since the stream has moved.
    """

    def __init__(self) -> None:
        self.repaired = 0
        self.shift_s = 0.0
        self._last_s: float | None = None  # decoding time of the packet before, as returned
        self._last_stamp_s: float | None = None  # as it came
        self._duration_s = _NOMINAL_S  # the usual time between two

    def at(self, pts_s: float | None, dts_s: float | None, duration_s: float) -> PacketTimes:
        """Returns the times of the next packet.

        Args:
            pts_s: its presentation time stamp.
            dts_s: its decoding time stamp.
            duration_s: 0 where unknown.
        """
        last_s = self._last_s
        if dts_s is None and pts_s is not None:
            dts_s = pts_s
            if last_s is not None and -_MAX_AHEAD_S <= pts_s + self.shift_s - last_s <= _MAX_STEP_S:
                dts_s = min(pts_s, max(last_s - self.shift_s + _LEAST_APART_S, pts_s - _REORDERED_S))
        if dts_s is None:
            decode_s = 0.0 if last_s is None else last_s + self._duration_s
            self.repaired += last_s is not None
            return self._placed(decode_s, decode_s)
        decode_s = self._decode_s(dts_s, duration_s)
        self._last_stamp_s = dts_s
        shown_s = decode_s if pts_s is None else pts_s + (decode_s - dts_s)
        if pts_s is not None and last_s is not None and -_MAX_REORDERED_S < dts_s + self.shift_s - last_s < 0:
            shown_s = pts_s + self.shift_s
        if not 0 <= shown_s - decode_s <= _MAX_AHEAD_S:
            shown_s = decode_s
            self.repaired += 1
        return self._placed(shown_s, decode_s)

    def _decode_s(self, dts_s: float, duration_s: float) -> float:
        """Returns where a decoding time stamp belongs, which may still be where the packet before is."""
        last_s, last_stamp_s = self._last_s, self._last_stamp_s
        decode_s = dts_s + self.shift_s
        if last_s is None:
            return decode_s
        step_s = decode_s - last_s
        if 0 < step_s <= _MAX_STEP_S:
            if _MIN_STEP_S < step_s < 1.0:
                self._duration_s = duration_s or step_s
            return decode_s
        if -_MAX_REORDERED_S < step_s < 0:  # behind an estimate
            return last_s
        self.repaired += 1
        moved_s = None if last_stamp_s is None else dts_s - last_stamp_s
        if moved_s is not None and 0 < moved_s <= _MAX_STEP_S:  # goes on from the stamp before: it has moved
            self.shift_s = last_s + moved_s - dts_s
            return last_s + moved_s
        return last_s + self._duration_s

    def _placed(self, time_s: float, decode_s: float) -> PacketTimes:
        if self._last_s is not None and decode_s <= self._last_s:
            decode_s = self._last_s + _TICK_S
        self._last_s = decode_s
        return PacketTimes(max(time_s, decode_s), decode_s)
