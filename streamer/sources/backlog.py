"""How far a reader has fallen behind a live stream, told from time stamps and arrival alone."""

from __future__ import annotations

_MEMORY_S = 10.0
_JUMP_S = 10.0
_ALLOWED_S = 0.5


class Backlog:
    """Decides which packets of a live stream to pass over, undecoded, so that pictures stay fresh.

    A packet's delay is its reading time less its time stamp, both on clocks of their own; the least delay of the last
    ten to twenty seconds stands for "not behind", which follows clocks that drift. A reader that is behind by more than
    the key frame interval and half a second goes on at the newest key frame that is waiting, so that nothing is waited
    for. A stream without key frames is read to its end.
    """

    def __init__(self) -> None:
        self._least_s = self._least_before_s = float("inf")
        self._window_began_s = float("-inf")
        self._last_delay_s: float | None = None
        self._key_stamp_s: float | None = None
        self._key_interval_s: float | None = None
        self._passing = False

    def passes_over(self, stamp_s: float | None, is_key: bool, now_s: float) -> bool:
        """Whether to leave the packet just read undecoded.

        Args:
            stamp_s: its decoding or presentation time in seconds, None where it has none.
            is_key: whether decoding can begin with it.
            now_s: `time.perf_counter`.
        """
        if stamp_s is None:
            return self._passing and not is_key
        behind_s = self._behind_s(now_s - stamp_s, now_s)
        if is_key:
            if self._key_stamp_s is not None and stamp_s > self._key_stamp_s:
                self._key_interval_s = stamp_s - self._key_stamp_s
            self._key_stamp_s = stamp_s
        interval_s = self._key_interval_s
        if interval_s is None:
            return False
        if self._passing:
            self._passing = not (is_key and behind_s <= interval_s)
        else:
            self._passing = behind_s > interval_s + _ALLOWED_S
        return self._passing

    def _behind_s(self, delay_s: float, now_s: float) -> float:
        last_s, self._last_delay_s = self._last_delay_s, delay_s
        jumped = last_s is not None and abs(delay_s - last_s) > _JUMP_S  # the stream's clock was set anew
        if jumped:
            self._least_s = self._least_before_s = float("inf")
            self._key_stamp_s = None
            self._passing = False
        if jumped or now_s - self._window_began_s > _MEMORY_S:
            self._window_began_s = now_s
            self._least_before_s, self._least_s = self._least_s, delay_s
        self._least_s = min(self._least_s, delay_s)
        return delay_s - min(self._least_s, self._least_before_s)
