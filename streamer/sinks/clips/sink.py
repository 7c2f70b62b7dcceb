"""Clips of one source: from before an event to after it, of the source's own packets or of encoded pictures."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import av

from streamer.common.errors import SinkError, counted
from streamer.common.queues import Closed
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket
from streamer.sinks.base import Sink, WriteError
from streamer.sinks.clips.files import ClipFiles, OpenClip
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.snapshot import Snapshot
from streamer.sinks.clips.spans import ClipSpan, ClipSpans
from streamer.sinks.clips.timing import DEFAULT_TIMING, ClipTiming
from streamer.sinks.clips.trigger import Trigger
from streamer.sinks.files import captured_utc, reason
from streamer.sinks.jsonl import LineFormat
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sinks.video.captions import caption
from streamer.sinks.video.packet_encoder import PacketEncoder
from streamer.sinks.video.packet_file import PacketFile
from streamer.sinks.video.packet_recorder import PacketRecorder
from streamer.sinks.video.recorded_files import DetectionFiles, Found
from streamer.sources.base import SourceInfo
from streamer.sources.packet_tap import PacketReader, PacketTap

log = logging.getLogger(__name__)

_RETRY_S = 10.0
_PATIENCE_S = 2.0  # of frames without a packet, until they are encoded here
_IDLE_S, _IDLE_INTERVALS = 10.0, 5
_SAME_TIME_S = 2e-3


class ClipSink(Sink):
    """Writes a clip for each event, beside it a picture and what was detected, and keeps the folder's index.

    A clip is begun when its event is reported, with the packets that the source's tap has kept, and grows until the
    event is over: a run that is killed leaves what plays. Where the source has no packets, or boxes are to be in the
    video, pictures are encoded all the time and the packets of the last seconds kept.

    It writes on the thread that calls `write`; a source that is lost is noticed by `tick`.
    """

    def __init__(
        self,
        folder: ClipFolder,
        source: SourceInfo,
        *,
        labels: Sequence[str],
        trigger: Trigger,
        timing: ClipTiming = DEFAULT_TIMING,
        overlay: bool = False,
        options: SinkOptions = DEFAULT_SINK_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Claims the source's names in the folder.

        Args:
            folder: where clips go.
            source: what they show.
            labels: class names by class id.
            trigger: decides on events; this sink's own.
            timing: how long clips are.
            overlay: whether boxes are in the video, which is encoded for it.
            options: of sound, of encoding, and of numbers in JSON lines.
            clock: monotonic seconds, for what happens while no frame comes.

        Raises:
            ConfigError: if another run writes files of that name.
            SinkError: if they can't be written.
        """
        self.needs_pixels = overlay
        self._source, self._folder, self._trigger, self._timing = source, folder, trigger, timing
        self._options, self._clock, self._labels = options, clock, tuple(labels)
        self._files = ClipFiles(folder, source)
        self._lines = LineFormat(labels, live=source.live, rounded=options.rounded)
        self._snapshot = Snapshot(None if overlay else Annotator(labels))
        self._spans = ClipSpans(timing.before_s, timing.after_s)
        self._beside = DetectionFiles()
        self._recorder = PacketRecorder(self, expects_sound=lambda: options.audio and self._tap.has_sound)
        self._encoder: PacketEncoder | None = None
        self._encoded = PacketTap(timing.kept_s(live=source.live))
        self._tap = self._encoded if overlay or source.packets is None else source.packets
        # an encoder of the source's works while somebody reads; its sound is for the pictures that are encoded here
        self._source_reader = source.packets.read_from(None) if source.packets is not None else None
        self._reader: PacketReader | None = None
        self._held: MediaPacket | None = None  # read, but behind the clip's end as far as is known
        self._lost = 0
        self._written_s = -math.inf
        self._is_due = False
        self._retry_at_s = -math.inf
        self._anchor: tuple[datetime, float] | None = None  # a frame's capture time, UTC, and its packet's time
        self._newest: OpenClip | None = None
        self._frame_at_s, self._interval_s = clock(), 0.0
        self._first_s = self._frame_s = -math.inf
        self._has_warned = False
        self._error: WriteError | None = None
        self._is_closed = False
        self._lock = threading.RLock()
        folder.add(self)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Takes the next frame; writes what of a clip is known to belong to it."""
        with self._lock:
            self._feed(frame)
            time_s = self._tap.time_of(frame.pts_s)
            self._note_frame(frame, time_s)
            line = self._lines.content(frame, detections, self._tap.picture_wh)
            self._beside.add(Found(time_s, line, caption(detections, self._labels)))
            relevant = self._trigger.relevant(detections)
            changes = self._trigger.update(time_s, detections)
            unreported_s = self._trigger.unreported_s
            was_open = self._spans.open is not None
            ended = self._spans.update(changes, min(time_s, unreported_s))
            if not detections.is_reused and (was_open or self._spans.open is not None or unreported_s < math.inf):
                self._snapshot.offer(frame, detections, relevant)
            self._finish(ended)
            for change in changes:
                self._note_object(change.event.label, change.event.score)
            self._continue()

    def tick(self) -> None:
        """Ends the clip of a source that is lost, after ten seconds without a frame, or five times the usual wait."""
        with self._lock:
            idle_s = self._clock() - self._frame_at_s
            if self._is_closed or idle_s < max(_IDLE_S, _IDLE_INTERVALS * self._interval_s):
                return
            if self._spans.open is not None:
                log.info("source %r gives no frames: its clip ends", self._source.name)
                self._end_events()

    def close(self) -> None:
        """Writes what has come until now and finishes the clip; raises the first error of any. Safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._folder.remove(self)
            self._end_events()
            self._beside.close()
            self._files.close()
            if self._source_reader is not None:
                self._source_reader.close()
            error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def written(self) -> tuple[Path, ...]:
        return self._files.written

    @property
    def clips(self) -> int:
        """How many clips it has begun."""
        return self._files.count

    def _note_frame(self, frame: Frame, time_s: float) -> None:
        now_s = self._clock()
        if self._frame_s > -math.inf:
            self._interval_s = now_s - self._frame_at_s
        self._frame_at_s, self._frame_s = now_s, time_s
        if self._source.live or self._anchor is None:  # a file's clips are where they are in the file
            self._anchor = captured_utc(frame), time_s

    def _feed(self, frame: Frame) -> None:
        """Encodes the frame, where packets are made here."""
        packets = self._source.packets
        if self._first_s == -math.inf:
            self._first_s = frame.pts_s
        if not self.needs_pixels and packets is not None and self._newest is None and not self._recorder.is_waiting:
            # a source of pictures alone, such as motion JPEG, has a tap that stays empty
            is_empty = packets.begin_s is None and frame.pts_s - self._first_s >= _PATIENCE_S
            self._read_of(self._encoded if is_empty else packets)
        self._take_sound()
        if self._tap is not self._encoded:
            return
        try:
            if self._encoder is None or not self._encoder.suits(frame):
                self._encoder = PacketEncoder(frame, self._source.fps, self._options.encoding)
            for packet in self._encoder.encode(frame):
                self._encoded.push(packet)
        except (av.FFmpegError, ValueError) as error:
            raise WriteError(f"can't encode clips of {self._source.name}: {reason(error)}") from error

    def _read_of(self, tap: PacketTap) -> None:
        if tap is self._tap:
            return
        self._tap, self._encoder = tap, None
        if self._reader is not None:
            self._reader.close()
        self._reader = self._held = None

    def _take_sound(self) -> None:
        """Takes the source's sound for pictures that are encoded here; other packets of it are read elsewhere."""
        if self._source_reader is None or self._tap is not self._encoded:
            return
        while (packet := _read(self._source_reader)) is not None:
            if not packet.is_video and self._options.audio:
                self._encoded.push(packet)

    def _end_events(self) -> None:
        self._finish(self._spans.update(self._trigger.finish(), math.inf))

    def _continue(self) -> None:
        """Writes the open span as far as it is known."""
        span = self._spans.open
        if span is None:
            begin_s = self._tap.begin_s
            if begin_s is not None:
                self._beside.place(begin_s - _SAME_TIME_S)  # no clip will have earlier frames
            if self._trigger.unreported_s == math.inf:
                self._snapshot.restart()
            return
        for label in span.labels:
            self._note_object(label, 0.0)
        self._write_span(span)
        self._save()

    def _finish(self, ended: Sequence[ClipSpan]) -> None:
        """Finishes spans that are over."""
        for span in ended:
            self._write_span(span)
            self._recorder.finish(span.end_s)
            self._beside.finish(min(span.end_s, self._frame_s) + _SAME_TIME_S)
            if self._reader is not None:
                self._reader.close()
            self._reader = self._held = self._newest = None
            self._is_due = False
            self._snapshot.restart()

    def _write_span(self, span: ClipSpan) -> None:
        """Writes the packets up to a span's end, as far as they have come."""
        if self._reader is None:
            self._reader = self._tap.read_from(span.begin_s + _SAME_TIME_S)
            self._lost = 0
            self._warn_of_short(span)
        while (packet := self._held or _read(self._reader)) is not None:
            self._held = None
            if packet.decode_time_s > span.end_s:
                self._held = packet
                break
            self._take(packet)
        lost, self._lost = self._reader.lost - self._lost, self._reader.lost
        if lost:
            log.warning("a clip of %r lacks %s: the disk is slow", self._source.name, counted(lost, "packet"))

    def _warn_of_short(self, span: ClipSpan) -> None:
        """Says once that less is kept of a source than clips want."""
        begin_s = self._tap.begin_s
        late_s = 0.0 if begin_s is None else begin_s - max(span.begin_s, 0.0, self._written_s)
        if late_s > _SAME_TIME_S and self._tap.is_cut and not self._has_warned:
            self._has_warned = True
            log.warning(
                "a clip of %r begins %.1f s later than wanted: its packets of that time are too large to be kept",
                self._source.name,
                late_s,
            )

    def _take(self, packet: MediaPacket) -> None:
        if packet.decode_time_s <= self._written_s:
            return  # in the clip before
        newest = self._newest
        if newest is not None and packet.is_video:
            self._is_due |= packet.time_s - newest.start_s >= self._timing.max_s
        self._recorder.take(packet, is_due=self._is_due, may_begin=packet.time_s >= self._retry_at_s)
        if packet.is_video:
            self._written_s = packet.decode_time_s
            if not self._recorder.is_waiting:
                self._beside.place(packet.decode_time_s)

    def _note_object(self, label: str, score: float) -> None:
        span = self._spans.open
        if self._newest is not None and span is not None and label in span.labels:
            self._newest.note(label, score)

    def _save(self) -> None:
        """Brings the open clip's picture and row up to date."""
        if self._newest is None:
            return
        try:
            self._files.save(self._newest, self._snapshot)
        except SinkError as error:
            self.note(error)

    def make(self, key: MediaPacket, sound: Sequence[MediaPacket]) -> PacketFile:
        """Makes the next clip; see `PacketFiles`, as of the methods below."""
        is_due, self._is_due = self._is_due, False
        assert self._anchor is not None
        begun = self._anchor[0] + timedelta(seconds=key.time_s - self._anchor[1])
        clip = self._files.begin(begun, key, sound)
        self._beside.begin(key.time_s, clip.beside)
        if self._newest is not None:
            why = f"is {self._timing.max_s:g} s long" if is_due else "can't go on in the same file"
            log.info("a clip of %r %s: the next one begins", self._source.name, why)
            self._snapshot.restart()
        self._newest = clip
        for label in self._spans.open.labels if self._spans.open is not None else ():
            clip.note(label, 0.0)
        return clip.file

    def end(self, end_s: float) -> None:
        """Ends what is written beside the newest clip."""
        self._beside.end(end_s)

    def discard(self) -> None:
        """Forgets the newest clip, of which nothing could be kept."""
        if self._newest is not None:
            self._files.discard(self._newest)
            self._newest = None

    def fail(self, error: SinkError, packet: MediaPacket) -> None:
        """Notes an error; the next key frame ten seconds later begins another clip."""
        self.note(error)
        self._retry_at_s = packet.time_s + _RETRY_S

    def note(self, error: SinkError) -> None:
        """Keeps the first error for `close`."""
        log.warning("%s", error)
        self._error = self._error or (error if isinstance(error, WriteError) else WriteError(str(error)))

    def closed(self, file: PacketFile) -> None:
        """Writes the last state of a clip's row, and of its picture where no other clip has begun."""
        if self._newest is not None and self._newest.file is file:
            self._save()
        self._files.finish(file)


def _read(reader: PacketReader) -> MediaPacket | None:
    try:
        return reader.read(0)
    except Closed:
        return None
