"""A GPU that decodes, played by the host: PyCUDA's memory is the host's, and PyNvVideoCodec decodes with FFmpeg.

What the stand-ins are strict about is what a GPU would be: a context must be current where CUDA is called, a decoder
takes byte streams with their parameter sets in them, its own surfaces are used again, and freed memory holds garbage.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib.machinery
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest

from streamer.sources.workers import decoder_worker, worker_process
from streamer.sources.workers.message_channel import MessageChannel
from streamer.sources.workers.shared_counters import SharedCounters

_FFMPEG_NAMES = {"H264": "h264", "HEVC": "hevc", "VP8": "vp8", "VP9": "vp9", "AV1": "libdav1d", "MPEG4": "mpeg4"}
_FFMPEG_NAMES |= {"MPEG1": "mpeg1video", "MPEG2": "mpeg2video"}
_BEFORE, _GARBAGE = 512, 0xDB


class FakeGpu:
    """What was asked of the stand-ins, and what they shall answer.

    Attributes:
        count: how many GPUs there are.
        memory: bytes of each allocation that isn't freed, by address.
        mapped: how often each allocation is mapped by another process, by the address at which it begins there.
        opened: what each decoder was opened with, in order.
        fed: the bytes of each packet that a decoder was given, in order; b"" is the end.
        retained: how often the context was retained, less how often it was given back.
        stamps: each packet's `pts`.
        flags: each packet's `decode_flag`.
        refused: numbers of the packets that are refused, over all decoders.
        refusal: what is raised then.
    """

    def __init__(self) -> None:
        self.count = 1
        self.memory: dict[int, Any] = {}
        self.mapped: Counter[int] = Counter()
        self.opened: list[dict[str, Any]] = []
        self.fed: list[bytes] = []
        self.stamps: list[int] = []
        self.flags: list[object] = []
        self.refused: set[int] = set()
        self.refusal = "Codec not supported on this GPU"
        self.depth = threading.local()
        self.retained = 0

    def need_context(self) -> None:
        assert getattr(self.depth, "value", 0) > 0, "no CUDA context is current on this thread"


def install(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Puts the stand-ins in the packages' places."""
    gpu = FakeGpu()
    driver = _driver(gpu)
    _put(monkeypatch, "pycuda", driver=driver)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(
        "streamer.cuda.nvdec.copy_on_device",
        lambda target, source, nbytes, stream: (gpu.need_context(), ctypes.memmove(target, source, nbytes)),
    )
    _put(
        monkeypatch,
        "PyNvVideoCodec",
        cudaVideoCodec=enum.Enum("cudaVideoCodec", sorted(_FFMPEG_NAMES)),
        DisplayDecodeLatencyType=enum.Enum("DisplayDecodeLatencyType", ["NATIVE", "LOW", "ZERO"]),
        VideoPacketFlag=enum.IntEnum("VideoPacketFlag", {"ENDOFPICTURE": 8}),
        PacketData=_PacketData,
        CreateDecoder=lambda **options: _Decoder(gpu, options),
    )
    return gpu


def _put(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def _driver(gpu: FakeGpu) -> types.ModuleType:
    class Error(Exception):
        pass

    class Allocation:
        """A part of a block, as small allocations are: `_BEFORE` bytes of the block belong to others."""

        def __init__(self, nbytes: int) -> None:
            gpu.need_context()
            self._bytes = (ctypes.c_uint8 * (_BEFORE + nbytes))()
            self._address = ctypes.addressof(self._bytes) + _BEFORE
            gpu.memory[self._address] = self._bytes

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            gpu.need_context()
            assert not gpu.mapped[self._address - _BEFORE], "another process has it mapped still"
            del gpu.memory[self._address]
            ctypes.memset(self._bytes, _GARBAGE, len(self._bytes))

    class IPCMemoryHandle:
        """A block as another process sees it, which keeps it alive."""

        def __init__(self, handle: bytearray, flags: int = 1) -> None:
            gpu.need_context()
            assert len(handle) == 64
            self._address = int.from_bytes(handle, "little")
            self._bytes = gpu.memory[self._address + _BEFORE]  # there is none that was freed
            gpu.mapped[self._address] += 1

        def __int__(self) -> int:
            return self._address

        def close(self) -> None:
            gpu.need_context()
            assert self._bytes is not None, "the mapping was ended before"
            self._bytes = None
            gpu.mapped[self._address] -= 1

    def find_block(address: int) -> tuple[int, int]:
        gpu.need_context()
        return address - _BEFORE, len(gpu.memory[address])

    def name_block(base: int) -> bytearray:
        gpu.need_context()
        return bytearray(base.to_bytes(64, "little"))

    class Context:
        handle = 1234

        def push(self) -> None:
            gpu.depth.value = getattr(gpu.depth, "value", 0) + 1

        def pop(self) -> None:
            gpu.depth.value -= 1

        def detach(self) -> None:
            gpu.need_context()
            self.pop()
            gpu.retained -= 1

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return gpu.count

        def name(self) -> str:
            return "Fake GPU"

        def total_memory(self) -> int:
            return 8 << 30

        def compute_capability(self) -> tuple[int, int]:
            return 9, 0

        def retain_primary_context(self) -> Context:
            gpu.retained += 1
            return Context()

    class Stream:
        handle = 5678

        def __init__(self, flags: int = 0) -> None:
            gpu.need_context()

        def synchronize(self) -> None:
            gpu.need_context()

    class Event:
        def __init__(self, flags: int = 0) -> None:
            gpu.need_context()

        def record(self, stream: Stream) -> None:
            gpu.need_context()

        def synchronize(self) -> None:
            gpu.need_context()

    def copy(target: int, source: int, nbytes: int, stream: object = None) -> None:
        gpu.need_context()
        ctypes.memmove(target, source, nbytes)

    driver = types.ModuleType("pycuda.driver")
    vars(driver).update(
        Error=Error, Device=Device, Stream=Stream, Event=Event, init=lambda: None, mem_alloc=Allocation,
        mem_get_address_range=find_block, mem_get_ipc_handle=name_block, IPCMemoryHandle=IPCMemoryHandle,
        event_flags=types.SimpleNamespace(DISABLE_TIMING=2),
        memset_d8=lambda address, value, nbytes: ctypes.memset(address, value, nbytes),
        memcpy_dtoh=lambda array, address: copy(array.ctypes.data, address, array.nbytes),
        memcpy_htod=lambda address, array: copy(address, array.ctypes.data, array.nbytes),
    )  # fmt: skip
    return driver


class _PacketData:
    def __init__(self) -> None:
        self.bsl_data = self.bsl = self.pts = self.decode_flag = 0


class _Decoder:
    def __init__(self, gpu: FakeGpu, options: dict[str, Any]) -> None:
        gpu.need_context()
        assert options["cudacontext"] == 1234 and options["cudastream"] == 5678 and options["usedevicememory"]
        gpu.opened.append(options)
        self._gpu = gpu
        self._context: Any = av.CodecContext.create(_FFMPEG_NAMES[options["codec"].name], "r")
        self._context.thread_count = 1
        self._surfaces = np.zeros(0, np.uint8)

    def Decode(self, data: _PacketData) -> list[_Surface]:
        gpu = self._gpu
        gpu.need_context()
        number, content = len(gpu.fed), ctypes.string_at(data.bsl_data, data.bsl)
        gpu.fed.append(content)
        gpu.stamps.append(data.pts)
        gpu.flags.append(data.decode_flag)
        if number in gpu.refused:
            raise RuntimeError(f"\n{gpu.refusal}\n")
        packet = av.Packet(len(content)) if content else None  # of a length: that pads it, as FFmpeg needs
        if packet is not None:
            packet.update(content)
            packet.pts = None if data.pts == -(1 << 63) else data.pts
        self._surfaces[...] = 0  # what was given before is gone
        try:
            pictures = self._context.decode(packet)
        except av.EOFError:
            pictures = []
        given = [picture.reformat(format="nv12").to_ndarray() for picture in pictures]
        self._surfaces = np.concatenate([image.ravel() for image in given]) if given else np.zeros(0, np.uint8)
        surfaces, address = [], self._surfaces.ctypes.data
        for picture, image in zip(pictures, given, strict=True):
            pts = -(1 << 63) if picture.pts is None else picture.pts
            surfaces.append(_Surface(list(image.shape), address, pts % (1 << 64)))
            address += image.nbytes
        return surfaces


class _Surface:
    format = "Pixel_Format.NV12"

    def __init__(self, shape: list[int], address: int, timestamp: int) -> None:
        self.shape, self._address, self.timestamp = shape, address, timestamp

    def framesize(self) -> int:
        return self.shape[0] * self.shape[1]

    def GetPtrToPlane(self, plane: int) -> int:
        assert plane == 0
        return self._address


class _Over(Exception):
    """The run that processes were played for is over."""


class _WorkerThread:
    """In place of a process: a thread that serves the same channel, over descriptors of its own."""

    def __init__(self, channel: int, counters: int) -> None:
        channel, counters = os.dup(channel), os.dup(counters)
        self.pid = 0
        self._channel = MessageChannel(socket.socket(fileno=channel))
        self._worker = decoder_worker.DecoderWorker(self._channel, SharedCounters(counters))
        os.close(counters)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._worker.serve()
        self._channel.close()
        self._worker.send(None)  # which ends the thread that can't send it

    def poll(self) -> int | None:
        return None if self._thread.is_alive() else 0

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return 0

    def kill(self) -> None:
        self._channel.shutdown()


@contextlib.contextmanager
def threads_for_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block decoding processes are threads of this one, and so have this one's stand-ins."""
    over = threading.Event()

    def sleep(seconds: float) -> None:
        if over.wait(seconds):
            raise _Over

    def until_over(body: Callable[[], None]) -> None:
        with contextlib.suppress(_Over):
            body()

    monkeypatch.setattr(worker_process, "launch", _WorkerThread)
    monkeypatch.setattr(decoder_worker, "time", types.SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter))
    monkeypatch.setattr(decoder_worker, "_or_exit", until_over)
    try:
        yield
    finally:
        over.set()
