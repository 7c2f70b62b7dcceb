"""A source recorded as it came: its own packets, without encoding, and what was detected beside them."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from streamer.common.errors import SinkError, counted
from streamer.common.queues import Closed
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket
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
from streamer.sinks.video.packet_recorder import PacketRecorder
from streamer.sinks.video.recorded_files import DetectionFiles, Found, RecordedFiles
from streamer.sources.base import SourceInfo
from streamer.sources.packet_tap import PacketReader, PacketTap

log = logging.getLogger(__name__)

_POLL_S = 0.2
_RETRY_S = 10.0
_PATIENCE_S = 10.0


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
        self._recorder = PacketRecorder(self, expects_sound=lambda: options.audio and tap.has_sound)
        self._beside = DetectionFiles()
        self._retry_at_s = -math.inf
        self._anchor: tuple[datetime, float] | None = None  # a frame's capture time, UTC, and its `pts_s`
        self._meter = DiskUseMeter(path.name, is_live=source.live)
        self._has_warned = False
        self._lock = threading.Lock()
        self._error: WriteError | None = None
        self._stopping = threading.Event()
        self._waiting = tap.read_from()  # so that a source that is encoded for its readers is, from its first frame on
        self._thread = threading.Thread(target=self._run, name=f"record {source.name}", daemon=True)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Adds what was detected to the files beside the video; the first frame begins the recording.

        Raises:
            WriteError: once a recording in one file has failed.
        """
        time_s = self._tap.time_of(frame.pts_s)
        if self._reader is None:
            self._anchor = captured_utc(frame), time_s
            # a file's packets wait for the recording, from its first one on; a camera's don't
            self._reader = self._tap.read_from(time_s, is_patient=not self._source.live)
            self._waiting.close()
            self._thread.start()
        self._warn_without_packets(time_s)
        with self._lock:
            if self._error is not None and self._options.segment_s is None:
                raise self._error
        line = self._lines.content(frame, detections, self._tap.picture_wh)
        self._beside.add(Found(time_s, line, caption(detections, self._labels)))

    def close(self) -> None:
        """Writes what has come until now, and finishes the files; raises the first error of any."""
        self._stopping.set()
        self._waiting.close()
        if self._reader is not None:
            self._thread.join()
            self._reader.close()
            self._reader = None
        self._beside.close()
        self._files.close()
        with self._lock:
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
        if not self._recorder.written_bytes and not self._tap.held_bytes:
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
                # A live source's packets wait in the tap for some seconds, so they are written several at a time, which
                # costs fewer wake-ups; a file's source would wait for this.
                is_stopping = self._stopping.is_set()
                packet = reader.read(0 if is_stopping or self._source.live else _POLL_S)
                if packet is not None:
                    self._take(packet)
                    self._files.prune()
                elif is_stopping:
                    break
                elif self._source.live:
                    self._stopping.wait(_POLL_S)
        except Closed:
            pass
        except SinkError as error:  # a file that isn't segmented can't go on
            self.note(error)
        except Exception as error:
            self.note(WriteError(f"can't record {self._source.name}: {reason(error)}"))
        finally:
            self._end()
            reader.close()  # else a file's source would wait for it

    def _take(self, packet: MediaPacket) -> None:
        """Takes the next packet; a key frame begins the next file where one is due."""
        assert self._reader is not None
        lost, self._lost = self._reader.lost - self._lost, self._reader.lost
        if lost:
            log.warning("%s: %s weren't recorded: the disk is slow", self._files.path, counted(lost, "packet"))
        if packet.is_video:
            self._is_due |= (
                self._boundaries.before(packet.time_s if packet.is_key else packet.decode_time_s) is not None
            )
        elif not self._options.audio:
            return
        self._recorder.take(packet, is_due=self._is_due, may_begin=packet.time_s >= self._retry_at_s)
        if packet.is_video:
            if self._recorder.written_bytes:
                self._meter.add(packet.time_s, self._recorder.written_bytes)
            if not self._recorder.is_waiting:
                self._beside.place(packet.decode_time_s)

    def _end(self) -> None:
        self._recorder.finish()
        self._meter.finish(self._recorder.written_bytes)

    def make(self, key: MediaPacket, sound: Sequence[MediaPacket]) -> PacketFile:
        """Makes the next file; see `PacketFiles`, as of the methods below."""
        self._is_due = False
        assert self._anchor is not None
        begun = self._anchor[0] + timedelta(seconds=key.time_s - self._anchor[1])
        file, beside = self._files.begin(begun, lambda path, replaces: PacketFile(path, key, sound, replace=replaces))
        self._beside.begin(file.start_s, beside)
        return file

    def end(self, end_s: float) -> None:
        """Ends what is written beside the newest file."""
        self._beside.end(end_s)

    def discard(self) -> None:
        """Forgets the newest file."""
        self._files.discard()

    def fail(self, error: SinkError, packet: MediaPacket) -> None:
        """Notes an error; segments go on ten seconds later, a single file doesn't."""
        if self._options.segment_s is None:
            raise error
        self.note(error)
        self._retry_at_s = packet.time_s + _RETRY_S
        self._is_due = True

    def note(self, error: SinkError) -> None:
        """Keeps the first error for `close`."""
        log.warning("%s", error)
        noted = error if isinstance(error, WriteError) else WriteError(str(error))
        with self._lock:
            self._error = self._error or noted

    def closed(self, file: PacketFile) -> None:
        """Does nothing: its path is all that is kept of it."""
