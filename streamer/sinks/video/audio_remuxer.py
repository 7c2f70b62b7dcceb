"""Audio packets copied into a container without transcoding, where the container takes them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

_NO_TAG = "\0\0\0\0"
_ADTS_SYNC = 0xFFF0
_LENGTH_OFF, _LENGTH_OFF_S = Fraction(1, 10), Fraction(1, 50)  # AVI counts whole packets
# Few players read PCM in MP4; FFmpeg writes LATM, which cameras send, into Matroska only.
_NOT_IN = {"mp4": ("pcm_", "aac_latm"), "mov": ("aac_latm",), "avi": ("aac_latm",)}


class AudioFormatError(Exception):
    """A container can't hold this audio; the text says why."""


@dataclass(frozen=True)
class RemuxFormat:
    """How a container takes a stream's packets.

    Attributes:
        config: AudioSpecificConfig for AAC with ADTS headers, which must be stripped; None for other streams.
        lead_in_s: how long before time zero audio may begin that players skip; None for any length.
    """

    config: bytes | None
    lead_in_s: Fraction | None


class AudioRemuxer:
    """Copies the packets of one stream into a container."""

    def __init__(self, container: av.container.OutputContainer, stream: av.AudioStream, config: bytes | None) -> None:
        """Adds a stream like `stream` to `container`, whose header isn't written yet; for `config` see `RemuxFormat`.

        Raises:
            AudioFormatError, av.FFmpegError: if the container can't hold this codec.
        """
        self.to = _add_stream(container, stream)
        self._filter = None
        self._header: bytes | None = None
        if config is not None:
            self.to.codec_context.extradata = config
            self._filter = BitStreamFilterContext("aac_adtstoasc", stream)

    def adapt(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        """Returns the packets to write for `packet`, without time stamps.

        Raises:
            AudioFormatError: if the sampling rate or the channels have changed.
            av.FFmpegError: if the packet is damaged.
        """
        if self._filter is None:
            return [copy_of(packet)]
        header = _adts_kind(packet)
        if self._header is not None and header != self._header:
            raise AudioFormatError("its sampling rate or its channels change")
        self._header = header
        return self._filter.filter(copy_of(packet))


def probe_remux(
    kind: str, options: dict[str, str], stream: av.AudioStream, packets: Sequence[av.Packet[Any]]
) -> RemuxFormat | None:
    """Muxes the first packets in memory and reads them back; returns how the container takes them, None if it doesn't.

    FFmpeg accepts much that is then played at another speed, such as ADPCM in AVI. `kind` and `options` are the
    muxer's; the packets aren't changed.
    """
    if stream.codec_context.name.startswith(_NOT_IN.get(kind, ())):
        return None
    try:
        config = _config_of(stream, packets[0])
        lead_in_s = _try(kind, options, stream, packets, config)
    except (AudioFormatError, av.FFmpegError, ValueError):
        return None
    return RemuxFormat(config, None if kind in ("mp4", "mov") else lead_in_s)


def copy_of(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Returns a packet with the same content and no time stamps."""
    copied: av.Packet[Any] = av.Packet(bytes(packet))
    copied.is_keyframe = packet.is_keyframe
    if packet.time_base is not None:
        copied.time_base = packet.time_base
    copied.duration = packet.duration or 0
    for data in packet.iter_sidedata():
        copied.set_sidedata(data)
    return copied


def _try(
    kind: str, options: dict[str, str], stream: av.AudioStream, packets: Sequence[av.Packet[Any]], config: bytes | None
) -> Fraction:
    """Writes the packets from time zero on; returns how much of them players skip.

    Raises AudioFormatError, av.FFmpegError or ValueError if the container doesn't take them.
    """
    buffer = io.BytesIO()
    container = av.open(buffer, "w", format=kind, container_options=options)
    copy = AudioRemuxer(container, stream, config)
    zero = packets[0].pts or 0
    for packet in packets:
        for part in copy.adapt(packet):
            part.pts = part.dts = (packet.pts or 0) - zero
            part.stream = copy.to
            container.mux(part)
    container.close()
    with av.open(io.BytesIO(buffer.getvalue()), "r") as written:
        if not written.streams.audio:  # an MPEG transport stream of a codec that it has no number for
            raise AudioFormatError("what was written is no audio")
        audio = written.streams.audio[0]
        if audio.codec_context is None or audio.start_time is None or audio.time_base is None:
            raise AudioFormatError("what was written can't be read")
        found = [packet for packet in written.demux(audio) if packet.pts is not None]
        if not found or abs(_length_s(found) - _length_s(packets)) > _LENGTH_OFF * _length_s(packets) + _LENGTH_OFF_S:
            raise AudioFormatError("what was written is played at another speed")
        return (audio.start_time - (found[0].pts or 0)) * Fraction(audio.time_base)


def _length_s(packets: Sequence[av.Packet[Any]]) -> Fraction:
    """Returns the duration of consecutive packets."""
    first, last = packets[0], packets[-1]
    ticks = (last.pts or 0) + (last.duration or 0) - (first.pts or 0)
    return ticks * Fraction(last.time_base or 1)


def _add_stream(container: av.container.OutputContainer, stream: av.AudioStream) -> av.AudioStream:
    try:
        return container.add_stream_from_template(stream)
    except ValueError as error:
        if container.format.name != "matroska":
            raise AudioFormatError(str(error)) from error
    # PyAV refuses codecs that Matroska has no name for, but FFmpeg writes all of AVI's, such as G.711 and ADPCM: add a
    # stream that PyAV accepts and replace its parameters.
    with av.open(io.BytesIO(_EMPTY_WAV)) as plain:
        added = container.add_stream_from_template(plain.streams.audio[0])
    BitStreamFilterContext("null", stream, added)
    added.codec_context.codec_tag = _NO_TAG
    added.time_base = stream.time_base
    return added


def _config_of(stream: av.AudioStream, packet: av.Packet[Any]) -> bytes | None:
    """Returns the AudioSpecificConfig from the ADTS header of an AAC packet, None if it has none."""
    context = stream.codec_context
    if context.name != "aac" or context.extradata or _adts_kind(packet) is None:
        return None
    (filtered,) = BitStreamFilterContext("aac_adtstoasc", stream).filter(copy_of(packet))
    return bytes(filtered.get_sidedata("new_extradata"))


def _adts_kind(packet: av.Packet[Any]) -> bytes | None:
    """Returns the bits for object type, sampling rate and channels of an ADTS header (ISO/IEC 13818-7, 6.2.1)."""
    head = bytes(packet)[:4]
    if len(head) < 4 or int.from_bytes(head[:2], "big") & 0xFFF6 != _ADTS_SYNC:
        return None
    return bytes((head[2] & 0xFD, head[3] & 0xC0))  # without the private bit


_EMPTY_WAV = (
    struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 38, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 2) + b"\0\0"
)
