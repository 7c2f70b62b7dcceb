"""Transcodes audio to AAC, for containers that can't hold the source's codec."""

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

from streamer.sinks.video.audio import TimedPacket
from streamer.sinks.video.audio_remuxer import AudioFormatError, copy_of
from streamer.sources.av_input import PYAV_MAJOR

CODEC: Final = "aac"
_FRAME_SAMPLES = 1024
_SILENT_FRAMES = 4
_MAX_PAUSE_S = 600
_BITS_A_CHANNEL = 96_000
_MAX_BITS_A_SAMPLE = 5
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # AAC has no others
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


class AacEncoder:
    """Decodes packets and encodes them as AAC at their times.

    Attributes:
        context: the encoder.
        rate: samples a second of what is written.
    """

    def __init__(
        self, context: AudioCodecContext, source: AudioCodecContext, *, begin_s: Fraction, fills_pauses: bool
    ) -> None:
        """Configures the encoder `context`, which its container opens, for what the decoder `source` returns.

        Samples before `begin_s` aren't encoded. `fills_pauses` encodes silence, for a container without time stamps.
        """
        self.context = context
        wanted = source.sample_rate or 48_000
        self.rate = context.sample_rate = min((rate for rate in _RATES if rate >= wanted), default=_RATES[0])
        context.layout = _LAYOUTS.get(source.layout.nb_channels, "stereo")
        context.format = "fltp"
        channels = context.layout.nb_channels
        context.bit_rate = channels * min(_BITS_A_CHANNEL, _MAX_BITS_A_SAMPLE * self.rate)
        self._resampler: tuple[object, AudioResampler] | None = None
        self._silence = np.zeros((channels, _FRAME_SAMPLES), np.float32)
        self._chunk = self._silence[:, :0]
        self._next = round(begin_s * self.rate)  # number of the sample after those in `_chunk`
        self._has_begun, self._fills_pauses = False, fills_pauses

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
        if gap < _FRAME_SAMPLES:
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
        while self._chunk.shape[1] >= _FRAME_SAMPLES:
            chunk, self._chunk = self._chunk[:, :_FRAME_SAMPLES], self._chunk[:, _FRAME_SAMPLES:]
            yield from self._encode(chunk, self._next - self._chunk.shape[1] - _FRAME_SAMPLES)

    def _samples(self, frame: av.AudioFrame) -> npt.NDArray[np.float32]:
        """Returns a frame's samples, (channels, n) float32, in the encoder's rate and layout."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or self._resampler[0] != kind:
            self._resampler = kind, AudioResampler("fltp", self.context.layout, self.rate)
        frame.pts = None
        parts = [np.asarray(part.to_ndarray(), np.float32) for part in self._resampler[1].resample(frame)]
        return np.concatenate([self._silence[:, :0], *parts], axis=1)

    def _pad(self) -> Iterator[av.Packet[Any]]:
        missing = -self._chunk.shape[1] % _FRAME_SAMPLES
        if missing:
            chunk = np.concatenate([self._chunk, self._silence[:, :missing]], axis=1)
            self._chunk = self._silence[:, :0]
            self._next += missing
            yield from self._encode(chunk, self._next - _FRAME_SAMPLES)

    def _pause_until(self, sample: int) -> Iterator[av.Packet[Any]]:
        """Yields silence; after a few packets the encoder's output repeats, so they are copied."""
        silent: av.Packet[Any] | None = None
        for count, at in enumerate(range(self._next, sample - _FRAME_SAMPLES, _FRAME_SAMPLES)):
            if count < _SILENT_FRAMES or silent is None:
                for silent in self._encode(self._silence, at):
                    yield silent
            else:
                again = copy_of(silent)
                again.pts = again.dts = at
                yield again

    def _encode(self, chunk: npt.NDArray[np.float32], at: int) -> Iterator[av.Packet[Any]]:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="fltp", layout=self.context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, at, Fraction(1, self.rate)
        yield from self.context.encode(frame)
