"""A live stream's time axis: its own time stamps, as far as they fit the times at which its frames arrive."""

from __future__ import annotations

_JUMP_S, _JUMP_INTERVALS = 0.25, 2.0
_LONGEST_INTERVAL_S, _FORGETS = 1.0, 0.9
_AHEAD_S, _BEHIND_S = 1.0, 10.0
_JOIN_S, _MOST_BUFFERED_S = 30.0, 30.0
_WINDOW_S, _TOLERANCE_S, _SLEW = 15.0, 0.5, 0.05


class ArrivalClock:
    """Turns a live stream's time stamps into `pts_s`, which begin at 0, never go back, and keep to arrival.

    A stamp leads by so much as it is ahead of the time that has passed since the first frame. No frame arrives before
    it was made, so a lead beyond the greatest one so far, and a stamp before the last, are wrong. One of them alone is
    stray: its frame is placed by arrival, and the next one that fits goes on as before. The second in a row on a time
    of their own is a sender's clock that was set: the axis goes on from where it is. A missing stamp, and one that
    repeats the last, are placed by arrival too.

    Stamps that are late are believed: frames wait in networks, and come in bursts. A clock that drifts shows in the
    greatest lead of each 15 s: beyond half a second, `pts_s` are brought back by up to a twentieth of the time that
    passes. So `pts_s` is at most 1 s ahead of arrival, beside what a server had buffered when the stream was joined
    (30 s at most); where frames have to be waited for, as they have unless they are read too late, it doesn't stay more
    than 10 s behind for longer than 15 s.

    Attributes:
        misfits: how many stamps didn't fit.
        last_misfit_s: how far the last of them was ahead of what was expected; negative where it was behind.
    """

    def __init__(self, frame_s: float) -> None:
        """Takes a stream that hasn't given a frame yet.

        Args:
            frame_s: the nominal length of a frame in seconds.
        """
        self.misfits, self.last_misfit_s = 0, 0.0
        self._interval_s = min(frame_s, _LONGEST_INTERVAL_S)  # of late, between two stamps that fitted
        self._first_arrived_s: float | None = None
        self._arrived_s = self._last_s = 0.0
        self._zero_s: float | None = None  # the stamp that is 0 on the axis
        self._stamp_s: float | None = None  # the last that fitted
        self._doubted: tuple[float, float] | None = None  # the last that didn't, and its arrival
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
            stamp_s: its own time stamp in seconds, None where it has none.
            arrived_s: when it was there, by `time.perf_counter`.
            waited: whether it had to be waited for, rather than having lain there for an unknown time.
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
        """Returns a frame's time by what has passed since the one before, as far as that is known."""
        if not waited:  # it came at once after the one before, or lay there
            most_s = self._elapsed_s + self._buffered_s + _AHEAD_S
            return min(self._last_s + self._interval_s, max(self._last_s, most_s))
        # One may be late, and the next stamp that fits says more; several in a row can't be.
        return self._last_s + (min(passed_s, self._interval_s) if self._fits else passed_s)

    @property
    def _elapsed_s(self) -> float:
        return self._arrived_s - (self._first_arrived_s or 0.0)

    def _by_stamp(self, stamp_s: float | None, by_arrival_s: float, passed_s: float, *, waited: bool) -> float | None:
        """Returns the time that a stamp says, None where it is missing or doesn't fit."""
        if stamp_s is None:
            return None
        if self._zero_s is None:  # the first that has one
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
        self._look_at_drift(waited=waited)
        return self._lead_s + elapsed_s

    @property
    def _jump_s(self) -> float:
        """By how much a stamp is off that can't be right: frames of a burst are ahead by their interval each."""
        return _JUMP_S + _JUMP_INTERVALS * self._interval_s

    def _note_misfit(self, by_s: float) -> None:
        self.misfits += 1
        self.last_misfit_s = by_s

    def _is_confirmed(self, stamp_s: float) -> bool:
        """Whether a stamp that doesn't fit goes on where the one before did that didn't either."""
        doubted, self._doubted = self._doubted, (stamp_s, self._arrived_s)
        if doubted is None:
            return False
        step_s, passed_s = stamp_s - doubted[0], self._arrived_s - doubted[1]
        return step_s > 0 and abs(step_s - passed_s) <= self._jump_s

    def _excess_s(self, lead_s: float, elapsed_s: float, *, waited: bool) -> float:
        """Returns by how much a lead is too great; what a server sends at once on joining raises what isn't."""
        if lead_s > self._buffered_s and elapsed_s < _JOIN_S and not waited:
            self._buffered_s = min(lead_s, _MOST_BUFFERED_S)
        return max(0.0, lead_s - self._buffered_s - _AHEAD_S)

    def _correction_s(self, passed_s: float) -> float:
        """Returns what is to be taken off this frame's time to follow a clock that drifts."""
        most_s = _SLEW * passed_s
        correction_s = max(-most_s, min(most_s, self._to_correct_s))
        self._to_correct_s -= correction_s
        return correction_s

    def _look_at_drift(self, *, waited: bool) -> None:
        """Learns from the greatest lead of a while how far the axis is off."""
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
