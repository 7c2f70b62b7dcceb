"""Sound and pictures of one connection on one timeline."""

from __future__ import annotations

_APART_S, _FIRST_APART_S = 3.0, 0.5
_WINDOW_S, _TOLERANCE_S = 10.0, 0.1


class AudioClock:
    """Turns the time stamps of audio into the `pts_s` of the pictures beside it.

    Both have time stamps of one clock, so what maps those of the pictures maps those of the audio. In a live stream
    that is checked by arrival, as cameras and relays get it wrong. A time stamp's lead is how far it is ahead of its
    arrival; sound and pictures of one moment have about the same.

    - Audio whose first lead is half a second off that of the pictures begins when it arrives: without RTCP, FFmpeg
      gives the first packet of each stream the same time stamp, however late it is. So does audio that is 3 s off
      later.
    - A clock that drifts shows in the largest lead of each 10 s: audio that gains or loses more than a tenth of a
      second on the pictures is put right.
    """

    def __init__(self, *, live: bool) -> None:
        """Takes whether the stream is live; a file's time stamps are taken as they are."""
        self._live = live
        self._offset_s: float | None = None  # from a picture's stamp to its time
        self._shift_s = 0.0  # what is added for audio
        self._picture_lead_s = 0.0  # of the latest picture
        self._window_began_s: float | None = None
        self._best_picture_s = self._best_audio_s = float("-inf")
        self._usual_s: float | None = None  # by how much the best audio leads the best picture

    def add_picture(self, stamp_s: float | None, pts_s: float, arrived_s: float) -> None:
        """Takes a picture: its own time stamp, its time, and when it was read, by `time.perf_counter`."""
        if stamp_s is not None or self._offset_s is None:
            self._offset_s = pts_s - (stamp_s or 0.0)
        self._picture_lead_s = pts_s - arrived_s
        self._best_picture_s = max(self._best_picture_s, self._picture_lead_s)

    def at(self, stamp_s: float, arrived_s: float) -> float:
        """Returns when audio with a time stamp is heard; there must have been a picture."""
        assert self._offset_s is not None, "the first picture begins the timeline"
        if not self._live:
            return stamp_s + self._offset_s
        lead_s = stamp_s + self._offset_s + self._shift_s - arrived_s
        is_first = self._window_began_s is None
        if abs(lead_s - self._best_picture_s) > (_FIRST_APART_S if is_first else _APART_S):
            self._shift_s += self._best_picture_s - lead_s
            lead_s = self._best_picture_s
            self._restart(arrived_s, usual_s=None)
        self._best_audio_s = max(self._best_audio_s, lead_s)
        if self._window_began_s is None:
            self._window_began_s = arrived_s
        elif arrived_s - self._window_began_s >= _WINDOW_S:
            self._measure_drift(arrived_s)
        return stamp_s + self._offset_s + self._shift_s

    def _measure_drift(self, arrived_s: float) -> None:
        ahead_s = self._best_audio_s - self._best_picture_s
        usual_s = ahead_s if self._usual_s is None else self._usual_s
        if abs(ahead_s - usual_s) > _TOLERANCE_S:
            self._shift_s -= ahead_s - usual_s
        self._restart(arrived_s, usual_s=usual_s)

    def _restart(self, arrived_s: float, *, usual_s: float | None) -> None:
        self._window_began_s, self._usual_s = arrived_s, usual_s
        self._best_audio_s, self._best_picture_s = float("-inf"), self._picture_lead_s
