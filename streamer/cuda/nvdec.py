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
# NVDEC reads these as byte streams that contain their parameter sets; files may store both in another form.
_TO_BYTE_STREAM = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_WITH_HEADERS = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4")
_START_CODES = (b"\0\0\1", b"\0\0\0\1")
_PREALLOCATED_SURFACES = 8
_NO_STAMP = -(1 << 63)


def check_nvdec(gpu_index: int) -> None:
    """Checks that a GPU can decode."""
    find_gpu(gpu_index)
    load_nvdec()


def load_nvdec() -> Any:
    """Returns the module `PyNvVideoCodec`."""
    if importlib.util.find_spec("PyNvVideoCodec") is None:
        raise EngineError(f"PyNvVideoCodec is not installed: {_INSTALL}")
    # it logs about encoders at any level
    logging.getLogger("PyNvVideoCodec").addFilter(_is_warning)
    try:
        import PyNvVideoCodec as nvc
    except Exception as error:  # its import raises RuntimeError, ImportError or OSError, with pages of advice
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"PyNvVideoCodec can't be loaded ({reason}): update the driver; start a container with"
            " NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        ) from error
    return nvc


class NvdecPacketDecoder(PacketDecoder):
    """Decodes on a GPU; `DecodedPicture.pixels` are `Nv12`.

    NVDEC reuses its surfaces, so each picture is copied within the GPU once (microseconds), on NVDEC's own stream: only
    readers wait for the copy. Damage that the hardware conceals isn't reported. NVDEC is reopened at the next key frame
    after a packet that it refuses, and where B-frames appear in a stream whose headers promise none.

    Attributes:
        max_surfaces: how many decoded pictures of one source may be in use at once.
    """

    max_surfaces = 128

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
        """Opens the decoder; an EngineError's message follows "... can't be decoded:".

        Args:
            stream: the packets' stream, its parameters known.
            tick_s: seconds of one tick of its time stamps.
            first: its first picture as the CPU decodes it; NVDEC reports colours less exactly.
            turn: the orientation that pictures need; only upright ones are decoded here.
            gpu_index: number of the GPU.
            live: whether each picture must come at once, rather than a few packets later.
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
        self._codec_name, self._parameter_sets = codec, b""
        self._shape: list[int] = []
        self._nbytes, self._size_wh = 0, (0, 0)
        self._is_corrupt = False
        self._last_pts = _NO_STAMP
        self._low_latency = live and not context.has_b_frames
        self._reopens_at_key_frame = False
        self._cuda_error = drv.Error
        self._decoder: Any = None
        self._closed = False
        self._stream: Any = None
        self._gpu = gpu = Gpu(gpu_index)
        # pictures may outlive the decoder, and need the GPU's context
        self._pool: BufferPool[Surface] = BufferPool(
            lambda nbytes: Surface(gpu, nbytes), self.max_surfaces, on_empty=gpu.close
        )
        try:
            with gpu.active(), checking("make a stream"):
                self._stream = drv.Stream(NON_BLOCKING)
            self._pool.preallocate(context.width * context.height * 3 // 2, _PREALLOCATED_SURFACES)
            self._open()
        except BaseException:
            self.close()
            raise

    def decode(self, packet: Packet[VideoStream]) -> list[DecodedPicture]:
        if self._reopens_at_key_frame and packet.is_keyframe:
            self._reopen()
        if self._decoder is None:
            return []
        data, pts = self._data, packet.pts
        data.pts = _NO_STAMP if pts is None else pts
        self._is_corrupt = self._is_corrupt or packet.is_corrupt
        self._duration_s = (packet.duration or 0) * self._tick_s
        if self._low_latency and pts is not None:
            if pts < self._last_pts:  # a B-frame
                self._low_latency, self._reopens_at_key_frame = False, True
            self._last_pts = pts
        try:
            parts = self._byte_stream(packet)
        except av.FFmpegError as error:
            raise CorruptPacketError(str(error.strerror)) from error
        pictures: list[DecodedPicture] = []
        try:
            with self._gpu.active():
                for part in parts:
                    if packet.is_keyframe and self._has_new_parameters(part):
                        self._flush(pictures)
                        self._reopen()
                        data, self._pending_headers = self._data, b""  # the packet contains its own
                        data.pts = _NO_STAMP if pts is None else pts
                    data.bsl_data, data.bsl = part.buffer_ptr, part.buffer_size
                    self._copy(self._decoder.Decode(data), pictures)
        except (EngineError, self._cuda_error) as error:
            raise SourceError(f"has no room on the GPU for a picture: {_one_line(error)}") from error
        except StreamerError:
            raise
        except Exception as error:  # PyNvVideoCodec's exceptions share no base but Exception
            with self._gpu.active():
                self._decoder = None
            self._reopens_at_key_frame = True
            raise CorruptPacketError(f"NVDEC: {_one_line(error)}") from error
        return pictures

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._gpu.active():
            self._decoder = self._stream = None
        self._pool.close()

    def _open(self) -> None:
        """Opens NVDEC, in place of an earlier decoder if there is one; the next packet must be a key frame."""
        nvc = self._nvc
        latency = nvc.DisplayDecodeLatencyType.LOW if self._low_latency else nvc.DisplayDecodeLatencyType.NATIVE
        try:
            with self._gpu.active():
                self._decoder = None
                self._decoder = nvc.CreateDecoder(
                    gpuid=self._gpu.index, codec=self._codec, cudacontext=self._gpu.handle,
                    cudastream=self._stream.handle, usedevicememory=True, latency=latency,
                )  # fmt: skip
        except Exception as error:
            raise EngineError(f"NVDEC can't be opened: {_one_line(error)}") from error
        self._reopens_at_key_frame = False
        self._data = nvc.PacketData()
        if self._low_latency:
            self._data.decode_flag = nvc.VideoPacketFlag.ENDOFPICTURE
        self._pending_headers = self._headers

    def _reopen(self) -> None:
        try:
            self._open()
        except EngineError as error:
            raise SourceError(f"lost the GPU's decoder: {error}") from error

    def _has_new_parameters(self, part: Packet[Any]) -> bool:
        """Returns whether the parameter sets change; NVDEC would give smaller pictures at the earlier size."""
        before, found = self._parameter_sets, parameter_sets_of(self._codec_name, bytes(part))
        self._parameter_sets = found or before
        return bool(before and found and found != before)

    def _flush(self, pictures: list[DecodedPicture]) -> None:
        """Collects the pictures that NVDEC still holds."""
        end = self._nvc.PacketData()
        end.bsl = 0
        self._copy(self._decoder.Decode(end), pictures)

    def _byte_stream(self, packet: Packet[VideoStream]) -> Iterable[Packet[Any]]:
        """Returns a packet in the form that NVDEC reads; an empty one, the end, stays empty."""
        if not packet.size:
            return (packet,)
        if self._filter is not None:
            return self._filter.filter(packet)
        if self._pending_headers:
            headers, self._pending_headers = self._pending_headers, b""
            return (Packet(headers + bytes(packet)),)
        return (packet,)

    def _copy(self, surfaces: Iterable[Any], pictures: list[DecodedPicture]) -> None:
        """Starts copying NVDEC's surfaces into the pool's."""
        for surface in surfaces:
            if surface.shape != self._shape:
                self._set_shape(surface)
            buffer = self._pool.acquire(self._nbytes)
            if buffer is None:
                raise SourceError(f"has {self.max_surfaces} decoded pictures in use at once: lower --depth")
            pixels = Nv12(BufferLease(buffer, self._pool.release), self._size_wh, self._tags, self._pool)
            copy_on_device(buffer.address, surface.GetPtrToPlane(0), self._nbytes, self._stream.handle)
            buffer.ready_event.record(self._stream)
            stamp = surface.timestamp
            if stamp >= 1 << 63:
                stamp -= 1 << 64
            stamp_s = None if stamp == _NO_STAMP else stamp * self._tick_s
            pictures.append(DecodedPicture(pixels, stamp_s, self._duration_s, self._is_corrupt))
            self._is_corrupt = False

    def _set_shape(self, surface: Any) -> None:
        """Stores the size of a picture and of those that follow."""
        rows, width = shape = list(surface.shape)
        if surface.framesize() != rows * width or rows % 3 or "NV12" not in str(surface.format):
            raise SourceError(f"comes from NVDEC as {surface.format} of {shape}, not as 8-bit NV12; use --decode cpu")
        self._shape, self._nbytes, self._size_wh = shape, rows * width, (width, rows * 2 // 3)


def parameter_sets_of(codec: str, data: bytes) -> bytes:
    """Returns the sequence parameter sets at the beginning of a byte stream's picture, b"" where it has none.

    Args:
        codec: ``h264`` or ``hevc``; others have none.
        data: one picture with start codes; unit types are those of ITU-T H.264 table 7-1 and H.265 table 7-1.
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
    """Raises EngineError if NVDEC or this program can't decode the video."""
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
    """Returns the filter that converts packets to a byte stream, if needed, and headers to send before the first."""
    headers = bytes(context.extradata or b"") if codec in _WITH_HEADERS else b""
    if codec in _TO_BYTE_STREAM and headers and not headers.startswith(_START_CODES):
        return BitStreamFilterContext(_TO_BYTE_STREAM[codec], stream), b""
    return None, headers


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
