"""One video file of a source's own packets, while it is written; only sound that must be is encoded again."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av

from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.frames.pixels import UPRIGHT, matrix_of
from streamer.sinks.base import WriteError
from streamer.sinks.files import reason
from streamer.sinks.video.audio import exact
from streamer.sinks.video.audio_encoder import AudioEncoder, encoder_for
from streamer.sinks.video.audio_placement import PacketPlacer, lead_in_of_encoded
from streamer.sinks.video.audio_remuxer import AudioRemuxer, probe_remux
from streamer.sinks.video.muxed_file import AUDIO_ERRORS, MUXERS, MuxedFile

if TYPE_CHECKING:
    from av.container import InputContainer

log = logging.getLogger(__name__)

_TICK_S = Fraction(1, 90_000)
_NOMINAL_S = 0.04


class PacketFile(MuxedFile):
    """A file that begins with a key frame, whose time becomes time zero.

    Sound that the container can't hold becomes AAC; sound that can't be written at all is left out with a warning and
    costs no picture.

    Attributes:
        start_s: its time zero, as `Frame.pts_s`.
        length_s: how long the pictures are seen that it holds so far.
        is_finished: whether it has its closing parts.
    """

    def __init__(self, path: Path, first: MediaPacket, sound: Sequence[MediaPacket], *, replace: bool) -> None:
        """Makes the file; neither `first` nor `sound` is written yet.

        Args:
            path: its suffix is one of `streamer.sinks.spec.RECORD_ENDINGS`.
            first: the key frame that it begins with.
            sound: the first packets of its sound; none where it has none.
            replace: whether an existing file is replaced; else FileExistsError is raised.

        Raises:
            WriteError: if it can't be written, or the container doesn't take this codec.
        """
        super().__init__(path, replace=replace)
        self.start_s = first.time_s
        self.length_s = 0.0
        self.is_finished = False
        self._pending: MediaPacket | None = None
        self._last_dts: int | None = None
        self._last_s = _NOMINAL_S
        self._templates: list[InputContainer] = []
        self._placer: PacketPlacer | None = None
        self._remuxer: AudioRemuxer | None = None
        self._encoder: AudioEncoder | None = None
        with self._rolling_back():
            self._open(first.format, sound)

    def _open(self, pictures: PacketFormat, sound: Sequence[MediaPacket]) -> None:
        muxer, options = MUXERS[self.path.suffix.lower()]
        self._kind = muxer
        self._container = av.open(self._file, "w", format=muxer, container_options=options)
        try:
            self._video = self._container.add_stream_from_template(self._template(pictures))
        except ValueError as error:
            raise OSError(f"{self.path.suffix} doesn't hold {pictures.codec}: choose .mkv") from error
        if pictures.orientation != UPRIGHT and hasattr(self._video, "set_display_matrix"):
            self._video.set_display_matrix(matrix_of(pictures.orientation))
        self._video.time_base = Fraction(1, 1000) if muxer == "matroska" else _TICK_S
        if sound:
            try:
                self._add_sound(muxer, options, sound)
            except AUDIO_ERRORS as error:
                codec = sound[0].format.codec
                log.warning("no sound in %s: %s can't be written (%s)", self.path, codec, reason(error))
                self._placer = None
        self._container.start_encoding()  # may choose another time base
        self._ticks_a_s = float(1 / Fraction(self._video.time_base or _TICK_S))

    def _template(self, about: PacketFormat) -> Any:
        """Returns a stream with the parameters of `about`, kept open as long as this file."""
        container = cast("InputContainer", av.open(io.BytesIO(about.template), format="nut"))
        self._templates.append(container)
        return container.streams[0]

    def _add_sound(self, muxer: str, options: dict[str, str], sound: Sequence[MediaPacket]) -> None:
        stream = self._template(sound[0].format)
        form = probe_remux(muxer, options, stream, [_audio_packet(each, stream) for each in sound])
        if form is not None:
            self._remuxer = AudioRemuxer(self._container, stream, form.config)
            self._placer = PacketPlacer(self._remuxer.to, muxer, Fraction(0), self._container.mux)
            return
        to = self._container.add_stream(encoder_for(muxer))
        assert isinstance(to, av.AudioStream)
        about = sound[0].format
        self._encoder = AudioEncoder(
            to.codec_context, about.rate, about.channels, begin_s=Fraction(0), fills_pauses=False
        )  # fmt: skip
        self._placer = PacketPlacer(to, muxer, lead_in_of_encoded(muxer), self._container.mux)
        self._decoded = stream

    def write(self, packet: MediaPacket) -> None:
        """Appends the next packet: pictures, or sound of the format that it was made with.

        Raises:
            WriteError: if the file can't take it. What was written before is playable.
        """
        with self._rolling_back():
            if not packet.is_video:
                self._write_sound(packet)
                return
            before, self._pending = self._pending, packet
            if before is not None:
                self._mux(before, packet.decode_time_s - before.decode_time_s)

    def close(self, next_s: float | None = None) -> None:
        """Writes what is left and the file's closing parts. Safe to call twice, and after an error.

        Args:
            next_s: decoding time of the first packet of the next file, until which this one lasts; None lets the last
                picture last as long as the one before.

        Raises:
            WriteError: if it can't be finished. What was written before is playable.
        """
        if self._is_closed:
            return
        with self._rolling_back():
            if self._pending is not None:
                last_s = self._last_s
                if next_s is not None:
                    last_s = next_s - self._pending.decode_time_s
                self._mux(self._pending, last_s)
            if self._encoder is not None and self._placer is not None:
                for part in self._encoder.finish():
                    self._placer.write_at(Fraction(part.pts or 0, self._encoder.rate), part)
            self._container.close()
        self._is_closed = self.is_finished = True
        self._file.close()
        self._close_templates()

    def _mux(self, packet: MediaPacket, duration_s: float) -> None:
        self._last_s = duration_s
        out: av.Packet[Any] = av.Packet(cast("bytes", packet.data))
        out.stream, out.time_base, out.is_keyframe = self._video, self._video.time_base, packet.is_key
        out.dts = self._ticks(packet.decode_time_s)
        if self._last_dts is not None:
            out.dts = max(out.dts, self._last_dts + 1)
        self._last_dts = out.dts
        out.pts = max(out.dts, self._ticks(packet.time_s))
        out.duration = max(1, round(duration_s * self._ticks_a_s))
        self._container.mux(out)
        self.length_s = max(self.length_s, (out.pts + out.duration) / self._ticks_a_s)
        if self._file.commit() and out.dts > 0:  # the first picture only brings out the container's header
            self._is_playable = True

    def _ticks(self, time_s: float) -> int:
        return round((time_s - self.start_s) * self._ticks_a_s)

    def _write_sound(self, packet: MediaPacket) -> None:
        if self._placer is None:
            return
        begins_s = exact(packet.time_s) - exact(self.start_s)
        try:
            if self._remuxer is not None:
                for part in self._remuxer.adapt(_audio_packet(packet, self._remuxer.to)):
                    self._placer.write_at(begins_s, part)
            elif self._encoder is not None:
                for part in self._encoder.encode(_audio_packet(packet, self._decoded), -exact(self.start_s)):
                    self._placer.write_at(Fraction(part.pts or 0, self._encoder.rate), part)
        except AUDIO_ERRORS as error:
            if self._file.error is not None:
                raise
            log.warning("the sound of %s ends at %.1f s: %s", self.path, begins_s, reason(error))
            self._placer = None

    def _fail(self, error: BaseException) -> WriteError:
        failure = super()._fail(error)
        self._close_templates()
        return failure

    def _close_templates(self) -> None:
        for template in self._templates:
            template.close()


def can_hold(suffix: str, pictures: PacketFormat) -> bool:
    """Whether a container, by the suffix of its files, takes a codec."""
    muxer, _ = MUXERS[suffix]
    with (
        av.open(io.BytesIO(pictures.template), format="nut") as template,
        av.open(io.BytesIO(), "w", format=muxer) as container,
    ):
        try:
            container.add_stream_from_template(template.streams[0])
        except ValueError:
            return False
    return True


def _audio_packet(packet: MediaPacket, stream: Any) -> av.Packet[Any]:
    """Returns PyAV's form of a packet of sound, its times in microseconds."""
    out: av.Packet[Any] = av.Packet(cast("bytes", packet.data))
    out.stream, out.time_base, out.is_keyframe = stream, Fraction(1, 1_000_000), True
    out.pts = out.dts = round(packet.time_s * 1e6)
    out.duration = round(packet.duration_s * 1e6)
    return out
