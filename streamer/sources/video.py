"""Video files and network streams, through PyAV."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from streamer.common.errors import SourceError
from streamer.common.logs import LogLimit
from streamer.frames.frame import Frame
from streamer.frames.packet_decoder import DecodedPicture
from streamer.sources.arrival_clock import ArrivalClock
from streamer.sources.base import SourceInfo, damage_phrase
from streamer.sources.decoder import VideoDecoder
from streamer.sources.diagnosis import why_unplayable
from streamer.sources.live_audio import AudioFeed
from streamer.sources.opening import Body
from streamer.sources.options import DEFAULT_OPTIONS, SourceOptions
from streamer.sources.packet_tap import PacketFeed, PacketTap
from streamer.sources.prefetched import PrefetchedSource
from streamer.sources.presentation_clock import PresentationClock
from streamer.sources.spec import SourceSpec
from streamer.sources.truncation import missing_end

log = logging.getLogger(__name__)

_NOMINAL_FPS = 25.0  # spaces frames without time stamps where no rate is known
_MAX_FPS = 1000.0  # beyond, a rate is an artefact of the time base


class VideoSource(PrefetchedSource):
    """Frames of one video, in presentation order, as 4:2:0 planes where it has them, else BGR.

    `index` counts frames, dropped ones included. A file's `pts_s` are its own time stamps, from its first frame; a live
    stream without time stamps (MJPEG over HTTP) is stamped at arrival. `skipped` lists damaged packets, and the missing
    end of a file that was cut off. A live stream is one connection, whose end raises `SourceError`: `LiveSource`
    reconnects. Closing waits for the frame being read, for `stall_timeout_s` at most.
    """

    def __init__(self, spec: SourceSpec, options: SourceOptions = DEFAULT_OPTIONS, *, body: Body | None = None) -> None:
        """Opens a local file or a stream's URL, and decodes its first picture; `body` as for `VideoDecoder`.

        Raises:
            SourceError: if it can't be opened, holds no video, or ends before its first frame.
        """
        self._path, self._shown, self._name = spec.path, str(spec), spec.name
        self._count = 0
        self._notes: list[str] = []
        self._log_limit = LogLimit()
        self._next_picture: DecodedPicture | None = None
        self._stamp_offset_s: float | None = None  # from a picture's stamp to its `pts_s`
        self._identity = _identity(self._path)
        self._decoder = VideoDecoder(spec, options, body)
        is_own = not spec.kind.is_live and self.packet_feed is not None  # a stream's are kept across its connections
        self._packets = PacketTap(options.kept_packets_s) if is_own else None
        self._prefetch()

    @property
    def packet_feed(self) -> PacketFeed | None:
        return None if self._decoder.packets is None else self._decoder.packets.feed

    @property
    def audio_feed(self) -> AudioFeed | None:
        return None if self._decoder.audio is None else self._decoder.audio.feed

    @property
    def skipped(self) -> tuple[str, ...]:
        return (*super().skipped, *self._notes)

    @property
    def utc_offset_s(self) -> float | None:
        utc_s, off_s = self._decoder.utc_offset_s, self._stamp_offset_s
        return None if utc_s is None or off_s is None else utc_s - off_s

    @property
    def damaged(self) -> int:
        return self._decoder.damaged

    @property
    def dropped(self) -> int:
        return self._decoder.dropped

    def _read_first(self) -> Frame:
        picture = self._decoder.read()
        if picture is None:
            reason = why_unplayable(self._path) if self._path else None
            damage = f" after {damage_phrase(self.damaged)}" if self.damaged else ""
            raise SourceError(f"source {self._shown!r} {reason or f'ended before its first frame{damage}'}")
        self.info = self._describe()
        frame_s = 1.0 / (self.info.fps or _NOMINAL_FPS)
        self._clock, self._arrivals = PresentationClock(frame_s), ArrivalClock(frame_s)
        frame = self._frame(picture)
        self.info = replace(self.info, size_wh=frame.size_wh, first_stamp_s=picture.stamp_s, packets=self._packets)
        if self._packets is not None and self.packet_feed is not None:
            self.packet_feed.attach(self._packets, 0.0)
        return frame

    def _read(self) -> Frame | None:
        picture = self._read_picture()
        if picture is not None:
            return self._frame(picture)
        if self.info.live:
            raise SourceError(f"source {self._shown!r} ended: the other side closed the stream; start it again there")
        missing_s = self._decoder.missing_s()
        if missing_s:
            raise SourceError(
                f"source {self._shown!r} lacks {missing_s:.1f} s of its pictures: a part of it could not be read;"
                " check its server, and run it again"
            )
        self._note_missing_end()
        if self._packets is not None:
            self._packets.close()
        return None

    def _read_picture(self) -> DecodedPicture | None:
        """Returns the next picture, without its stamp where that leaps ahead and the next one doesn't."""
        picture, self._next_picture = self._next_picture or self._decoder.read(), None
        if picture is None or picture.stamp_s is None or self.info.live or not self._clock.leaps(picture.stamp_s):
            return picture
        self._next_picture = after = self._decoder.read()
        if after is None or after.stamp_s is None or after.stamp_s >= picture.stamp_s:
            return picture
        if self._log_limit.is_due():
            log.warning(
                "source %r: a time stamp is %.0f s ahead of the next one; its picture follows the one before",
                self._name,
                picture.stamp_s - after.stamp_s,
            )
        return replace(picture, stamp_s=None)

    def _release(self) -> None:
        self._next_picture = None
        if self._packets is not None:
            self._packets.close()
        self._decoder.close()

    def _frame(self, picture: DecodedPicture) -> Frame:
        now_s = time.perf_counter()
        pts_s = self._live_pts_s(picture, now_s) if self.info.live else self._clock.at(picture.stamp_s)
        self._end_s = pts_s + picture.duration_s
        if picture.stamp_s is not None:
            self._stamp_offset_s = pts_s - picture.stamp_s
        for beside in (self._decoder.audio, self._decoder.packets):
            if beside is not None:
                beside.add_picture(picture.stamp_s, pts_s, now_s)
        index = self._count + self._decoder.dropped
        self._count += 1
        return Frame(picture.pixels, self._name, index, pts_s, now_s, pixel_aspect=self.info.pixel_aspect)

    def _live_pts_s(self, picture: DecodedPicture, now_s: float) -> float:
        """Returns the time of a stream's picture; logs stamps that don't fit."""
        arrivals = self._arrivals
        misfits = arrivals.misfits
        if self._decoder.has_timestamps:
            pts_s = arrivals.at(picture.stamp_s, now_s, waited=self._decoder.waited)
        else:
            pts_s = arrivals.at(None, now_s, waited=True)
        if arrivals.misfits > misfits and self._log_limit.is_due():
            log.warning(
                "source %r: a time stamp is %+.1f s off its frame's arrival (%d so far);"
                " such frames are timed by arrival",
                self._name,
                arrivals.last_misfit_s,
                arrivals.misfits,
            )
        return pts_s

    def _describe(self) -> SourceInfo:
        decoder = self._decoder
        live = decoder.is_live
        fps = next((float(r) for r in (decoder.stream.average_rate, decoder.stream.guessed_rate) if r), 0.0)
        return SourceInfo(
            name=self._name,
            uri=self._shown,
            fps=fps if 0.0 < fps <= _MAX_FPS and (decoder.has_timestamps or not live) else None,
            frame_count=None if live else decoder.frame_count,
            duration_s=None if live else decoder.duration_s,
            live=live,
            path=self._path,
            pixel_aspect=decoder.pixel_aspect,
        )

    def _note_missing_end(self) -> None:
        is_replaced = _identity(self._path) != self._identity  # or deleted
        if self._notes or self._path is None or is_replaced:
            return
        missing = missing_end(self._path, self._end_s, is_damaged=bool(self._decoder.damaged))
        if missing is not None:
            self._notes.append(f"its end: {missing}")


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Returns what identifies the file at a path, None where there is none."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino)
