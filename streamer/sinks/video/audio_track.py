"""The audio of one video file while it is written: remuxed where the container takes it, else transcoded to AAC."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import av
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import Flags

from streamer.sinks.video.audio import AudioReader, TimedPacket, exact
from streamer.sinks.video.audio_encoder import CODEC, AacEncoder, has_unsafe_channels
from streamer.sinks.video.audio_remuxer import AudioFormatError, AudioRemuxer, RemuxFormat, copy_of, probe_remux

log = logging.getLogger(__name__)

_TRIED_PACKETS = 12
_SAME_PICTURE_S = Fraction(1, 1000)
_LATE_S = Fraction(1, 10)
# Max. ticks between two packets that FFmpeg writes: MP4 counts in 31 bits, AVI pads with at most 60,000 empty ones.
MAX_TICKS = {"mp4": 2**31 - 2, "mov": 2**31 - 2, "avi": 59_999}


class AudioTrack:
    """Writes audio from a reader into one container, in step with the pictures.

    Times are seconds of the output. What begins before its first picture is dropped, except a codec's lead-in where
    the container can tell players to skip it; others would delay every picture.
    """

    def __init__(
        self,
        reader: AudioReader,
        container: av.container.OutputContainer,
        options: dict[str, str],
        start_s: float,
        mux: Callable[[av.Packet[Any]], None],
    ) -> None:
        """Adds an audio stream to `container`, whose header isn't written yet, for an output that begins at `start_s`.

        Each packet of the reader goes into one track only; `mux` writes a packet.

        Raises:
            AudioFormatError: if the container can hold neither this audio nor AAC.
        """
        self._reader, self._mux = reader, mux
        self._start_s = exact(start_s)
        self._kind = container.format.name
        self._remuxer: AudioRemuxer | None = None
        self._encoder: AacEncoder | None = None
        self._last: av.Packet[Any] | None = None
        self._end_s: Fraction | None = None
        self._last_ticks: int | None = None
        form = self._form(options)
        if form is not None:
            self._remuxer = AudioRemuxer(container, reader.stream, form.config)
            self._to = self._remuxer.to
            self._early_s = form.lead_in_s if self._kind == "matroska" or start_s <= 0 else Fraction(0)
        elif has_unsafe_channels(reader.stream, reader.peek(1)):
            raise AudioFormatError(
                "its order of channels can't be read safely by PyAV before 19: update it (Python 3.12)"
            )
        elif CODEC in av.codecs_available:
            self._to = container.add_stream(CODEC)
            source = reader.stream.codec_context
            self._encoder = self._new_encoder(self._to.codec_context, source)
            self._early_s = Fraction(0) if self._kind == "avi" else None
            log.info("the %s audio of %s becomes AAC, which %s holds", source.name, reader.name, self._kind)
        else:
            raise AudioFormatError(f"{self._kind} can't hold it")

    def copy_until(self, end_s: Fraction) -> None:
        """Writes the audio that begins before `end_s`.

        Raises:
            av.FFmpegError: if the container can't take it.
            AudioFormatError: if the format changes to one that the container can't hold.
        """
        if self._last_ticks is None and self._remuxer is not None:  # the lead-in, which went into the file before
            for earlier in self._reader.recent:
                if -(self._early_s or 0) <= earlier.time_s - self._start_s < 0:
                    self._write(earlier)
        while (timed := self._reader.next) is not None and timed.time_s - self._start_s < end_s:
            self._write(self._reader.take())

    def finish(self, end_s: Fraction, last_picture_s: Fraction | None) -> None:
        """Writes up to `end_s` and flushes the encoder, if any.

        If the source has no picture after `last_picture_s`, writes to the end of the audio; None is any time.

        Raises:
            av.FFmpegError, AudioFormatError: as `copy_until`.
        """
        self.copy_until(end_s)
        if last_picture_s is not None:
            cut_s = self._start_s + last_picture_s + _SAME_PICTURE_S
            tail = []
            while self._reader.next is not None and self._reader.last_picture_s <= cut_s:
                tail.append(self._reader.take())
            if self._reader.last_picture_s <= cut_s:
                for timed in tail:
                    self._write(timed)
        if self._encoder is not None:
            self._write_encoded(self._encoder.finish(), self._encoder.rate)

    def _form(self, options: dict[str, str]) -> RemuxFormat | None:
        tried = self._reader.peek(_TRIED_PACKETS)
        if not tried or (self._kind == "avi" and tried[0].time_s - self._start_s > _LATE_S):
            return None  # AVI has no start time: needs silence in front
        return probe_remux(self._kind, options, self._reader.stream, [timed.packet for timed in tried])

    def _write(self, timed: TimedPacket) -> None:
        packet, begins_s = timed.packet, timed.time_s - self._start_s
        if self._remuxer is not None and self._encoder is None:
            try:
                if self._kind == "avi" and self._end_s is not None and begins_s > self._end_s + _LATE_S:
                    raise AudioFormatError("it pauses, and AVI can't say so")
                for part in self._remuxer.adapt(packet):
                    self._write_at(begins_s, part)
                return
            except AudioFormatError as error:
                self._encoder = self._encoder_after_remux(self._remuxer, error)
        assert self._encoder is not None, "what isn't copied is encoded"
        assert packet.pts is not None and packet.time_base is not None
        shift_s = begins_s - packet.pts * Fraction(packet.time_base)
        self._write_encoded(self._encoder.encode(packet, shift_s), self._encoder.rate)

    def _write_encoded(self, packets: Iterable[av.Packet[Any]], rate: int) -> None:
        for packet in packets:
            assert packet.pts is not None, "an encoder that was given times gives them back"
            self._write_at(Fraction(packet.pts, rate), packet)

    def _write_at(self, begins_s: Fraction, packet: av.Packet[Any]) -> None:
        """Writes a packet at its time, but after the previous one; gaps that are too long get copies of that one."""
        tick_s = Fraction(self._to.time_base or 1)
        ticks = round(begins_s / tick_s)
        if self._early_s is not None:
            if begins_s < -self._early_s - _SAME_PICTURE_S:
                return
            ticks = max(ticks, -round(self._early_s / tick_s))
        self._end_s = begins_s + (packet.duration or 0) * Fraction(packet.time_base or 1)
        packet.duration = round((packet.duration or 0) * Fraction(packet.time_base or 1) / tick_s)
        if self._last is not None and self._last_ticks is not None:
            ticks = max(ticks, self._last_ticks + (self._kind != "matroska"))
            most = MAX_TICKS.get(self._kind)
            while most is not None and ticks - self._last_ticks > most:
                self._send(copy_of(self._last), self._last_ticks + most, tick_s)
        self._last = copy_of(packet)
        self._send(packet, ticks, tick_s)

    def _send(self, packet: av.Packet[Any], ticks: int, tick_s: Fraction) -> None:
        self._last_ticks = packet.pts = packet.dts = ticks
        packet.time_base = tick_s
        packet.stream = self._to
        self._mux(packet)

    def _encoder_after_remux(self, remuxer: AudioRemuxer, why: AudioFormatError) -> AacEncoder:
        """Returns an encoder that continues where remuxing ended.

        Raises:
            AudioFormatError: `why`, if its packets don't fit the stream's header.
        """
        context = av.CodecContext.create(CODEC, "w")
        assert isinstance(context, AudioCodecContext)
        context.flags |= Flags.global_header
        encoder = self._new_encoder(context, remuxer.to.codec_context)
        context.open()
        if (context.extradata or b"")[:2] != (remuxer.to.codec_context.extradata or b"")[:2]:
            raise why
        return encoder

    def _new_encoder(self, context: AudioCodecContext, source: AudioCodecContext) -> AacEncoder:
        return AacEncoder(context, source, begin_s=self._end_s or Fraction(0), fills_pauses=self._kind == "avi")
