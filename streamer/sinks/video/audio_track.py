"""The audio of one video file while it is written: remuxed where the container takes it, else transcoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import av
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import Flags

from streamer.sinks.video.audio import AudioReader, TimedPacket, exact
from streamer.sinks.video.audio_encoder import AudioEncoder, encoder_for, has_unsafe_channels
from streamer.sinks.video.audio_placement import SAME_PICTURE_S, PacketPlacer, lead_in_of_encoded
from streamer.sinks.video.audio_remuxer import AudioFormatError, AudioRemuxer, RemuxFormat, probe_remux

log = logging.getLogger(__name__)

_TRIED_PACKETS = 12
_LATE_S = Fraction(1, 10)


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
            AudioFormatError: if the container can hold neither this audio nor another.
        """
        self._reader = reader
        self._start_s = exact(start_s)
        self._kind = container.format.name
        self._remuxer: AudioRemuxer | None = None
        self._encoder: AudioEncoder | None = None
        form = self._form(options)
        if form is not None:
            self._remuxer = AudioRemuxer(container, reader.stream, form.config)
            early_s = form.lead_in_s if self._kind in ("matroska", "webm") or start_s <= 0 else Fraction(0)
            self._packets = PacketPlacer(self._remuxer.to, self._kind, early_s, mux)
        elif has_unsafe_channels(reader.stream, reader.peek(1)):
            raise AudioFormatError(
                "its order of channels can't be read safely by PyAV before 19: update it (Python 3.12)"
            )
        else:
            to = container.add_stream(encoder_for(self._kind))
            assert isinstance(to, av.AudioStream)
            self._packets = PacketPlacer(to, self._kind, lead_in_of_encoded(self._kind), mux)
            source = reader.stream.codec_context
            self._encoder = self._new_encoder(to.codec_context, source)
            said = "the %s audio of %s becomes %s, which %s holds"
            log.info(said, source.name, reader.name, "Opus" if self._kind == "webm" else "AAC", self._kind)

    def copy_until(self, end_s: Fraction) -> None:
        """Writes the audio that begins before `end_s`.

        Raises:
            av.FFmpegError: if the container can't take it.
            AudioFormatError: if the format changes to one that the container can't hold.
        """
        if self._packets.end_s is None and self._remuxer is not None:  # the lead-in, which went into the file before
            for earlier in self._reader.recent:
                if -(self._packets.early_s or 0) <= earlier.time_s - self._start_s < 0:
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
            cut_s = self._start_s + last_picture_s + SAME_PICTURE_S
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
                if self._kind == "avi" and self._packets.end_s is not None and begins_s > self._packets.end_s + _LATE_S:
                    raise AudioFormatError("it pauses, and AVI can't say so")
                for part in self._remuxer.adapt(packet):
                    self._packets.write_at(begins_s, part)
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
            self._packets.write_at(Fraction(packet.pts, rate), packet)

    def _encoder_after_remux(self, remuxer: AudioRemuxer, why: AudioFormatError) -> AudioEncoder:
        """Returns an encoder that continues where remuxing ended.

        Raises:
            AudioFormatError: `why`, if its packets don't fit the stream's header.
        """
        context = av.CodecContext.create(encoder_for(self._kind), "w")
        assert isinstance(context, AudioCodecContext)
        context.flags |= Flags.global_header
        encoder = self._new_encoder(context, remuxer.to.codec_context)
        context.open()
        if (context.extradata or b"")[:2] != (remuxer.to.codec_context.extradata or b"")[:2]:
            raise why
        return encoder

    def _new_encoder(self, context: AudioCodecContext, source: AudioCodecContext) -> AudioEncoder:
        rate, channels = source.sample_rate, source.layout.nb_channels
        begin_s = self._packets.end_s or Fraction(0)
        return AudioEncoder(context, rate, channels, begin_s=begin_s, fills_pauses=self._kind == "avi")
