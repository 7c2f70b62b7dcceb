"""What the microphone of a simulated camera sends: a beep at the beginning of each second, as RTP packets."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

BEEP_S, BEEP_HZ = 0.2, 1000
_FIRST_TIMESTAMP = 54_321  # another than that of the pictures
_FIRST_SEQUENCE = 700
_SSRC = 0x5050
_LENGTH_S = 16  # then it starts over: whole packets of every codec


@dataclass(frozen=True)
class SoundCodec:
    """A codec in which cameras send sound.

    Attributes:
        encoder: FFmpeg's.
        payload_type: RTP's.
        rtp_map: RTP's name, clock and channels.
        rate: samples a second.
        samples: in each packet.
        clock_hz: of RTP.
    """

    encoder: str
    payload_type: int
    rtp_map: str
    rate: int
    samples: int
    clock_hz: int


SOUND_CODECS = {
    "pcmu": SoundCodec("pcm_mulaw", 0, "PCMU/8000", 8000, 160, 8000),
    "pcma": SoundCodec("pcm_alaw", 8, "PCMA/8000", 8000, 160, 8000),
    "g726": SoundCodec("g726le", 97, "G726-32/8000", 8000, 160, 8000),
    "aac": SoundCodec("aac", 97, "mpeg4-generic/16000/1", 16000, 1024, 16000),
    "opus": SoundCodec("libopus", 97, "opus/48000/2", 48000, 960, 48000),
}


class Microphone:
    """Sound of a camera, beside its pictures; every client gets the same from its first picture on.

    Attributes:
        sdp: its part of the session description.
    """

    def __init__(self, codec: str = "pcmu", *, parts: tuple[tuple[float, float], ...] = ((0.0, 1e9),)) -> None:
        """Encodes the sound.

        Args:
            codec: one of `SOUND_CODECS`.
            parts: when it is sent, begin and end in seconds from the first picture; there is none between.
        """
        self._codec, self._parts = SOUND_CODECS[codec], parts
        self._packets, extradata = _encoded(self._codec)
        kind = self._codec.payload_type
        form = ""
        if codec == "aac":
            form = (
                f"a=fmtp:{kind} streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;"
                f"indexdeltalength=3;config={extradata.hex()}\r\n"
            )
        self.sdp = f"m=audio 0 RTP/AVP {kind}\r\na=rtpmap:{kind} {self._codec.rtp_map}\r\n{form}a=control:audio\r\n"

    def packets(self) -> Iterator[tuple[float, bytes]]:
        """Yields for each RTP packet when it is due, in seconds from the first picture, and the packet."""
        codec = self._codec
        for number in itertools.count():
            at_s = number * codec.samples / codec.rate
            if not any(begin_s <= at_s < end_s for begin_s, end_s in self._parts):
                if all(at_s >= end_s for _, end_s in self._parts):
                    return
                continue
            stamp = _FIRST_TIMESTAMP + number * codec.samples * codec.clock_hz // codec.rate
            sequence = _FIRST_SEQUENCE + number
            header = struct.pack(
                ">BBHII", 0x80, 0x80 | codec.payload_type, sequence & 0xFFFF, stamp & 0xFFFFFFFF, _SSRC
            )
            yield at_s, header + self._packets[number % len(self._packets)]


def beeps(rate: int, length_s: float) -> npt.NDArray[np.float32]:
    """Returns (n,) float32 samples: a tone for the first `BEEP_S` of each second, else silence."""
    time_s = np.arange(round(rate * length_s)) / rate
    return np.where(time_s % 1 < BEEP_S, 0.5 * np.sin(2 * np.pi * BEEP_HZ * time_s), 0).astype(np.float32)


def beep_times_s(samples: npt.NDArray[np.float32], rate: int) -> list[float]:
    """Returns when each beep begins in (n,) samples, in seconds."""
    step = rate // 200
    loud = np.abs(samples[: len(samples) // step * step]).reshape(-1, step).max(axis=1) > 0.1
    starts = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    found = [int(start) for start in ([0] if len(loud) and loud[0] else []) + list(starts)]
    return [start * step / rate for start in found]


def _encoded(codec: SoundCodec) -> tuple[list[bytes], bytes]:
    context = av.CodecContext.create(codec.encoder, "w")
    assert isinstance(context, av.AudioCodecContext)
    wide = codec.encoder == "aac"
    context.sample_rate, context.layout = codec.rate, "mono"
    context.format = "fltp" if wide else "flt" if codec.encoder == "libopus" else "s16"
    context.time_base = Fraction(1, codec.rate)
    if codec.encoder == "g726le":
        context.bit_rate = 32_000
    if wide:
        context.flags |= av.codec.context.Flags.global_header
    samples = beeps(codec.rate, _LENGTH_S)
    packets: list[bytes] = []
    for at in range(0, len(samples), codec.samples):
        part = np.ascontiguousarray(samples[None, at : at + codec.samples])
        given = part if context.format.name != "s16" else (part * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(given, format=context.format.name, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = codec.rate, at, context.time_base
        packets += [bytes(packet) for packet in context.encode(frame)]
    packets += [bytes(packet) for packet in context.encode(None)]
    if codec.encoder == "g726le":  # an encoder with packets of its own length; two samples a byte
        joined, size = b"".join(packets), codec.samples // 2
        packets = [joined[at : at + size] for at in range(0, len(joined), size)]
    if wide:  # one access unit a packet, with its header (RFC 3640, 3.2.1); the first is the encoder's lead-in
        packets = [struct.pack(">HH", 16, len(unit) << 3) + unit for unit in packets[1:]]
    return packets[: len(samples) // codec.samples], context.extradata or b""
