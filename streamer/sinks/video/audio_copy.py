"""Sound copied into a container as it is: whether the container holds it, and in which form."""

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
# FFmpeg writes PCM into MP4 in a form that few players read, and what a camera sends as LATM only into Matroska.
_LENGTH_OFF, _LENGTH_OFF_S = Fraction(1, 10), Fraction(1, 50)  # AVI counts whole packets
_NOT_IN = {"mp4": ("pcm_", "aac_latm"), "mov": ("aac_latm",), "avi": ("aac_latm",)}


class NotCopied(Exception):
    """Sound can't be copied as it is; the text says why."""


@dataclass(frozen=True)
class CopyForm:
    """How a kind of container takes the sound of a stream.

    Attributes:
        config: the AudioSpecificConfig of AAC whose packets carry ADTS headers, which containers don't take; else None.
        lead_in_s: how long before time zero sound may begin that players skip; None is any length.
    """

    config: bytes | None
    lead_in_s: Fraction | None


class PacketCopy:
    """One stream of packets on its way into a container."""

    def __init__(self, container: av.container.OutputContainer, stream: av.AudioStream, config: bytes | None) -> None:
        """Adds a stream to `container`, whose header isn't written yet.

        Args:
            container: where packets will go.
            stream: where they come from.
            config: see `CopyForm`.

        Raises:
            NotCopied: if the container can't hold this codec.
            av.FFmpegError: the same.
        """
        self.to = _add_stream(container, stream)
        self._filter = None
        self._header: bytes | None = None
        if config is not None:
            self.to.codec_context.extradata = config
            self._filter = BitStreamFilterContext("aac_adtstoasc", stream)

    def adapt(self, packet: av.Packet[Any]) -> list[av.Packet[Any]]:
        """Returns what is to be written for a packet, without times.

        Raises:
            NotCopied: if the sound is no longer of the kind that the stream began with.
            av.FFmpegError: if the packet is damaged.
        """
        if self._filter is None:
            return [copy_of(packet)]
        header = _adts_kind(packet)
        if self._header is not None and header != self._header:
            raise NotCopied("its sampling rate or its channels change")
        self._header = header
        return self._filter.filter(copy_of(packet))


def copy_form(
    kind: str, options: dict[str, str], stream: av.AudioStream, packets: Sequence[av.Packet[Any]]
) -> CopyForm | None:
    """Finds out by trial, in memory, how a container takes the sound; None if it doesn't.

    Args:
        kind: FFmpeg's muxer.
        options: the muxer's options.
        stream: where the sound comes from.
        packets: the first few packets; they are only looked at.
    """
    if stream.codec_context.name.startswith(_NOT_IN.get(kind, ())):
        return None
    try:
        config = _config_of(stream, packets[0])
        lead_in_s = _try(kind, options, stream, packets, config)
    except (NotCopied, av.FFmpegError, ValueError):
        return None
    return CopyForm(config, None if kind in ("mp4", "mov") else lead_in_s)


def copy_of(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Returns a packet with the same content and no times, which is the caller's to change."""
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
    """Writes the packets from time zero on, and returns how much of them players will skip.

    Raises:
        NotCopied, av.FFmpegError, ValueError: if the container doesn't take them.
    """
    buffer = io.BytesIO()
    container = av.open(buffer, "w", format=kind, container_options=options)
    copy = PacketCopy(container, stream, config)
    zero = packets[0].pts or 0
    for packet in packets:
        for part in copy.adapt(packet):
            part.pts = part.dts = (packet.pts or 0) - zero
            part.stream = copy.to
            container.mux(part)
    container.close()
    with av.open(io.BytesIO(buffer.getvalue()), "r") as written:
        audio = written.streams.audio[0]
        if audio.codec_context is None or audio.start_time is None or audio.time_base is None:
            raise NotCopied("what was written can't be read")
        found = [packet for packet in written.demux(audio) if packet.pts is not None]
        if not found or abs(_length_s(found) - _length_s(packets)) > _LENGTH_OFF * _length_s(packets) + _LENGTH_OFF_S:
            raise NotCopied("what was written is played at another speed")
        return (audio.start_time - (found[0].pts or 0)) * Fraction(audio.time_base)


def _length_s(packets: Sequence[av.Packet[Any]]) -> Fraction:
    """Returns how long some packets in a row last together."""
    first, last = packets[0], packets[-1]
    ticks = (last.pts or 0) + (last.duration or 0) - (first.pts or 0)
    return ticks * Fraction(last.time_base or 1)


def _add_stream(container: av.container.OutputContainer, stream: av.AudioStream) -> av.AudioStream:
    try:
        return container.add_stream_from_template(stream)
    except ValueError as error:
        if container.format.name != "matroska":
            raise NotCopied(str(error)) from error
    # PyAV only lets through what Matroska has a name of its own for. FFmpeg also writes every codec of AVI into it,
    # such as G.711 and ADPCM: so the parameters of a stream that is let through are replaced.
    with av.open(io.BytesIO(_EMPTY_WAV)) as plain:
        added = container.add_stream_from_template(plain.streams.audio[0])
    BitStreamFilterContext("null", stream, added)
    added.codec_context.codec_tag = _NO_TAG
    added.time_base = stream.time_base
    return added


def _config_of(stream: av.AudioStream, packet: av.Packet[Any]) -> bytes | None:
    """Returns the AudioSpecificConfig that the ADTS header of an AAC packet says, None without such a header."""
    context = stream.codec_context
    if context.name != "aac" or context.extradata or _adts_kind(packet) is None:
        return None
    (filtered,) = BitStreamFilterContext("aac_adtstoasc", stream).filter(copy_of(packet))
    return bytes(filtered.get_sidedata("new_extradata"))


def _adts_kind(packet: av.Packet[Any]) -> bytes | None:
    """Returns object type, sampling rate and channels as an ADTS header has them (ISO/IEC 13818-7, 6.2.1)."""
    head = bytes(packet)[:4]
    if len(head) < 4 or int.from_bytes(head[:2], "big") & 0xFFF6 != _ADTS_SYNC:
        return None
    return bytes((head[2] & 0xFD, head[3] & 0xC0))  # without the private bit and what comes after the channels


_EMPTY_WAV = (
    struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 38, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 2) + b"\0\0"
)
