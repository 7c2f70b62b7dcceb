"""The sound of a live source in one video file, as AAC, in WebM as Opus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import av

from streamer.frames.audio import AudioFormat
from streamer.sinks.video.audio import exact
from streamer.sinks.video.audio_encoder import AudioEncoder, encoder_for
from streamer.sinks.video.audio_placement import PacketPlacer, lead_in_of_encoded
from streamer.sources.live_audio import AudioSubscription, LiveAudio

_MAX_LATE_S = Fraction(2)


class LiveAudioReader:
    """What a recording reads of a live source's sound, for all files that are recorded one after the other.

    Attributes:
        name: the source.
        codec: FFmpeg's name of the source's codec.
    """

    def __init__(self, audio: LiveAudio, format: AudioFormat, name: str) -> None:
        self.name, self.codec, self.format = name, format.codec, format
        self._subscription = audio.subscribe()

    @property
    def chunks(self) -> AudioSubscription:
        """What has come and isn't written."""
        return self._subscription

    def close(self) -> None:
        """Reads no more. Safe to call twice."""
        self._subscription.close()


class LiveAudioTrack:
    """Writes sound that comes while its file is written, in step with the pictures.

    It is decoded and encoded again, so that codecs, rates and connections may change. Sound that is missing for two
    seconds becomes silence: a track that stays empty would keep the muxer from writing anything.
    """

    def __init__(
        self,
        reader: LiveAudioReader,
        container: av.container.OutputContainer,
        start_s: float,
        mux: Callable[[av.Packet[Any]], None],
    ) -> None:
        """Adds an audio stream to `container`, whose header isn't written yet, for an output that begins at `start_s`.

        Raises:
            AudioFormatError: if there is no encoder.
        """
        self._reader, self._start_s = reader, exact(start_s)
        kind = container.format.name
        to = container.add_stream(encoder_for(kind))
        assert isinstance(to, av.AudioStream)
        rate, channels = reader.format.rate, reader.format.channels
        self._encoder = AudioEncoder(to.codec_context, rate, channels, begin_s=Fraction(0), fills_pauses=True)
        self._packets = PacketPlacer(to, kind, lead_in_of_encoded(kind), mux)

    def copy_until(self, end_s: Fraction) -> None:
        """Writes the sound before `end_s` that has come by now.

        Raises:
            av.FFmpegError: if the container can't take it.
        """
        for chunk in self._reader.chunks.take_until(float(end_s + self._start_s)):
            placed = chunk.moved(-float(self._start_s))
            if placed.time_s > self._encoder.end_s + _MAX_LATE_S:
                self._write(self._encoder.fill_until(exact(placed.time_s)))
            self._write(self._encoder.encode_chunk(placed))
        self._write(self._encoder.fill_until(end_s - _MAX_LATE_S))

    def finish(self, end_s: Fraction, last_picture_s: Fraction | None) -> None:
        """Writes up to `end_s`, where the last packet ends, also what the encoder holds; raises as `copy_until`."""
        self.copy_until(end_s)
        self._write(self._encoder.finish(), end_s)

    def _write(self, packets: Iterable[av.Packet[Any]], end_s: Fraction | None = None) -> None:
        for packet in packets:
            assert packet.pts is not None, "an encoder that was given times gives them back"
            begins_s = Fraction(packet.pts, self._encoder.rate)
            if end_s is not None:
                left = round((end_s - begins_s) * self._encoder.rate)
                if left <= 0:
                    return
                packet.duration = min(packet.duration or left, left)
            self._packets.write_at(begins_s, packet)
