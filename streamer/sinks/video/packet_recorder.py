"""A source's packets into files that begin with key frames, one after the other; sound goes where it belongs."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from streamer.common.errors import SinkError
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sinks.base import WriteError
from streamer.sinks.video.packet_file import PacketFile

SOUND_WAIT_S = 1.0
"""Of pictures, until a file begins without sound."""
PROBED_SOUND = 4
"""Packets of sound that a file is made with."""
_MOST_SOUND = 4096


class PacketFiles(Protocol):
    """What the files of a `PacketRecorder` are."""

    def make(self, key: MediaPacket, sound: Sequence[MediaPacket]) -> PacketFile:
        """Makes the next file, from its key frame and the first packets of its sound; raises SinkError."""

    def end(self, end_s: float) -> None:
        """Notes that pictures from a time on aren't in the newest file."""

    def discard(self) -> None:
        """Forgets the newest file, which is gone."""

    def fail(self, error: SinkError, packet: MediaPacket) -> None:
        """Notes that the next file couldn't be made, or the newest one not be written on; may raise the error."""

    def note(self, error: SinkError) -> None:
        """Notes that a file couldn't be finished."""

    def closed(self, file: PacketFile) -> None:
        """Notes that a file is finished, or has broken off; nothing more is written to it."""


class PacketRecorder:
    """Writes packets into one file after the other, without a gap or a doubled picture between them.

    A file begins with a key frame: with the first that comes, where the pictures' format changes, and when asked to. It
    waits for up to a second of pictures to know whether there is sound. Sound is written into the file that it belongs
    to by its own time.

    Attributes:
        written_bytes: content of all packets written.
    """

    def __init__(self, files: PacketFiles, *, expects_sound: Callable[[], bool]) -> None:
        """Begins without a file; `expects_sound` tells whether sound is to be recorded, and will come."""
        self._files, self._expects_sound = files, expects_sound
        self._first: list[MediaPacket] = []  # pictures of the next file, until it is known whether it has sound
        self._sound: deque[MediaPacket] = deque(maxlen=_MOST_SOUND)  # that pictures haven't reached
        self._file: PacketFile | None = None
        self._ending: tuple[PacketFile, MediaPacket] | None = None  # the file before and the key frame behind it
        self._pictures: PacketFormat | None = None
        self.written_bytes = 0

    @property
    def is_waiting(self) -> bool:
        """Whether it isn't known yet which file the latest pictures belong to."""
        return bool(self._first)

    def take(self, packet: MediaPacket, *, is_due: bool = False, may_begin: bool = True) -> None:
        """Takes the next packet.

        Args:
            packet: pictures or sound.
            is_due: whether the next key frame begins a file though one is open.
            may_begin: whether a file may begin now.

        Raises:
            SinkError: as `PacketFiles.fail` does.
        """
        if not packet.is_video:
            self._sound.append(packet)
            if self._first:
                self._begin_if_ready(packet)
            return
        is_next = packet.is_key and (self._file is None or is_due or packet.format != self._pictures)
        if self._first or (is_next and may_begin):
            self._first.append(packet)
            self._begin_if_ready(packet)
        elif self._file is not None:
            self._append(self._file, packet)
        self._write_sound(packet.decode_time_s)

    def finish(self, until_s: float = math.inf) -> None:
        """Finishes the open file with the sound up to a time, and drops later sound; errors are noted."""
        with contextlib.suppress(SinkError):
            if self._first:
                self._begin()
            self._write_sound(until_s)
        self._close_ending()
        file, self._file = self._file, None
        if file is not None:
            self._close_file(file, None)
        self._first.clear()
        self._sound.clear()

    def _begin_if_ready(self, latest: MediaPacket) -> None:
        """Begins the file whose first packets have come, once it is known whether it has sound."""
        key = self._first[0]
        if (
            not self._expects_sound()
            or latest.time_s - key.time_s > SOUND_WAIT_S
            or any(each.time_s >= key.time_s for each in self._sound)
        ):
            self._begin()

    def _begin(self) -> None:
        pictures, self._first = self._first, []
        key = pictures[0]
        self._close_ending()
        if self._file is not None:
            self._ending, self._file = (self._file, key), None
            self._files.end(key.time_s)
        sound = [each for each in self._sound if each.time_s >= key.time_s] or list(self._sound)
        try:
            self._file = self._files.make(key, sound[:PROBED_SOUND])
        except SinkError as error:
            self._files.fail(error, key)
            return
        self._pictures = key.format
        for packet in pictures:
            if self._file is not None:
                self._append(self._file, packet)
        if not sound:
            self._close_ending()

    def _write_sound(self, until_s: float) -> None:
        """Writes sound up to a time of the pictures, into the file that it belongs to by its own time."""
        if self._first:
            return  # until it is known where they begin
        while self._sound and self._sound[0].time_s <= until_s:
            packet = self._sound.popleft()
            if self._ending is not None and packet.time_s < self._ending[1].time_s:
                self._append(self._ending[0], packet)
            elif self._file is not None:
                self._close_ending()
                self._append(self._file, packet)
        if self._ending is not None and until_s > self._ending[1].time_s + SOUND_WAIT_S:
            self._close_ending()

    def _append(self, file: PacketFile, packet: MediaPacket) -> None:
        try:
            file.write(packet)
            self.written_bytes += len(packet.data)
        except WriteError as error:
            if self._ending is not None and file is self._ending[0]:
                self._ending = None
                self._files.note(error)
                self._files.closed(file)
                return
            self._file = None
            self._files.end(packet.time_s)
            if not file.is_kept:
                self._files.discard()
            self._files.closed(file)
            self._files.fail(error, packet)

    def _close_ending(self) -> None:
        """Finishes the file before, which lasts until the next one begins."""
        ending, self._ending = self._ending, None
        if ending is not None:
            self._close_file(ending[0], ending[1].decode_time_s)

    def _close_file(self, file: PacketFile, next_s: float | None) -> None:
        try:
            file.close(next_s)
        except WriteError as error:
            self._files.note(error)
        self._files.closed(file)
