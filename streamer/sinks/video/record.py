"""A source recorded as it came: its own packets, without encoding, and what was detected beside them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from streamer.common.errors import SinkError, counted
from streamer.common.queues import Closed
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sinks.base import DiskUse, Sink, WriteError
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.jsonl import LineFormat
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import Boundaries
from streamer.sinks.video.captions import caption
from streamer.sinks.video.disk_use import DiskUseMeter
from streamer.sinks.video.packet_file import PacketFile
from streamer.sinks.video.recorded_files import Found, RecordedFiles, Span
from streamer.sources.base import SourceInfo
from streamer.sources.packet_tap import PacketReader, PacketTap

log = logging.getLogger(__name__)

_POLL_S = 0.2
_SOUND_WAIT_S = 1.0  # of pictures, until a recording begins without sound
_PROBED_SOUND = 4
_RETRY_S = 10.0
_PATIENCE_S = 10.0
_MOST_UNPLACED = _MOST_SOUND = 4096


class RecordSink(Sink):
    """Writes a source's packets into a video file or segments, and beside each a ``.jsonl`` and a ``.vtt`` file.

    A thread of its own takes packets from the source's tap, so that neither detection nor dropped frames hold it up. It
    begins with the key frame before the run's first frame; segments begin with the first key frame that is due. Where
    the camera's codec, size or sound changes, a new file begins. Times in the files beside it count from the beginning
    of the video.
    """

    needs_pixels = False

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        tap: PacketTap,
        *,
        labels: Sequence[str],
        options: SinkOptions = DEFAULT_SINK_OPTIONS,
        retention: SegmentRetention | None = None,
        paths: OutputPaths | None = None,
    ) -> None:
        """Checks that `path` can be written.

        Args:
            path: the video; its suffix is one of `streamer.sinks.spec.RECORD_ENDINGS`.
            source: what is recorded.
            tap: its packets.
            labels: class names by class id.
            options: whether and how it is segmented, whether sound is recorded.
            retention: deletes old segments; None keeps all.
            paths: the paths of the run; None for a run of its own.

        Raises:
            ConfigError: if another run is writing there.
            SinkError: if it can't be written.
        """
        self._source, self._tap, self._options = source, tap, options
        self._files = RecordedFiles(path, retention, paths or OutputPaths(), is_segmented=options.segment_s is not None)
        self._lines = LineFormat(labels, live=source.live, rounded=options.rounded)
        self._labels = tuple(labels)
        self._boundaries = Boundaries(options.segment_s or math.inf, None)
        self._is_due = False
        self._reader: PacketReader | None = None
        self._lost = 0
        self._first: list[MediaPacket] = []  # pictures of the next file, until it is known whether it has sound
        self._sound: deque[MediaPacket] = deque(maxlen=_MOST_SOUND)  # that pictures haven't reached
        self._file: PacketFile | None = None
        self._ending: tuple[PacketFile, MediaPacket] | None = None  # the file before and the key frame behind it
        self._pictures: PacketFormat | None = None
        self._retry_at_s = -math.inf
        self._lock = threading.Lock()
        self._spans: list[Span] = []  # whose detections may still come
        self._unplaced: deque[Found] = deque(maxlen=_MOST_UNPLACED)  # of frames that aren't recorded yet
        self._recorded_s = -math.inf
        self._anchor: tuple[datetime, float] | None = None  # a frame's capture time, UTC, and its `pts_s`
        self._written_bytes = 0
        self._meter = DiskUseMeter(path.name, is_live=source.live)
        self._has_warned = False
        self._error: WriteError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"record {source.name}", daemon=True)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Adds what was detected to the files beside the video; the first frame begins the recording.

        Raises:
            WriteError: once a recording in one file has failed.
        """
        if self._reader is None:
            self._anchor = captured_utc(frame), frame.pts_s
            # a file's packets wait for the recording, from its first one on; a camera's don't
            self._reader = self._tap.read_from(frame.pts_s, is_patient=not self._source.live)
            self._thread.start()
        self._warn_without_packets(frame.pts_s)
        with self._lock:
            if self._error is not None and self._options.segment_s is None:
                raise self._error
            self._unplaced.append(
                Found(frame.pts_s, self._lines.content(frame, detections), caption(detections, self._labels))
            )
            self._place()

    def close(self) -> None:
        """Writes what has come until now, and finishes the files; raises the first error of any."""
        self._stopping.set()
        if self._reader is not None:
            self._thread.join()
            self._reader.close()
            self._reader = None
        with self._lock:
            self._recorded_s = math.inf
            self._place()
            self._close_spans(math.inf)
            self._files.close()
            error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def written(self) -> tuple[Path, ...]:
        return self._files.written

    @property
    def disk_use(self) -> DiskUse | None:
        return self._meter.use

    def _warn_without_packets(self, pts_s: float) -> None:
        """Says once that frames come, but no packets: as of motion JPEG and snapshots."""
        if self._anchor is None or self._has_warned or pts_s - self._anchor[1] < _PATIENCE_S:
            return
        self._has_warned = True
        if not self._written_bytes and not self._tap.held_bytes:
            log.warning(
                "%s: nothing is recorded: source %r gives pictures but no video packets; use --output",
                self._files.path,
                self._source.name,
            )

    def _run(self) -> None:
        reader = self._reader
        assert reader is not None
        try:
            while True:
                packet = reader.read(0 if self._stopping.is_set() else _POLL_S)
                if packet is not None:
                    self._take(packet)
                elif self._stopping.is_set():
                    break
        except Closed:
            pass
        except SinkError as error:  # a file that isn't segmented can't go on
            self._note(error)
        except Exception as error:
            self._note(WriteError(f"can't record {self._source.name}: {reason(error)}"))
        finally:
            self._end()
            reader.close()  # else a file's source would wait for it

    def _take(self, packet: MediaPacket) -> None:
        """Takes the next packet; a key frame begins the next file where one is due."""
        assert self._reader is not None
        lost, self._lost = self._reader.lost - self._lost, self._reader.lost
        if lost:
            log.warning("%s: %s weren't recorded: the disk is slow", self._files.path, counted(lost, "packet"))
        if not packet.is_video:
            if self._options.audio:
                self._sound.append(packet)
            if self._first:
                self._begin_if_ready(packet)
            return
        self._is_due |= self._boundaries.before(packet.time_s if packet.is_key else packet.decode_time_s) is not None
        is_next = packet.is_key and (self._file is None or self._is_due or packet.format != self._pictures)
        if self._first or (is_next and packet.time_s >= self._retry_at_s):
            self._first.append(packet)
            self._begin_if_ready(packet)
        elif self._file is not None:
            self._append(self._file, packet)
        self._write_sound(packet.decode_time_s)
        if not self._first:  # else it isn't known yet which file they belong to
            with self._lock:
                self._recorded_s = max(self._recorded_s, packet.decode_time_s)

    def _begin_if_ready(self, latest: MediaPacket) -> None:
        """Begins the file whose first packets have come, once it is known whether it has sound."""
        key = self._first[0]
        expects_sound = self._options.audio and self._tap.has_sound
        if (
            not expects_sound
            or latest.time_s - key.time_s > _SOUND_WAIT_S
            or any(each.time_s >= key.time_s for each in self._sound)
        ):
            self._begin()

    def _begin(self) -> None:
        pictures, self._first = self._first, []
        key = pictures[0]
        self._is_due = False
        self._close_ending()
        if self._file is not None:
            self._ending, self._file = (self._file, key), None
            self._end_span(key.time_s)
        sound = [each for each in self._sound if each.time_s >= key.time_s] or list(self._sound)
        assert self._anchor is not None
        begun = self._anchor[0] + timedelta(seconds=key.time_s - self._anchor[1])
        try:
            self._file, beside = self._files.begin(
                begun, lambda path, replaces: PacketFile(path, key, sound[:_PROBED_SOUND], replace=replaces)
            )
        except SinkError as error:
            self._fail(error, key)
            return
        self._pictures = key.format
        with self._lock:
            self._spans.append(Span(self._file.start_s, beside))
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
        if self._ending is not None and until_s > self._ending[1].time_s + _SOUND_WAIT_S:
            self._close_ending()

    def _append(self, file: PacketFile, packet: MediaPacket) -> None:
        try:
            file.write(packet)
            self._written_bytes += len(packet.data)
            if packet.is_video:
                self._meter.add(packet.time_s, self._written_bytes)
        except WriteError as error:
            if self._ending is not None and file is self._ending[0]:
                self._ending = None
                self._note(error)
                return
            self._file = None
            self._end_span(packet.time_s)
            if not file.is_kept:
                self._files.discard()
            self._fail(error, packet)

    def _close_ending(self) -> None:
        """Finishes the file before, which lasts until the next one begins."""
        ending, self._ending = self._ending, None
        if ending is not None:
            self._close_file(ending[0], ending[1].decode_time_s)

    def _close_file(self, file: PacketFile, next_s: float | None) -> None:
        try:
            file.close(next_s)
        except WriteError as error:
            self._note(error)

    def _end(self) -> None:
        with contextlib.suppress(SinkError):
            if self._first:
                self._begin()
            self._write_sound(math.inf)
        self._close_ending()
        file, self._file = self._file, None
        if file is not None:
            self._close_file(file, None)
        self._meter.finish(self._written_bytes)

    def _fail(self, error: SinkError, packet: MediaPacket) -> None:
        """Notes an error; segments go on ten seconds later, a single file doesn't."""
        if self._options.segment_s is None:
            raise error
        self._note(error)
        self._retry_at_s = packet.time_s + _RETRY_S
        self._is_due = True

    def _note(self, error: SinkError) -> None:
        log.warning("%s", error)
        noted = error if isinstance(error, WriteError) else WriteError(str(error))
        with self._lock:
            self._error = self._error or noted

    def _end_span(self, end_s: float) -> None:
        with self._lock:
            if self._spans:
                self._spans[-1].end_s = end_s

    def _place(self) -> None:
        """Writes detections beside the recording that has their frame; with the lock held."""
        while self._unplaced and self._unplaced[0].pts_s <= self._recorded_s:
            found = self._unplaced.popleft()
            span = next((each for each in self._spans if each.holds(found.pts_s)), None)
            if span is not None:
                span.write(found)
            self._close_spans(found.pts_s)

    def _close_spans(self, pts_s: float) -> None:
        """Closes the files beside recordings that no later frame belongs to; with the lock held."""
        for span in [each for each in self._spans if each.end_s <= pts_s]:
            self._spans.remove(span)
            span.close()
