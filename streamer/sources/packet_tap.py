"""The last seconds of a source's packets, kept once for all who need them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from streamer.common.queues import Closed
from streamer.frames.packets import MediaPacket

DEFAULT_KEPT_S = 15.0
DEFAULT_MAX_BYTES = 64 << 20

_LEAST_LEAD_S, _MOST_LEADS = 5e-4, 256


class PacketTap:
    """A source's packets across its connections: at least those of the last seconds, from a key frame on.

    Groups of pictures are dropped whole, with the sound before the next group's key frame, once a later group reaches
    as far back as wanted, or all together hold more than `max_bytes`. The source pushes on one thread at a time, any
    number of readers read on their own.

    Attributes:
        picture_wh: size of the upright pictures, where they are others than the source's frames: of the main stream
            beside one that is detected on.
    """

    picture_wh: tuple[int, int] | None = None

    def __init__(self, kept_s: float = DEFAULT_KEPT_S, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Begins empty.

        Args:
            kept_s: length of what is kept, in seconds; the group of pictures that it begins in is kept too.
            max_bytes: most content of the packets that are kept.

        Raises:
            ValueError: if one of them isn't above 0.
        """
        if kept_s <= 0 or max_bytes <= 0:
            raise ValueError(f"wanted a length and a size above 0, got {kept_s:g} s and {max_bytes} bytes")
        self._kept_s, self._max_bytes = kept_s, max_bytes
        self._changed = threading.Condition()
        self._packets: deque[MediaPacket] = deque()
        self._keys: deque[tuple[int, float]] = deque()  # number and time of each key frame that is kept
        self._first = 0  # number of the first packet that is kept
        self._bytes = 0
        self._is_cut = False
        self._closed = self._has_sound = False
        self._leads: deque[tuple[float, float]] = deque([(-math.inf, 0.0)], maxlen=_MOST_LEADS)
        self._readers: list[PacketReader] = []

    @property
    def has_sound(self) -> bool:
        """Whether the source has sound, as far as is known."""
        return self._has_sound

    def expect_sound(self) -> None:
        """Notes that packets of sound will come."""
        self._has_sound = True

    @property
    def held_bytes(self) -> int:
        """Content of the packets that are kept."""
        return self._bytes

    @property
    def newest_key(self) -> MediaPacket | None:
        """The newest key frame that is kept."""
        with self._changed:
            return self._packets[self._keys[-1][0] - self._first] if self._keys else None

    @property
    def held_s(self) -> float:
        """Time from the first key frame that is kept to the last packet."""
        with self._changed:
            return max(0.0, self._packets[-1].time_s - self._keys[0][1]) if self._keys else 0.0

    @property
    def begin_s(self) -> float | None:
        """Time of the first key frame that is kept, None where there is none."""
        with self._changed:
            return self._keys[0][1] if self._keys else None

    @property
    def is_cut(self) -> bool:
        """Whether less is kept than the wanted length, as the packets of that time are larger than `max_bytes`."""
        return self._is_cut

    def time_of(self, pts_s: float) -> float:
        """Returns when the packet of a frame is shown, for the frame's `pts_s`.

        They differ where a live source's time stamps don't keep to arrival, as behind a camera whose clock was set: its
        packets are muxed by their stamps, while `pts_s` goes on.
        """
        with self._changed:
            lead_s = next((lead_s for from_s, lead_s in reversed(self._leads) if from_s <= pts_s), self._leads[0][1])
        return pts_s - lead_s

    def note_lead(self, from_s: float, lead_s: float) -> None:
        """Notes by how much frames from a `pts_s` on are later than their packets."""
        with self._changed:
            if abs(self._leads[-1][1] - lead_s) > _LEAST_LEAD_S:
                self._leads.append((from_s, lead_s))

    def push(self, packet: MediaPacket) -> None:
        """Adds the next packet. Packets before the first key frame of pictures aren't kept, sound among them."""
        with self._changed:
            is_key = packet.is_video and packet.is_key
            self._has_sound = self._has_sound or not packet.is_video
            while not self._closed and self._is_ahead(packet):
                self._changed.wait()
            if self._closed or not (self._keys or is_key) or not self._accepts(packet):
                return
            if is_key:
                self._keys.append((self._first + len(self._packets), packet.time_s))
            self._packets.append(packet)
            self._bytes += len(packet.data)
            self._drop(packet.decode_time_s - self._kept_s)
            self._changed.notify_all()
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    def close(self) -> None:
        """Ends it: readers read what is left, then `Closed` is raised. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    def read_from(
        self, time_s: float | None = None, *, wake: Callable[[], None] = lambda: None, is_patient: bool = False
    ) -> PacketReader:
        """Returns a reader of what is kept and all that follows; its first packet is a key frame.

        Args:
            time_s: begins with the key frame at or before that time, or the oldest that is kept. None begins with the
                next key frame that comes.
            wake: called after each packet, and at the end, on the thread that pushes; it must not block.
            is_patient: whether `push` waits for this reader rather than have it lose packets: for files.
        """
        with self._changed:
            at = self._first + len(self._packets)
            if time_s is not None and self._keys:
                at = max((number for number, key_s in self._keys if key_s <= time_s), default=self._keys[0][0])
            reader = PacketReader(self, at, wake, is_patient=is_patient)
            self._readers.append(reader)
            return reader

    def move(self, by_s: float) -> None:
        """Moves what is kept to a later time, as the source's timeline starts over."""
        with self._changed:
            self._packets = deque(moved(packet, by_s) for packet in self._packets)
            self._keys = deque((number, time_s + by_s) for number, time_s in self._keys)
            self._leads = deque(((from_s + by_s, lead_s) for from_s, lead_s in self._leads), maxlen=_MOST_LEADS)

    def _accepts(self, packet: MediaPacket) -> bool:
        """Whether a packet is one of those that are kept now; with the lock held."""
        return True

    def _clear(self) -> None:
        """Drops all that is kept; with the lock held."""
        self._drop_until(self._first + len(self._packets))

    def _is_ahead(self, packet: MediaPacket) -> bool:
        """Whether a patient reader is so far behind that it would lose packets; with the lock held."""
        most_s, most_bytes = self._kept_s / 2, self._max_bytes / 2
        for reader in self._readers:
            waiting = reader.number - self._first
            if not reader.is_patient or not 0 <= waiting < len(self._packets):
                continue
            behind_s = packet.decode_time_s - self._packets[waiting].decode_time_s
            if behind_s > most_s or (self._bytes > most_bytes and waiting < len(self._packets) // 2):
                return True
        return False

    def _drop(self, oldest_s: float) -> None:
        """Drops whole groups that a later one makes unneeded, and those beyond the size; with the lock held."""
        while len(self._keys) > 1 and (self._keys[1][1] <= oldest_s or self._bytes > self._max_bytes):
            self._is_cut = self._keys[1][1] > oldest_s
            self._drop_until(self._keys[1][0])
        if self._bytes > self._max_bytes:  # one group alone is too large
            self._is_cut = True
            self._clear()

    def _drop_until(self, number: int) -> None:
        while self._first < number:
            self._bytes -= len(self._packets.popleft().data)
            self._first += 1
        while self._keys and self._keys[0][0] < number:
            self._keys.popleft()

    def _next(self, number: int, *, is_begun: bool) -> tuple[int, MediaPacket | None, int]:
        """Returns the number behind the next packet for a reader, that packet or None, and how many are lost.

        A reader that has begun and is behind what is kept goes on with the oldest key frame.
        """
        lost = 0
        if number < self._first or not is_begun:
            behind = (key for key, _ in self._keys if key >= number)
            key = next(behind, None)
            if key is None:
                return number, None, 0
            lost = key - number if is_begun else 0
            number = key
        at = number - self._first
        if at >= len(self._packets):
            return number, None, lost
        return number + 1, self._packets[at], lost

    def _forget(self, reader: PacketReader) -> None:
        with self._changed:
            self._readers = [other for other in self._readers if other is not reader]
            self._changed.notify_all()


class PacketReader:
    """Reads a `PacketTap`, on one thread at a time.

    Attributes:
        lost: packets that it was too slow for.
        number: of the next packet.
        is_patient: see `PacketTap.read_from`.
        wake: see `PacketTap.read_from`.
    """

    def __init__(self, tap: PacketTap, number: int, wake: Callable[[], None], *, is_patient: bool) -> None:
        self._tap, self.number, self.wake, self.is_patient = tap, number, wake, is_patient
        self._is_begun = False
        self.lost = 0

    def read(self, timeout_s: float | None = None) -> MediaPacket | None:
        """Returns the next packet, or None if there is none in time; `timeout_s` None waits, 0 doesn't.

        Raises:
            Closed: at the end.
        """
        tap = self._tap
        with tap._changed:
            found = self._take()
            if found is None and not tap._closed and timeout_s != 0:
                tap._changed.wait_for(lambda: tap._closed or self._has_next(), timeout_s)
                found = self._take()
            if found is None and tap._closed:
                raise Closed
            return found

    def close(self) -> None:
        """Reads no more. Safe to call twice."""
        self._tap._forget(self)

    def _has_next(self) -> bool:
        return self._tap._next(self.number, is_begun=self._is_begun)[1] is not None

    def _take(self) -> MediaPacket | None:
        tap = self._tap
        self.number, packet, lost = tap._next(self.number, is_begun=self._is_begun)
        self.lost += lost
        self._is_begun = self._is_begun or packet is not None
        if packet is not None and self.is_patient:
            tap._changed.notify_all()
        return packet


class PacketFeed:
    """The packets of one connection, on its own timeline, on their way to the source's tap.

    It begins with a key frame. Packets that come before the connection's place on the source's timeline is known are
    held back.
    """

    def __init__(self, max_waiting_bytes: int = DEFAULT_MAX_BYTES, *, has_sound: bool = False) -> None:
        """Begins empty.

        Args:
            max_waiting_bytes: most content of packets that are held back.
            has_sound: whether there will be sound among them.
        """
        self._most, self._has_sound = max_waiting_bytes, has_sound
        self._lock = threading.Lock()
        self._waiting: deque[MediaPacket] = deque()
        self._waiting_bytes = 0
        self._tap: PacketTap | None = None
        self._base_s = 0.0
        self._lead = 0.0, 0.0
        self._has_key = self._stopped = False

    def push(self, packet: MediaPacket) -> None:
        """Adds the next packet; on the thread that reads the connection."""
        with self._lock:
            self._has_key = self._has_key or (packet.is_video and packet.is_key)
            if self._stopped or not self._has_key:
                return
            tap, base_s = self._tap, self._base_s
            if tap is None:
                self._waiting.append(packet)
                self._waiting_bytes += len(packet.data)
                while self._waiting_bytes > self._most:
                    self._waiting_bytes -= len(self._waiting.popleft().data)
                return
        tap.push(moved(packet, base_s))

    def note_lead(self, from_s: float, lead_s: float) -> None:
        """As `PacketTap.note_lead`, on the connection's own timeline."""
        with self._lock:
            self._lead = from_s, lead_s
            tap, base_s = self._tap, self._base_s
        if tap is not None:
            tap.note_lead(from_s + base_s, lead_s)

    def attach(self, tap: PacketTap, base_s: float) -> None:
        """Passes on what has come and all that follows, its time 0 at `base_s` of the source's timeline.

        The same tap again moves what it has got so far.
        """
        with self._lock:
            if self._has_sound:
                tap.expect_sound()
            if self._tap is tap:
                tap.move(base_s - self._base_s)
            self._tap, self._base_s = tap, base_s
            from_s, lead_s = self._lead
            waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        tap.note_lead(from_s + base_s, lead_s)
        for packet in waiting:
            tap.push(moved(packet, base_s))

    def stop(self) -> None:
        """Passes nothing more on."""
        with self._lock:
            self._stopped = True
            self._waiting.clear()


def moved(packet: MediaPacket, by_s: float) -> MediaPacket:
    """Returns the same packet at a later time."""
    if not by_s:
        return packet
    return replace(packet, time_s=packet.time_s + by_s, decode_time_s=packet.decode_time_s + by_s)
