"""Video files and streams through the GPU's own decoder: frames stay in device memory."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.nv12 import Nv12
from streamer.cuda.staging import BufferPool, Loan
from streamer.cuda.status import checking
from streamer.errors import EngineError, SourceError
from streamer.frame import Frame
from streamer.sources.base import Source, SourceInfo
from streamer.yuv_matrix import Matrix

_SURFACES = 32


class NvdecSource(Source):
    """Frames of one H.264, HEVC, AV1... video, decoded by NVDEC, as `Nv12` pixels; `frame.image` copies to the host.

    Only what NVDEC gives as 8-bit 4:2:0 is taken. Each frame is copied within the GPU once (microseconds), because
    the decoder uses its own surfaces again.
    """

    def __init__(self, uri: str, *, name: str, gpu_index: int = 0, live: bool = False) -> None:
        """Opens `uri`, a file or an RTSP address.

        Args:
            uri: what to read.
            name: the source's name.
            gpu_index: number of the GPU that decodes.
            live: whether frames can't be waited with.

        Raises:
            EngineError: if PyNvVideoCodec, the driver or the GPU is missing.
            SourceError: if it can't be opened or holds a video that NVDEC doesn't decode.
        """
        if importlib.util.find_spec("PyNvVideoCodec") is None:
            raise EngineError("PyNvVideoCodec is not installed: pip install 'nanodet-streamer[nvdec]'")
        import pycuda.driver as drv
        import PyNvVideoCodec as nvc

        self._gpu = Gpu(gpu_index)
        self._closed = False
        self._count = 0
        self._pool: BufferPool[DeviceBuffer] = BufferPool(lambda nbytes: DeviceBuffer(self._gpu, nbytes), _SURFACES)
        try:
            with self._gpu.active(), checking("make a stream"):
                self._stream: Any = drv.Stream()
            self._demuxer = nvc.CreateDemuxer(filename=uri)
            self._decoder = nvc.CreateDecoder(
                gpuid=gpu_index, codec=self._demuxer.GetNvCodecId(), usedevicememory=True,
                cudacontext=self._gpu.handle, cudastream=self._stream.handle,
            )  # fmt: skip
        except Exception as error:  # PyNvVideoCodec's exceptions share no base but Exception
            self._gpu.close()
            if isinstance(error, EngineError):
                raise
            said = " ".join(str(error).split())
            raise SourceError(f"NVDEC can't open {uri!r}: {said}; use --decode cpu") from error
        size_wh = (int(self._demuxer.Width()), int(self._demuxer.Height()))
        fps = float(self._demuxer.FrameRate()) or None
        self._tick_s = int(self._demuxer.GetTimebaseNum()) / max(1, int(self._demuxer.GetTimebaseDen()))
        self._first_s: float | None = None
        path = Path(uri) if "://" not in uri else None
        self.info = SourceInfo(name, uri, size_wh, fps, None, None, live, path)
        self._matrix, self._full_range = _colours(self._demuxer)

    def __iter__(self) -> Iterator[Frame]:
        packets = iter(self._demuxer)
        while not self._closed:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                with self._gpu.active():
                    decoded = self._decoder.Decode(packet)
            except Exception as error:
                raise SourceError(f"source {self.info.uri!r} broke off: {' '.join(str(error).split())}") from error
            for surface in decoded:
                yield self._frame(surface)

    def _frame(self, surface: Any) -> Frame:
        import pycuda.driver as drv

        rows, width = (int(side) for side in surface.shape)
        if int(surface.framesize()) != rows * width or rows % 3 or "NV12" not in str(surface.format):
            raise SourceError(
                f"source {self.info.uri!r}: NVDEC gives {surface.format} of {tuple(surface.shape)}, wanted 8-bit NV12;"
                " use --decode cpu"
            )
        buffer = self._pool.take(rows * width)
        if buffer is None:
            raise SourceError(f"source {self.info.uri!r}: {_SURFACES} decoded frames are held at once")
        pixels = Nv12(Loan(self._pool, buffer), (width, rows * 2 // 3), self._matrix, self._full_range)
        with self._gpu.active(), checking("copy a decoded frame"):
            drv.memcpy_dtod_async(buffer.address, int(surface.GetPtrToPlane(0)), rows * width, self._stream)
            self._stream.synchronize()
        index = self._count
        self._count += 1
        stamp_s = float(surface.timestamp) * self._tick_s
        if self._first_s is None:
            self._first_s = stamp_s
        held: Any = pixels
        return Frame(held, self.info.name, index, max(0.0, stamp_s - self._first_s), time.perf_counter())

    def close(self) -> None:
        """Lets the decoder go. Frames still held keep their memory until they are let go."""
        if self._closed:
            return
        self._closed = True
        with self._gpu.active():
            self._stream.synchronize()
            self._decoder = self._demuxer = None
        self._pool.close()


def _colours(demuxer: Any) -> tuple[Matrix, bool]:
    space = str(demuxer.ColorSpace()).upper()
    matrix = Matrix.BT709 if "709" in space else Matrix.BT2020 if "2020" in space else Matrix.BT601
    return matrix, "JPEG" in str(demuxer.ColorRange()).upper()
