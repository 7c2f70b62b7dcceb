"""The audio packets beside a stream's pictures, decoded."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, NamedTuple

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler

from streamer.frames.audio import AudioChunk, AudioFormat
from streamer.sources.audio_clock import AudioClock
from streamer.sources.live_audio import AudioFeed

log = logging.getLogger(__name__)

_MAX_CHANNELS = 2
_USUAL = AudioFormat("unknown", 48_000, 2)
_MAX_WAITING = 2000  # decoded frames that wait for the first picture


class _Decoded(NamedTuple):
    stamp_s: float
    arrived_s: float
    rate: int
    samples: npt.NDArray[np.float32]


class AudioDecoder:
    """Decodes one connection's audio, on the thread that reads its packets. Damaged packets give no sound.

    Attributes:
        feed: what was decoded, on the pictures' timeline.
        stream_index: number of the stream.
    """

    def __init__(self, stream: av.AudioStream, *, live: bool) -> None:
        """Takes the audio stream of an open container."""
        context = stream.codec_context
        rate = context.sample_rate or _USUAL.rate
        channels = min(_MAX_CHANNELS, context.layout.nb_channels) or _USUAL.channels
        self.feed = AudioFeed(AudioFormat(context.name, rate, channels))
        self.stream_index = stream.index
        self._clock = AudioClock(live=live)
        self._waiting: deque[_Decoded] = deque(maxlen=_MAX_WAITING)
        self._resampler: tuple[object, AudioResampler] | None = None
        self._next_s = 0.0

    def add(self, packet: av.Packet[Any]) -> None:
        """Decodes a packet; what it gives is held back until the next picture."""
        if not packet.size:
            return
        arrived_s = time.perf_counter()
        try:
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame) and frame.samples:
                    self._keep(frame, arrived_s)
        except (av.FFmpegError, ValueError) as error:
            log.debug("a packet of audio can't be decoded: %s", type(error).__name__)

    def add_picture(self, stamp_s: float | None, pts_s: float, arrived_s: float) -> None:
        """Takes the time of a picture, as `AudioClock` does, and feeds what was decoded before it."""
        self._clock.add_picture(stamp_s, pts_s, arrived_s)
        while self._waiting:
            decoded = self._waiting.popleft()
            time_s = self._clock.at(decoded.stamp_s, decoded.arrived_s)
            self.feed.push(AudioChunk(time_s, decoded.rate, decoded.samples))

    def _keep(self, frame: av.AudioFrame, arrived_s: float) -> None:
        stamp_s = self._next_s if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        rate = frame.sample_rate
        samples = self._samples(frame)
        self._next_s = stamp_s + samples.shape[1] / rate
        if samples.shape[1]:
            self._waiting.append(_Decoded(stamp_s, arrived_s, rate, samples))

    def _samples(self, frame: av.AudioFrame) -> npt.NDArray[np.float32]:
        """Returns a frame's samples, (1 or 2, n) float32."""
        layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or self._resampler[0] != kind:
            self._resampler = kind, AudioResampler("fltp", layout, frame.sample_rate)
        frame.pts = None
        parts = [np.asarray(part.to_ndarray(), np.float32) for part in self._resampler[1].resample(frame)]
        return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)
