"""Measures how far a reader is behind a live stream, by time stamps and waiting times alone."""

from __future__ import annotations

_JUMP_S = 10.0
_TOLERANCE_S = 0.5
WAITED_S = 0.003
_WAITS = 5


class StalePacketFilter:
    """Decides which packets of a live stream to skip undecoded, so that frames stay fresh.

    A packet's delay is the time at which it is read less its time stamp, on two clocks. The least delay counts as not
    behind, and so do the delays of several packets in a row that had to be waited for, which follows clock drift. A
    reader behind by more than the key frame interval and half a second continues at the newest key frame that has
    arrived. A stream without key frames is never skipped.
    """

    def __init__(self) -> None:
        self._zero_s = float("inf")  # the delay that is not behind
        self._last_delay_s: float | None = None
        self._waits = 0
        self._least_waited_s = float("inf")
        self._key_stamp_s: float | None = None
        self._key_interval_s: float | None = None
        self._skipping = False

    def should_skip(self, stamp_s: float | None, is_key: bool, read_at_s: float, waited_s: float) -> bool:
        """Whether to skip the packet just read.

        Args:
            stamp_s: its decoding or presentation time, None where it has none.
            is_key: whether decoding can start with it.
            read_at_s: when it was read, by `time.perf_counter`.
            waited_s: how long reading it took.
        """
        if stamp_s is None:
            return self._skipping and not is_key
        behind_s = self._behind_s(read_at_s - stamp_s, waited_s)
        if is_key:
            if self._key_stamp_s is not None and stamp_s > self._key_stamp_s:
                self._key_interval_s = stamp_s - self._key_stamp_s
            self._key_stamp_s = stamp_s
        interval_s = self._key_interval_s
        if interval_s is None:
            return False
        if self._skipping:
            self._skipping = not (is_key and behind_s <= interval_s)
        else:
            self._skipping = behind_s > interval_s + _TOLERANCE_S
        return self._skipping

    def _behind_s(self, delay_s: float, waited_s: float) -> float:
        last_s, self._last_delay_s = self._last_delay_s, delay_s
        if last_s is not None and abs(delay_s - last_s) > _JUMP_S:  # the stream's clock was set
            self._zero_s = self._least_waited_s = delay_s
            self._key_stamp_s = None
            self._skipping = False
        if waited_s > WAITED_S:
            self._waits += 1
            self._least_waited_s = min(self._least_waited_s, delay_s)
            if self._waits >= _WAITS:
                self._zero_s = self._least_waited_s
        if waited_s <= WAITED_S or self._waits >= _WAITS:
            self._waits, self._least_waited_s = 0, float("inf")
        self._zero_s = min(self._zero_s, delay_s)
        return delay_s - self._zero_s
