"""Decoding by the GPU's own decoder, NVDEC, through PyNvVideoCodec: packets from the host, pictures on the GPU."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from streamer.common.errors import EngineError, SourceError, StreamerError
from streamer.cuda.driver_copy import copy_on_device
from streamer.cuda.gpu import NON_BLOCKING, Gpu, find_gpu
from streamer.cuda.memory import Surface
from streamer.cuda.nv12 import Nv12, tags_like
from streamer.cuda.staging import BufferLease, BufferPool
from streamer.cuda.status import checking
from streamer.frames.packet_decoder import CorruptPacketError, DecodedPicture, PacketDecoder
from streamer.frames.pixels import UPRIGHT, Orientation
from streamer.frames.yuv import Yuv420

_INSTALL = "pip install 'nanodet-streamer[nvdec]'"
# FFmpeg's names to members of PyNvVideoCodec.cudaVideoCodec.
_CODECS = {
    "h264": "H264", "hevc": "HEVC", "av1": "AV1", "vp8": "VP8", "vp9": "VP9",
    "mpeg1video": "MPEG1", "mpeg2video": "MPEG2", "mpeg4": "MPEG4",
}  # fmt: skip
_FORMATS = ("yuv420p", "yuvj420p")
# NVDEC reads these as byte streams, with their parameter sets in them; files may keep both in another form.
_TO_BYTE_STREAM = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_WITH_HEADERS = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")
_START_CODES = (b"\0\0\1", b"\0\0\0\1")
_MOST_HELD, _MADE_AHEAD = 128, 8
_NO_STAMP = -(1 << 63)


def check_nvdec(gpu_index: int) -> None:
    """Finds out whether a GPU could decode.

    Raises:
        EngineError: if PyCUDA, PyNvVideoCodec, the driver or the GPU is missing; the line says which, and the fix.
    """
    find_gpu(gpu_index)
    load_nvdec()


def load_nvdec() -> Any:
    """Returns the module `PyNvVideoCodec`.

    Raises:
        EngineError: if it, or one of the driver's libraries, is missing.
    """
    if importlib.util.find_spec("PyNvVideoCodec") is None:
        raise EngineError(f"PyNvVideoCodec is not installed: {_INSTALL}")
    logging.getLogger("PyNvVideoCodec").addFilter(_is_warning)  # it tells of encoders, whatever level is asked for
    try:
        import PyNvVideoCodec as nvc
    except Exception as error:  # its own import raises RuntimeError, ImportError, OSError, with pages of advice
        said = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"PyNvVideoCodec can't be loaded ({said}): update the driver; start a container with"
            " NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        ) from error
    return nvc


class NvdecPackets(PacketDecoder):
    """Decodes on a GPU; `DecodedPicture.pixels` are `Nv12`.

    Each picture is copied within the GPU once (microseconds), because NVDEC uses its own surfaces again: on the stream
    on which NVDEC writes them, so nobody waits for the copy but who reads the picture. Damage that
    the hardware conceals isn't told. After a packet that it refuses, NVDEC begins anew at the next key frame; so it
    does where a stream that was taken for one without B-frames has some.
    """

    def __init__(
        self,
        stream: VideoStream,
        tick_s: float,
        first: DecodedPicture,
        turn: Orientation,
        gpu_index: int,
        *,
        live: bool,
    ) -> None:
        """Opens the decoder.

        Args:
            stream: what the packets are of, its parameters known.
            tick_s: seconds a tick of its time stamps.
            first: its first picture as the CPU decodes it: NVDEC doesn't tell colours as exactly.
            turn: how pictures are to be turned, which is not done here.
            gpu_index: number of the GPU.
            live: whether each picture is to come at once, rather than a few packets later.

        Raises:
            EngineError: if something is missing, or NVDEC doesn't take such a video; the text goes on after
                "... can't be decoded:".
        """
        context = stream.codec_context
        codec = context.codec.canonical_name
        self._nvc = nvc = load_nvdec()
        _check_video(codec, context, first, turn)
        import pycuda.driver as drv

        assert isinstance(first.pixels, Yuv420)
        self._tags = tags_like(first.pixels)
        self._tick_s, self._duration_s = tick_s, 0.0
        self._codec = getattr(nvc.cudaVideoCodec, _CODECS[codec])
        self._filter, self._headers = _byte_stream_of(codec, context, stream)
        self._codec_name, self._sequence = codec, b""
        self._shape: list[int] = []
        self._nbytes, self._size_wh = 0, (0, 0)
        self._is_corrupt = False
        self._last_pts = _NO_STAMP
        self._at_once = live and not context.has_b_frames
        self._begins_anew = False
        self._cuda_error = drv.Error
        self._decoder: Any = None
        self._closed = False
        self._stream: Any = None
        self._gpu = gpu = Gpu(gpu_index)
        # Pictures may outlive the decoder, and need the GPU as long.
        self._pool: BufferPool[Surface] = BufferPool(lambda nbytes: Surface(gpu, nbytes), _MOST_HELD, emptied=gpu.close)
        try:
            with gpu.active(), checking("make a stream"):
                self._stream = drv.Stream(NON_BLOCKING)
            self._pool.fill(context.width * context.height * 3 // 2, _MADE_AHEAD)
            self._begin()
        except BaseException:
            self.close()
            raise

    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        if self._begins_anew and packet.is_keyframe:
            self._begin_anew()
        if self._decoder is None:
            return []
        data, pts = self._data, packet.pts
        data.pts = _NO_STAMP if pts is None else pts
        self._is_corrupt = self._is_corrupt or packet.is_corrupt
        self._duration_s = (packet.duration or 0) * self._tick_s
        if self._at_once and pts is not None:
            if pts < self._last_pts:
                self._at_once, self._begins_anew = False, True
            self._last_pts = pts
        try:
            parts = self._byte_stream(packet)
        except av.FFmpegError as error:
            raise CorruptPacketError(str(error.strerror)) from error
        pictures: list[DecodedPicture] = []
        try:
            with self._gpu.active():
                for part in parts:
                    if packet.is_keyframe and self._is_new_sequence(part):
                        self._flush(pictures)
                        self._begin_anew()
                        data, self._unsent = self._data, b""  # the packet has its own
                        data.pts = _NO_STAMP if pts is None else pts
                    data.bsl_data, data.bsl = part.buffer_ptr, part.buffer_size
                    self._take(self._decoder.Decode(data), pictures)
        except (EngineError, self._cuda_error) as error:
            raise SourceError(f"has no room on the GPU for a picture: {_one_line(error)}") from error
        except StreamerError:
            raise
        except Exception as error:  # what PyNvVideoCodec raises has no base in common
            self._let_go()
            raise CorruptPacketError(f"NVDEC: {_one_line(error)}") from error
        return pictures

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._gpu.active():
            self._decoder = self._stream = None
        self._pool.close()

    def _begin(self) -> None:
        """Opens NVDEC, in place of the one before if there is one; the next packet has to be a key frame."""
        nvc = self._nvc
        latency = nvc.DisplayDecodeLatencyType.LOW if self._at_once else nvc.DisplayDecodeLatencyType.NATIVE
        try:
            with self._gpu.active():
                self._decoder = None
                self._decoder = nvc.CreateDecoder(
                    gpuid=self._gpu.index, codec=self._codec, cudacontext=self._gpu.handle,
                    cudastream=self._stream.handle, usedevicememory=True, latency=latency,
                )  # fmt: skip
        except Exception as error:
            raise EngineError(f"NVDEC can't be opened: {_one_line(error)}") from error
        self._begins_anew = False
        self._data = nvc.PacketData()
        if self._at_once:
            self._data.decode_flag = nvc.VideoPacketFlag.ENDOFPICTURE
        self._unsent = self._headers

    def _begin_anew(self) -> None:
        try:
            self._begin()
        except EngineError as error:
            raise SourceError(f"lost the GPU's decoder: {error}") from error

    def _let_go(self) -> None:
        with self._gpu.active():
            self._decoder = None
        self._begins_anew = True

    def _is_new_sequence(self, part: Packet[Any]) -> bool:
        """Whether pictures of another kind begin; NVDEC would give smaller ones at the size of those before."""
        before, found = self._sequence, sequence_of(self._codec_name, bytes(part))
        self._sequence = found or before
        return bool(before and found and found != before)

    def _flush(self, pictures: list[DecodedPicture]) -> None:
        """Takes the pictures that NVDEC still holds."""
        end = self._nvc.PacketData()
        end.bsl = 0
        self._take(self._decoder.Decode(end), pictures)

    def _byte_stream(self, packet: Packet[VideoStream]) -> Iterable[Packet[Any]]:
        """Returns a packet in the form that NVDEC reads; an empty one, the end, stays empty."""
        if not packet.size:
            return (packet,)
        if self._filter is not None:
            return self._filter.filter(packet)
        if self._unsent:
            headers, self._unsent = self._unsent, b""
            return (Packet(headers + bytes(packet)),)
        return (packet,)

    def _take(self, surfaces: Iterable[Any], pictures: list[DecodedPicture]) -> None:
        """Begins to copy NVDEC's pictures into memory of our own."""
        for surface in surfaces:
            if surface.shape != self._shape:
                self._measure(surface)
            buffer = self._pool.take(self._nbytes)
            if buffer is None:
                raise SourceError(f"has {_MOST_HELD} decoded pictures in use at once: lower --depth")
            pixels = Nv12(BufferLease(self._pool, buffer), self._size_wh, self._tags)
            copy_on_device(buffer.address, surface.GetPtrToPlane(0), self._nbytes, self._stream.handle)
            buffer.written.record(self._stream)
            stamp = surface.timestamp
            if stamp >= 1 << 63:
                stamp -= 1 << 64
            stamp_s = None if stamp == _NO_STAMP else stamp * self._tick_s
            pictures.append(DecodedPicture(pixels, stamp_s, self._duration_s, self._is_corrupt))
            self._is_corrupt = False

    def _measure(self, surface: Any) -> None:
        """Takes a picture's size, which holds for those that follow."""
        rows, width = shape = list(surface.shape)
        if surface.framesize() != rows * width or rows % 3 or "NV12" not in str(surface.format):
            raise SourceError(f"comes from NVDEC as {surface.format} of {shape}, not as 8-bit NV12; use --decode cpu")
        self._shape, self._nbytes, self._size_wh = shape, rows * width, (width, rows * 2 // 3)


def sequence_of(codec: str, data: bytes) -> bytes:
    """Returns the sequence parameter sets at the beginning of a byte stream's picture, b"" where it has none.

    Args:
        codec: ``h264`` or ``hevc``; others have none.
        data: one picture with start codes. The kinds of its units are those of ITU-T H.264 table 7-1, H.265 table 7-1.
    """
    sets = []
    for unit in data.split(b"\0\0\1")[1:] if codec in _TO_BYTE_STREAM else ():
        if not unit:
            continue
        kind, of_set, first_picture, last_picture = (
            (unit[0] & 0x1F, 7, 1, 5) if codec == "h264" else (unit[0] >> 1 & 0x3F, 33, 0, 31)
        )
        if first_picture <= kind <= last_picture:
            break
        if kind == of_set:
            sets.append(unit.rstrip(b"\0"))
    return b"\0".join(dict.fromkeys(sets))


def _check_video(codec: str, context: VideoCodecContext, first: DecodedPicture, turn: Orientation) -> None:
    """Raises EngineError if NVDEC or this program can't do what the video needs."""
    if codec not in _CODECS:
        raise EngineError(f"NVDEC has no {codec}")
    if context.pix_fmt not in _FORMATS or not isinstance(first.pixels, Yuv420):
        raise EngineError(f"only 8-bit 4:2:0 is taken from NVDEC, this is {context.pix_fmt}")
    if turn != UPRIGHT:
        raise EngineError("it is stored rotated or mirrored, which only the CPU's decoder puts right")
    if context.width % 2 or context.height % 2:
        raise EngineError(f"NVDEC gives no odd sizes, this is {context.width}x{context.height}")


def _byte_stream_of(
    codec: str, context: VideoCodecContext, stream: VideoStream
) -> tuple[BitStreamFilterContext | None, bytes]:
    """Returns what brings packets into a byte stream where they aren't, and what has to stand before the first."""
    headers = bytes(context.extradata or b"") if codec in _WITH_HEADERS else b""
    if codec in _TO_BYTE_STREAM and headers and not headers.startswith(_START_CODES):
        return BitStreamFilterContext(_TO_BYTE_STREAM[codec], stream), b""
    return None, headers


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
