"""A fake GPU on the host: PyCUDA's memory is the host's, PyNvVideoCodec decodes with FFmpeg, one process is two.

It is as strict as a GPU: a context must be current where CUDA is called, a decoder takes byte streams that contain
their parameter sets, it reuses its surfaces, and freed memory holds garbage.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import gc
import importlib.machinery
import sys
import threading
import types
from collections import Counter, deque
from typing import Any

import av
import numpy as np
import pytest

from streamer.cuda.gpu import Gpu
from streamer.cuda.ipc import ImportedSurface, IpcExporter, IpcImporter, SurfaceSlots
from streamer.cuda.memory import Surface
from streamer.cuda.staging import BufferLease, BufferPool

_FFMPEG_NAMES = {"H264": "h264", "HEVC": "hevc", "VP8": "vp8", "VP9": "vp9", "AV1": "libdav1d", "MPEG4": "mpeg4"}
_FFMPEG_NAMES |= {"MPEG1": "mpeg1video", "MPEG2": "mpeg2video"}
_BEFORE, _GARBAGE = 512, 0xDB


class FakeGpu:
    """What was called, and what the fakes answer.

    Attributes:
        count: how many GPUs there are.
        init_error: the error of `cuInit`, if any.
        memory: bytes of each allocation that isn't freed, by address.
        mapped: how often each allocation is mapped by another process, by the address at which it begins there.
        opened: the options of each decoder, in order.
        fed: the bytes of each packet that a decoder got, in order; b"" is the end.
        retained: how often the context was retained, minus how often it was released.
        stamps: each packet's `pts`.
        flags: each packet's `decode_flag`.
        refused: numbers of the packets that are refused, over all decoders.
        refusal: the error that is raised then.
    """

    def __init__(self) -> None:
        self.count = 1
        self.init_error: str | None = None
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

    def is_all_freed(self) -> bool:
        """Returns whether no memory is left, nothing is mapped, and no context is retained."""
        gc.collect()
        return not (self.memory or self.mapped.total() or self.retained)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Replaces PyCUDA and PyNvVideoCodec."""
    gpu = FakeGpu()
    driver = _driver(gpu)
    put_module(monkeypatch, "pycuda", driver=driver)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    for name, answer in {"set_current": None, "push_current": None, "pop_current": 0, "is_current": True}.items():
        monkeypatch.setattr(f"streamer.cuda.gpu.{name}", lambda *_, answer=answer: answer)
    monkeypatch.setattr(
        "streamer.cuda.nvdec.copy_on_device",
        lambda target, source, nbytes, stream: (gpu.need_context(), ctypes.memmove(target, source, nbytes)),
    )
    put_module(
        monkeypatch,
        "PyNvVideoCodec",
        cudaVideoCodec=enum.Enum("cudaVideoCodec", sorted(_FFMPEG_NAMES)),
        DisplayDecodeLatencyType=enum.Enum("DisplayDecodeLatencyType", ["NATIVE", "LOW", "ZERO"]),
        VideoPacketFlag=enum.IntEnum("VideoPacketFlag", {"ENDOFPICTURE": 8}),
        PacketData=_PacketData,
        CreateDecoder=lambda **options: _Decoder(gpu, options),
    )
    return gpu


def put_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """Replaces a module by one with these members."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def _driver(gpu: FakeGpu) -> types.ModuleType:
    class Error(Exception):
        pass

    class Allocation:
        """Part of a block, as small allocations are: the block's first `_BEFORE` bytes aren't the caller's."""

        def __init__(self, nbytes: int) -> None:
            gpu.need_context()
            self._bytes = (ctypes.c_uint8 * (_BEFORE + nbytes))()
            self._address = ctypes.addressof(self._bytes) + _BEFORE
            gpu.memory[self._address] = self._bytes

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            gpu.need_context()
            assert not gpu.mapped[self._address - _BEFORE], "another process still has it mapped"
            del gpu.memory[self._address]
            ctypes.memset(self._bytes, _GARBAGE, len(self._bytes))

    class IPCMemoryHandle:
        """A block mapped by another process, which keeps it alive."""

        def __init__(self, handle: bytearray, flags: int = 1) -> None:
            gpu.need_context()
            assert len(handle) == 64
            self._address = int.from_bytes(handle, "little")
            self._bytes = gpu.memory[self._address + _BEFORE]  # KeyError if it was freed
            gpu.mapped[self._address] += 1

        def __int__(self) -> int:
            return self._address

        def close(self) -> None:
            gpu.need_context()
            assert self._bytes is not None, "the mapping was already closed"
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

        @staticmethod
        def get_current() -> None:
            return None

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

    def init() -> None:
        if gpu.init_error is not None:
            raise Error(gpu.init_error)

    driver = types.ModuleType("pycuda.driver")
    vars(driver).update(
        Error=Error, Context=Context, Device=Device, Stream=Stream, Event=Event, init=init, mem_alloc=Allocation,
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
        packet = av.Packet(len(content)) if content else None  # made by length, so that it is padded as FFmpeg needs
        if packet is not None:
            packet.update(content)
            packet.pts = None if data.pts == -(1 << 63) else data.pts
        self._surfaces[...] = 0  # NVDEC reuses its surfaces
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


SMALL, LARGE = 1024, 2048


class IpcPair:
    """A process that exports pictures on a GPU and one that imports them, both in this process.

    Attributes:
        line: messages that the exporter has sent and the importer hasn't received.
        leased: pictures that the importer holds, by number.
        is_deaf: see `deafen`; otherwise the importer receives a retirement at once.
        exporters: one for each time that the source was opened.
    """

    def __init__(self, *, slots: int = 4, limit: int = 3, counters: tuple[Any, Any] | None = None) -> None:
        theirs, ours = counters or (np.zeros(slots, np.uint32),) * 2
        self.slots, self.importer = SurfaceSlots(theirs), IpcImporter(ours)
        self.line: deque[tuple[Any, ...]] = deque()
        self.leased: dict[int, BufferLease[ImportedSurface]] = {}
        self.limit, self.is_deaf = limit, False
        self.exporters: list[IpcExporter] = []
        self.open()

    def open(self) -> None:
        """Opens a source in the exporting process."""
        gpu, send = Gpu(0), self._send
        self.pool: BufferPool[Surface] = BufferPool(lambda nbytes: Surface(gpu, nbytes), self.limit, on_empty=gpu.close)
        on_exported, on_retired = functools.partial(send, "exported"), functools.partial(send, "retired")
        self.exporter = IpcExporter(self.slots, on_exported, on_retired)
        self.exporters.append(self.exporter)

    def _send(self, *message: Any) -> None:
        assert message[0] != "retired" or message[1] not in self.slots.free, "another surface may have the slot already"
        self.line.append(message)
        if message[0] == "retired" and not self.is_deaf:
            self.receive_all()

    def deafen(self) -> None:
        """Makes the importer receive no more retirements, as if it had exited; exporters don't wait for it."""
        self.is_deaf = True
        for exporter in self.exporters:
            exporter.unmap_timeout_s = 0.0

    def decode(self, number: int, nbytes: int = SMALL) -> bool:
        """Writes a picture and exports it; returns False where no surface is free."""
        surface = self.pool.acquire(nbytes)
        if surface is None:
            return False
        surface.write(np.full(surface.nbytes // 8, number, np.uint64))
        self._send("ready", *self.exporter.export(surface, BufferLease(surface, self.pool.release)), number)
        return True

    def reclaim_and_decode(self, number: int) -> bool:
        self.exporter.reclaim()
        return self.decode(number)

    def receive(self) -> None:
        """Handles the next message in the importing process."""
        kind, slot, *rest = self.line.popleft()
        if kind == "exported":
            self.importer.map(slot, *rest)
        elif kind == "retired":
            self.importer.unmap(slot, *rest)
        else:
            generation, number = rest
            lease = self.importer.lease(slot, generation)
            assert lease is not None
            self.leased[number] = lease

    def receive_all(self) -> None:
        while self.line:
            self.receive()

    def release(self, number: int) -> None:
        self.leased.pop(number).release()

    def reopen(self) -> None:
        """Closes the source, which frees what isn't exported, and opens another."""
        self.pool.close()
        self.open()

    def close(self) -> None:
        """Releases all pictures, then closes the source and the importer."""
        self.receive_all()
        for number in list(self.leased):
            self.release(number)
        self.exporter.reclaim()
        self.pool.close()
        self.receive_all()
        self.importer.close()


def numbers_in(lease: BufferLease[ImportedSurface]) -> set[int]:
    """Returns the numbers in a surface: more than one where it was overwritten during a read."""
    words = np.zeros(lease.buffer.nbytes // 8, np.uint64)
    lease.buffer.read(words)
    return set(words.tolist())
