"""A live stream's timeline: its own time stamps, as far as they fit the arrival of its frames."""

from __future__ import annotations

_JUMP_S, _JUMP_INTERVALS = 0.25, 2.0
_LONGEST_INTERVAL_S, _FORGETS = 1.0, 0.9
_AHEAD_S, _BEHIND_S = 1.0, 10.0
_JOIN_S, _MOST_BUFFERED_S = 30.0, 30.0
_WINDOW_S, _TOLERANCE_S, _SLEW = 15.0, 0.5, 0.05


class ArrivalClock:
    """Turns a live stream's time stamps into `pts_s`, which start at 0, never go back, and keep to arrival.

    A stamp's lead is how far it is ahead of the time passed since the first frame. A frame can't arrive before it was
    made, so a stamp that leads by more than the largest lead so far is wrong, and so is one before the last. A single
    wrong stamp is stray: its frame is timed by arrival, and the next stamp that fits continues. Two in a row that fit
    each other are a clock that was set: the timeline continues from where it is. A missing stamp, and one that repeats
    the last, are replaced by arrival too.

    Late stamps are valid: networks delay frames and deliver them in bursts. Clock drift shows in the largest lead of
    each 15 s: above half a second, `pts_s` is corrected by up to 5 % of the time passed. So `pts_s` is at most 1 s
    ahead of arrival, plus what a server had buffered when the stream was joined (30 s at most); and it isn't more than
    10 s behind for longer than 15 s, unless frames are read too late to be waited for.

    Attributes:
        misfits: number of wrong stamps.
        last_misfit_s: how far the last one was ahead of the expected time; negative where it was behind.
    """

    def __init__(self, frame_s: float) -> None:
        """Takes the nominal length of a frame in seconds."""
        self.misfits, self.last_misfit_s = 0, 0.0
        self._interval_s = min(frame_s, _LONGEST_INTERVAL_S)  # recent, between two stamps that fitted
        self._first_arrived_s: float | None = None
        self._arrived_s = self._last_s = 0.0
        self._zero_s: float | None = None  # the stamp that is 0 on the timeline
        self._stamp_s: float | None = None  # the last that fitted
        self._doubted: tuple[float, float] | None = None  # the last that didn't fit, and its arrival
        self._repeats = 0
        self._fits = False  # whether the last frame's stamp did
        self._buffered_s = 0.0  # the lead of a frame that is neither early nor late
        self._lead_s = 0.0
        self._window_began_s = 0.0
        self._best_lead_s, self._has_waited = float("-inf"), False
        self._to_correct_s = 0.0

    def at(self, stamp_s: float | None, arrived_s: float, *, waited: bool) -> float:
        """Returns the next frame's `pts_s`.

        Args:
            stamp_s: its own time stamp, None where it has none.
            arrived_s: when it was read, by `time.perf_counter`.
            waited: whether reading it had to wait; else it arrived at some earlier time.
        """
        if self._first_arrived_s is None:
            self._first_arrived_s = self._arrived_s = self._window_began_s = arrived_s
            self._zero_s = stamp_s
            if stamp_s is not None:
                self._stamp_s, self._fits = stamp_s, True
            return 0.0
        passed_s = max(0.0, arrived_s - self._arrived_s)
        self._arrived_s = max(arrived_s, self._arrived_s)
        by_arrival_s = self._by_arrival_s(passed_s, waited=waited)
        placed_s = self._by_stamp(stamp_s, by_arrival_s, passed_s, waited=waited)
        self._fits = placed_s is not None
        self._last_s = max(self._last_s, by_arrival_s if placed_s is None else placed_s)
        return self._last_s

    def _by_arrival_s(self, passed_s: float, *, waited: bool) -> float:
        """Returns a frame's time by the time passed since the one before."""
        if not waited:  # it arrived at an unknown time
            most_s = self._elapsed_s + self._buffered_s + _AHEAD_S
            return min(self._last_s + self._interval_s, max(self._last_s, most_s))
        # One frame may be late, which the next stamp that fits corrects; several in a row aren't.
        return self._last_s + (min(passed_s, self._interval_s) if self._fits else passed_s)

    @property
    def _elapsed_s(self) -> float:
        return self._arrived_s - (self._first_arrived_s or 0.0)

    def _by_stamp(self, stamp_s: float | None, by_arrival_s: float, passed_s: float, *, waited: bool) -> float | None:
        """Returns a frame's time by its stamp, None where that is missing or doesn't fit."""
        if stamp_s is None:
            return None
        if self._zero_s is None:  # the first stamp
            self._zero_s = stamp_s - by_arrival_s
        if stamp_s == self._stamp_s:
            self._repeats += 1
            if self._repeats > 1:  # two pictures with one stamp may be two halves of a frame
                self._note_misfit(stamp_s - self._zero_s - by_arrival_s)
            return None
        elapsed_s = self._elapsed_s
        lead_s = stamp_s - self._zero_s - elapsed_s
        if (self._stamp_s is not None and stamp_s < self._stamp_s) or lead_s > max(
            self._buffered_s, self._lead_s
        ) + self._jump_s:
            self._note_misfit(stamp_s - self._zero_s - by_arrival_s)
            if not self._is_confirmed(stamp_s):
                return None
            self._zero_s = stamp_s - by_arrival_s
            lead_s = by_arrival_s - elapsed_s
        elif self._stamp_s is not None:
            self._interval_s = min(_LONGEST_INTERVAL_S, max(stamp_s - self._stamp_s, self._interval_s * _FORGETS))
        self._doubted, self._repeats, self._stamp_s = None, 0, stamp_s
        correction_s = self._correction_s(passed_s) + self._excess_s(lead_s, elapsed_s, waited=waited)
        self._zero_s += correction_s
        self._lead_s = lead_s - correction_s
        self._measure_drift(waited=waited)
        return self._lead_s + elapsed_s

    @property
    def _jump_s(self) -> float:
        """A stamp that is off by more is wrong: each frame of a burst is ahead by its interval."""
        return _JUMP_S + _JUMP_INTERVALS * self._interval_s

    def _note_misfit(self, by_s: float) -> None:
        self.misfits += 1
        self.last_misfit_s = by_s

    def _is_confirmed(self, stamp_s: float) -> bool:
        """Whether a stamp that doesn't fit continues the one before, which didn't either."""
        doubted, self._doubted = self._doubted, (stamp_s, self._arrived_s)
        if doubted is None:
            return False
        step_s, passed_s = stamp_s - doubted[0], self._arrived_s - doubted[1]
        return step_s > 0 and abs(step_s - passed_s) <= self._jump_s

    def _excess_s(self, lead_s: float, elapsed_s: float, *, waited: bool) -> float:
        """Returns by how much a lead is too large; a server's buffer, sent on joining, raises the limit."""
        if lead_s > self._buffered_s and elapsed_s < _JOIN_S and not waited:
            self._buffered_s = min(lead_s, _MOST_BUFFERED_S)
        return max(0.0, lead_s - self._buffered_s - _AHEAD_S)

    def _correction_s(self, passed_s: float) -> float:
        """Returns the correction of this frame's time for clock drift."""
        most_s = _SLEW * passed_s
        correction_s = max(-most_s, min(most_s, self._to_correct_s))
        self._to_correct_s -= correction_s
        return correction_s

    def _measure_drift(self, *, waited: bool) -> None:
        """Measures the drift by the largest lead of a window."""
        self._best_lead_s = max(self._best_lead_s, self._lead_s)
        self._has_waited = self._has_waited or waited
        if self._arrived_s - self._window_began_s < _WINDOW_S:
            return
        off_s = self._best_lead_s - self._buffered_s
        if self._has_waited:
            self._to_correct_s = off_s if abs(off_s) > _TOLERANCE_S else 0.0
            if off_s < -_BEHIND_S and self._zero_s is not None:
                self._zero_s += off_s
                self._lead_s -= off_s
                self._to_correct_s = 0.0
                self._note_misfit(off_s)
        self._window_began_s = self._arrived_s
        self._best_lead_s, self._has_waited = float("-inf"), False
