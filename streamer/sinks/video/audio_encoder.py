"""Transcodes audio to AAC, in WebM to Opus, for containers that can't hold the source's codec."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler

from streamer.frames.audio import AudioChunk
from streamer.sinks.video.audio import TimedPacket
from streamer.sinks.video.audio_remuxer import AudioFormatError, copy_of
from streamer.sources.av_input import PYAV_MAJOR

_OPUS: Final = "libopus"
_FRAME_SAMPLES = {"aac": 1024, _OPUS: 960}
_SILENT_FRAMES = 4
_MAX_PAUSE_S = 600
_BITS_A_CHANNEL = 96_000
_MAX_BITS_A_SAMPLE = 5
_RATES = {  # there are no others
    "aac": (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
    _OPUS: (48000, 24000, 16000, 12000, 8000),
}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "5.1"}  # PyAV can't fill a planar frame of eight channels
_MAX_SAFE_CHANNELS = 6
_SAME_TIME_S = Fraction(1, 20)  # stamps miss the end of the sound before them by less


def has_unsafe_channels(stream: av.AudioStream, packets: Sequence[TimedPacket]) -> bool:
    """Whether reading the stream's channel layout could corrupt memory.

    PyAV before 19 frees a custom layout twice, as MOV has for PCM of more than six channels. Reading the number of
    channels is as unsafe, so it is derived from a packet's size.
    """
    name = stream.codec_context.name
    if PYAV_MAJOR >= 19 or not packets or not name.startswith("pcm_") or "mov" not in stream.container.format.name:
        return False
    found = re.search(r"\d+", name)
    packet, bits = packets[0].packet, int(found[0]) if found else 8  # A-law and mu-law
    samples = round((packet.duration or 0) * float(packet.time_base or 0) * stream.codec_context.sample_rate)
    return samples > 0 and packet.size * 8 // (samples * bits) > _MAX_SAFE_CHANNELS


def encoder_for(kind: str) -> str:
    """Returns FFmpeg's name of the encoder of sound for a container, by its muxer's name.

    Raises:
        AudioFormatError: if this FFmpeg doesn't have it.
    """
    name = _OPUS if kind == "webm" else "aac"
    if name not in av.codecs_available:
        raise AudioFormatError(f"{kind} can't hold it")
    return name


class AudioEncoder:
    """Decodes packets and encodes them, as AAC or Opus, at their times.

    Attributes:
        context: the encoder.
        rate: samples a second of what is written.
    """

    def __init__(
        self, context: AudioCodecContext, rate: int, channels: int, *, begin_s: Fraction, fills_pauses: bool
    ) -> None:
        """Configures the encoder `context`, which its container opens, for sound of a rate and a number of channels.

        Samples before `begin_s` aren't encoded. `fills_pauses` encodes silence, for a container without time stamps.
        """
        self.context = context
        wanted = rate or 48_000
        rates = _RATES[context.name]
        self.rate = context.sample_rate = min((rate for rate in rates if rate >= wanted), default=rates[0])
        context.layout = _LAYOUTS.get(channels, "stereo")
        self._is_packed = context.name == _OPUS
        context.format = "flt" if self._is_packed else "fltp"
        channels = context.layout.nb_channels
        context.bit_rate = channels * min(_BITS_A_CHANNEL, _MAX_BITS_A_SAMPLE * self.rate)
        self._resampler: tuple[object, AudioResampler] | None = None
        self._frame_samples = _FRAME_SAMPLES[context.name]
        self._silence = np.zeros((channels, self._frame_samples), np.float32)
        self._chunk = self._silence[:, :0]
        self._next = round(begin_s * self.rate)  # number of the sample after those in `_chunk`
        self._has_begun, self._fills_pauses = False, fills_pauses

    @property
    def end_s(self) -> Fraction:
        """Where the next sample is due."""
        return Fraction(self._next, self.rate)

    def encode(self, packet: av.Packet[Any], shift_s: Fraction) -> Iterator[av.Packet[Any]]:
        """Yields the packets that `packet` completes, with times in samples; a damaged packet gives none.

        `shift_s` is added to its time stamps to get seconds of the output.

        Raises:
            av.FFmpegError: if the encoder fails.
            AudioFormatError: if a pause is too long to be filled.
        """
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            if isinstance(frame, av.AudioFrame) and frame.samples:
                yield from self._take(frame, shift_s)

    def encode_chunk(self, chunk: AudioChunk) -> Iterator[av.Packet[Any]]:
        """Yields the packets that samples complete, with times in samples; the chunk's own time is one of the output.

        Raises:
            av.FFmpegError, AudioFormatError: as `encode`.
        """
        layout = "mono" if chunk.samples.shape[0] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk.samples), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = chunk.rate, Fraction(1, chunk.rate)
        frame.pts = round(chunk.time_s * chunk.rate)
        yield from self._take(frame, Fraction(0))

    def fill_until(self, time_s: Fraction) -> Iterator[av.Packet[Any]]:
        """Yields silence up to a time at least; where it would be very long, the sound goes on without it.

        Raises:
            av.FFmpegError: if the encoder fails.
        """
        until = round(time_s * self.rate)
        if until <= self._next:
            return
        yield from self._pad()
        if until - self._next > _MAX_PAUSE_S * self.rate:
            self._next = until - self._frame_samples
        yield from self._pause_until(until + self._frame_samples)
        self._next += -(-max(0, until - self._next) // self._frame_samples) * self._frame_samples
        self._has_begun = True

    def finish(self) -> Iterator[av.Packet[Any]]:
        """Yields what is left, the last frame padded with silence; raises av.FFmpegError if the encoder fails."""
        yield from self._pad()
        yield from self.context.encode(None)

    def _take(self, frame: av.AudioFrame, shift_s: Fraction) -> Iterator[av.Packet[Any]]:
        first = self._next
        if frame.pts is not None and frame.time_base is not None:
            time_s = frame.pts * Fraction(frame.time_base) + shift_s
            stamped = round(time_s * self.rate)
            if not self._has_begun or abs(stamped - first) > _SAME_TIME_S * self.rate:
                first = stamped
        samples = self._samples(frame)[:, max(0, self._next - first) :]  # without what overlaps
        if not samples.shape[1]:
            return
        gap = max(0, first - self._next)
        if gap < self._frame_samples:
            samples = np.concatenate([self._silence[:, :gap], samples], axis=1)
        else:
            yield from self._pad()
            if self._fills_pauses:
                if gap > _MAX_PAUSE_S * self.rate:
                    raise AudioFormatError(f"it pauses for {gap / self.rate:.0f} s, too long to be filled with silence")
                yield from self._pause_until(first)
            self._next = first
        self._has_begun = True
        self._next += samples.shape[1]
        self._chunk = np.concatenate([self._chunk, samples], axis=1)
        while self._chunk.shape[1] >= self._frame_samples:
            chunk, self._chunk = self._chunk[:, : self._frame_samples], self._chunk[:, self._frame_samples :]
            yield from self._encode(chunk, self._next - self._chunk.shape[1] - self._frame_samples)

    def _samples(self, frame: av.AudioFrame) -> npt.NDArray[np.float32]:
        """Returns a frame's samples, (channels, n) float32, in the encoder's rate and layout."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or self._resampler[0] != kind:
            self._resampler = kind, AudioResampler("fltp", self.context.layout, self.rate)
        frame.pts = None
        parts = [np.asarray(part.to_ndarray(), np.float32) for part in self._resampler[1].resample(frame)]
        return np.concatenate([self._silence[:, :0], *parts], axis=1)

    def _pad(self) -> Iterator[av.Packet[Any]]:
        missing = -self._chunk.shape[1] % self._frame_samples
        if missing:
            chunk = np.concatenate([self._chunk, self._silence[:, :missing]], axis=1)
            self._chunk = self._silence[:, :0]
            self._next += missing
            yield from self._encode(chunk, self._next - self._frame_samples)

    def _pause_until(self, sample: int) -> Iterator[av.Packet[Any]]:
        """Yields silence; after a few packets the encoder's output repeats, so they are copied."""
        silent: av.Packet[Any] | None = None
        for count, at in enumerate(range(self._next, sample - self._frame_samples, self._frame_samples)):
            if count < _SILENT_FRAMES or silent is None:
                for silent in self._encode(self._silence, at):
                    yield silent
            else:
                again = copy_of(silent)
                again.pts = again.dts = at
                yield again

    def _encode(self, chunk: npt.NDArray[np.float32], at: int) -> Iterator[av.Packet[Any]]:
        samples = np.ascontiguousarray(chunk.T).reshape(1, -1) if self._is_packed else np.ascontiguousarray(chunk)
        form, layout = "flt" if self._is_packed else "fltp", self.context.layout.name
        frame = av.AudioFrame.from_ndarray(samples, format=form, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, at, Fraction(1, self.rate)
        yield from self.context.encode(frame)
