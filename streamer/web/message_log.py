"""What the viewers of a stream are sent, kept once from a key frame on, and each viewer's place in it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamer.web.fragments import MediaFormat

MOST_FRAMES, MOST_BYTES = 64, 8 << 20
"""By how much a viewer may be behind before it is moved on to a later key frame."""

_MOST_KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message.

    Attributes:
        data: a fragment, or a line of JSON.
        format: of a fragment; None for JSON.
        is_key: whether a viewer can begin with it.
    """

    data: bytes | str
    format: MediaFormat | None = None
    is_key: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    message: Message
    frames_before: int
    bytes_before: int


@dataclass(eq=False)
class Place:
    """A viewer's place in a log.

    Attributes:
        number: of the next message; None waits for a key frame.
        frames: how many pictures came before that, those that it missed included.
        skips: how often it was moved on.
        skipped_frames: pictures that it has missed so.
    """

    number: int | None = None
    frames: int = 0
    skips: int = 0
    skipped_frames: int = 0


class MessageLog:
    """Keeps the newest group of pictures, and those before it that a viewer may still be at. Used on one thread."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._keys: deque[int] = deque()  # numbers of the key frames that are kept
        self._has_begun = False
        self._first = 0
        self._frames = self._bytes = 0  # ever added

    def add(self, message: Message) -> None:
        """Adds a message. What comes before the first key frame isn't kept."""
        if message.is_key:
            self._keys.append(self._first + len(self._kept))
            self._has_begun = True
        if not self._has_begun:
            return
        self._kept.append(_Kept(message, self._frames, self._bytes))
        self._frames += message.format is not None
        self._bytes += len(message.data)
        while len(self._keys) > 1 and self._is_beyond(self._keys[1]):
            self._drop_until(self._keys[1])
        if self._held_bytes > _MOST_KEPT_BYTES:  # one group alone is too large: a viewer that is in time stays so
            self._drop_until(self._first + len(self._kept) // 2)

    def next(self, place: Place) -> tuple[Message | None, int]:
        """Returns a viewer's next message, None if there is none yet, and how many pictures it has missed before that.

        A viewer that is too far behind goes on with the newest key frame.
        """
        missed = 0
        newest_key = self._keys[-1] if self._keys else None
        if place.number is not None and self._is_behind(place.number, newest_key):
            missed = self._frames_before(newest_key) - place.frames
            place.number, place.frames = newest_key, place.frames + missed
            place.skips += 1
            place.skipped_frames += missed
        if place.number is None and newest_key is not None:
            place.number, place.frames = newest_key, self._frames_before(newest_key)
        at = 0 if place.number is None else place.number - self._first
        if place.number is None or at >= len(self._kept):
            return None, missed
        message = self._kept[at].message
        place.number += 1
        place.frames += message.format is not None
        return message, missed

    @property
    def _held_bytes(self) -> int:
        return self._bytes - self._kept[0].bytes_before if self._kept else 0

    def _is_behind(self, number: int, newest_key: int | None) -> bool:
        if number < self._first:
            return True
        if newest_key is None or newest_key <= number:
            return False
        return self._is_beyond(number)

    def _is_beyond(self, number: int) -> bool:
        """Whether a message that is kept is too far back for a viewer."""
        kept = self._kept[number - self._first]
        return self._frames - kept.frames_before > MOST_FRAMES or self._bytes - kept.bytes_before > MOST_BYTES

    def _frames_before(self, number: int | None) -> int:
        """Returns how many pictures came before a message that is kept; None counts all."""
        return self._frames if number is None else self._kept[number - self._first].frames_before

    def _drop_until(self, number: int) -> None:
        while self._first < number:
            self._kept.popleft()
            self._first += 1
        while self._keys and self._keys[0] < number:
            self._keys.popleft()
