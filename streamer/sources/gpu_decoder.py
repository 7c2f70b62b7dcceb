"""Chooses between GPU and CPU decoding: for the whole run, and for one video."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
from av.packet import Packet
from av.video.stream import VideoStream

from streamer.common.errors import EngineError, SourceError
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture, PacketDecoder
from streamer.frames.pixels import Orientation
from streamer.sources.cpu_decoder import CpuDecoder
from streamer.sources.options import SourceOptions

if TYPE_CHECKING:
    from streamer.cuda.nvdec import NvdecPacketDecoder

log = logging.getLogger(__name__)


def decoding_gpus(decode: Literal["auto", "gpu", "cpu"], *, device: str, engine: str) -> tuple[int, ...]:
    """Returns the numbers of the GPUs that decode, none for the CPU; logs why ``auto`` chooses the CPU.

    Args:
        decode: ``auto`` chooses the detector's GPUs where nothing is missing.
        device: the detector's: ``auto``, ``cpu``, or what `parse_devices` takes.
        engine: the detector's, or ``auto``.

    Raises:
        ConfigError: if `device` is none of these.
        EngineError: if `decode` is ``gpu`` and something is missing; names it and the fix.
    """
    from streamer.cuda.gpu import expects_gpu, parse_devices
    from streamer.cuda.nvdec import check_nvdec

    if decode == "cpu":
        return ()
    try:
        numbers = (0,) if device in ("auto", "cpu") else parse_devices(device)
        if decode == "auto":
            _check_detector(device, engine)
        for number in numbers:
            check_nvdec(number)
    except EngineError as error:
        if decode == "gpu":
            raise EngineError(f"--decode gpu: {error}; or use --decode cpu") from error
        level = logging.INFO if expects_gpu() else logging.DEBUG
        log.log(level, "videos are decoded by the CPU: %s", error)
        return ()
    return numbers


def _check_detector(device: str, engine: str) -> None:
    """Raises EngineError if the detector won't run on a GPU: frames would have to be copied back."""
    from streamer.engines import ENGINE_NAMES
    from streamer.engines.gpu_engines import GPU_ENGINES, installed_gpu_engines

    if device == "cpu" or engine in ENGINE_NAMES:
        raise EngineError("the network runs there too")
    wanted = GPU_ENGINES if engine == "auto" else (engine,)
    missing = [command for name, command in installed_gpu_engines().items() if name in wanted and command]
    if len(missing) == len(wanted):
        raise EngineError(f"no engine for a GPU is installed: {missing[0]}")


class GpuFirstDecoder(PacketDecoder):
    """Decodes on the GPU, or on the CPU what the GPU can't: decided once, at the first picture.

    The CPU decodes up to the first picture, which has the rotation, colours and pixel format, and shows where a stream
    can be joined. The GPU then gets the same packets again, from the last key frame.
    """

    def __init__(self, stream: VideoStream, tick_s: float, shown: str, options: SourceOptions, *, live: bool) -> None:
        """Opens nothing on the GPU yet.

        `tick_s` is a tick of the stream's time stamps, `shown` the source in messages, and `live` whether low latency
        matters more than throughput.
        """
        self._stream, self._tick_s, self._shown, self._options, self._live = stream, tick_s, shown, options, live
        self._cpu = CpuDecoder(stream, tick_s, options.max_pixels)
        self._packets: list[Packet[VideoStream]] = []
        self._chosen: PacketDecoder | None = None

    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        if self._chosen is not None:
            return self._chosen.decode(packet)
        pictures = self._cpu.decode(packet)
        self._packets.append(packet)
        return self._choose(pictures) if pictures else []

    @property
    def orientation(self) -> Orientation | None:
        """Rotation and mirroring for display; None before the first picture."""
        return self._cpu.orientation

    def close(self) -> None:
        self._packets.clear()
        self._cpu.close()
        if self._chosen is not None:
            self._chosen.close()

    def _choose(self, pictures: list[DecodedPicture]) -> list[DecodedPicture]:
        """Chooses the decoder; returns the pictures so far from it. `pictures` are the CPU's."""
        packets, self._packets = _from_key_frame(self._packets, pictures[0].stamp_s, self._tick_s), []
        gpu: NvdecPacketDecoder | None = None
        try:
            gpu = self._open_gpu(pictures[0])
            decoded = [picture for packet in packets for picture in gpu.decode(packet)]
        except (EngineError, SourceError, CorruptPacketError) as error:
            if gpu is not None:
                gpu.close()
            if self._options.gpu_only:
                raise SourceError(f"can't be decoded by the GPU: {error}; use --decode cpu, or auto") from error
            _log_once(f"source {self._shown!r} is decoded by the CPU: {error}")
            self._chosen = self._cpu
            return pictures
        _log_once(f"source {self._shown!r} is decoded by GPU {self._options.gpu}")
        self._chosen = gpu
        self._cpu.close()
        return decoded

    def _open_gpu(self, first: DecodedPicture) -> NvdecPacketDecoder:
        from streamer.cuda.nvdec import NvdecPacketDecoder

        assert self._options.gpu is not None and self._cpu.orientation is not None
        return NvdecPacketDecoder(
            self._stream, self._tick_s, first, self._cpu.orientation, self._options.gpu, live=self._live
        )


def _from_key_frame(
    packets: list[Packet[VideoStream]], stamp_s: float | None, tick_s: float
) -> list[Packet[VideoStream]]:
    """Returns the packets from the last key frame before the picture at `stamp_s`."""
    start = 0
    for index, packet in enumerate(packets):
        if packet.is_keyframe:
            start = index
        if stamp_s is None or (packet.pts is not None and packet.pts * tick_s == stamp_s):
            break
    return packets[start:]


@lru_cache(maxsize=1024)
def _log_once(text: str) -> None:
    """Logs a text once, rather than at each reconnect."""
    log.info("%s", text)
