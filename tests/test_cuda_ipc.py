"""Pictures that one process writes on a GPU and another reads there, on the fake GPU."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import EngineError
from streamer.cuda import ipc
from streamer.cuda.gpu import Gpu
from streamer.cuda.ipc import ImportedSurface, ipc_handle
from streamer.cuda.memory import Surface
from streamer.cuda.nv12 import Nv12
from streamer.cuda.staging import BufferLease
from streamer.sources import SourceOptions
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool
from streamer.sources.workers.shared_counters import SharedCounters
from tests.fake_gpu import LARGE, SMALL, FakeGpu, IpcPair, install, numbers_in
from tests.fakes import WAIT_S, wait_for
from tests.media import number_of, write_clip
from tests.test_cuda_nvdec import ON_GPU, WITH_B_FRAMES, frames_of, planes_of
from tests.worker_threads import threads_for_processes


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A fake GPU; the test must free everything on it."""
    fake = install(monkeypatch)
    yield fake
    wait_for(fake.is_all_freed)


# --- one surface ---


def test_a_handle_holds_the_offset_in_the_allocation(gpu: FakeGpu) -> None:
    device = Gpu(0)
    surface = Surface(device, SMALL)
    handle = ipc_handle(surface)
    assert (handle.offset, handle.nbytes, handle.gpu_index) == (512, SMALL, 0)
    assert isinstance(handle.handle, bytes)
    surface.write(np.arange(SMALL, dtype=np.uint8))
    imported = ImportedSurface(device, 3, handle)
    words = np.zeros(SMALL, np.uint8)
    imported.read(words)
    np.testing.assert_array_equal(words, np.arange(SMALL, dtype=np.uint8))
    assert imported.ready_event is None
    imported.unmap()
    surface.free()
    device.close()


def test_a_surface_is_reused_only_after_its_release(gpu: FakeGpu) -> None:
    pair = IpcPair(limit=1)
    assert pair.decode(1)
    assert not pair.decode(2)
    assert [kind for kind, *_ in pair.line] == ["exported", "ready"]
    pair.receive_all()
    pair.exporter.reclaim()
    assert not pair.decode(2)
    assert numbers_in(pair.leased[1]) == {1}
    del pair.leased[1]  # the last reference releases it
    pair.exporter.reclaim()
    assert pair.exporter.in_flight == 0
    assert pair.decode(2)
    assert [kind for kind, *_ in pair.line] == ["ready"]  # it is mapped already
    pair.receive_all()
    assert numbers_in(pair.leased[2]) == {2}
    pair.close()


def test_a_picture_in_use_does_not_hold_back_later_ones(gpu: FakeGpu) -> None:
    pair = IpcPair(slots=64, limit=64)
    for number in range(40):
        assert pair.decode(number)
    pair.receive_all()
    for number in range(1, 40):
        pair.release(number)
    pair.exporter.reclaim()
    assert pair.exporter.in_flight == 1
    assert numbers_in(pair.leased[0]) == {0}
    pair.close()


def test_surfaces_can_be_mapped_ahead(gpu: FakeGpu) -> None:
    pair = IpcPair()
    pair.pool.preallocate(SMALL, 3)
    for surface in pair.pool.idle():
        pair.exporter.announce(surface)
    pair.receive_all()
    assert gpu.mapped.total() == pair.importer.mapped == 3
    assert pair.decode(1)
    assert [kind for kind, *_ in pair.line] == ["ready"]
    pair.receive_all()
    assert numbers_in(pair.leased[1]) == {1}
    assert pair.importer.mapped == 3
    pair.close()


# --- unmapping and closing ---


def test_a_freed_surface_is_unmapped(gpu: FakeGpu) -> None:
    pair = IpcPair()
    for number in range(3):
        assert pair.decode(number)
    pair.receive_all()
    pair.release(0)
    pair.exporter.reclaim()
    pair.pool.close()
    assert (gpu.mapped.total(), len(gpu.memory)) == (2, 2)  # what is exported stays
    assert [numbers_in(pair.leased[number]) for number in (1, 2)] == [{1}, {2}]
    pair.close()


def test_a_surface_in_use_is_unmapped_on_release(gpu: FakeGpu) -> None:
    pair = IpcPair()
    pair.deafen()
    assert pair.decode(1)
    slot = pair.line[0][1]
    pair.receive_all()
    pair.importer.unmap(slot, 99)
    assert gpu.mapped.total() == 1
    assert numbers_in(pair.leased[1]) == {1}
    assert not pair.slots.is_returned(slot, 99)
    pair.release(1)
    assert gpu.mapped.total() == 0
    assert pair.slots.is_returned(slot, 99)
    pair.importer.close()
    pair.exporter.reclaim()
    pair.pool.close()


def test_closing_the_importer_keeps_surfaces_in_use(gpu: FakeGpu) -> None:
    pair = IpcPair()
    pair.deafen()
    for number in range(3):
        assert pair.decode(number)
    pair.receive_all()
    pair.release(1)
    for _ in range(2):
        pair.importer.close()
    assert (gpu.mapped.total(), gpu.retained) == (2, 2)
    assert [numbers_in(pair.leased[number]) for number in (0, 2)] == [{0}, {2}]
    pair.release(0)
    assert (gpu.mapped.total(), gpu.retained) == (1, 2)
    pair.release(2)
    assert (gpu.mapped.total(), gpu.retained) == (0, 1)
    pair.exporter.reclaim()
    pair.pool.close()


def test_after_the_time_out_a_surface_is_freed_and_its_slot_stays_in_use(gpu: FakeGpu) -> None:
    pair = IpcPair(slots=2, limit=1)
    pair.deafen()
    assert pair.decode(1)
    pair.receive_all()
    pair.release(1)
    pair.exporter.reclaim()
    pair.importer.close()  # as if it had exited
    pair.reopen()
    assert [kind for kind, *_ in pair.line] == ["retired"]
    assert len(pair.slots.free) == 1
    pair.pool.close()


def test_a_reused_slot_continues_its_generations(gpu: FakeGpu) -> None:
    pair = IpcPair(slots=1, limit=1)
    generations = []
    for number in range(3):
        assert pair.decode(number)
        slot, generation = pair.line[-1][1:3]
        generations.append((slot, generation))
        pair.exporter.reclaim()
        assert pair.exporter.in_flight == 1  # releases of the surface before don't count
        pair.receive_all()
        assert numbers_in(pair.leased[number]) == {number}
        pair.release(number)
        pair.exporter.reclaim()
        pair.reopen()
    assert generations == [(0, 1), (0, 3), (0, 5)]  # one each between, for unmapping
    pair.close()


# --- any order of events ---

STEPS = st.tuples(
    st.sampled_from(
        ["decode", "decode", "decode", "receive", "receive", "receive", "release", "reclaim", "large", "reopen"]
    ),
    st.integers(0, 99),
)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.integers(1, 5), st.booleans())
def test_no_order_of_events_shows_a_wrong_picture(steps: list[tuple[str, int]], limit: int, early: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake = install(patch)
        pair, count, nbytes = IpcPair(slots=16, limit=limit), 0, SMALL
        for step, choice in steps:
            if step == "decode":
                count += pair.decode(count + 1, nbytes)
            elif step == "receive" and pair.line:
                pair.receive()
            elif step == "release" and pair.leased:
                pair.release(list(pair.leased)[choice % len(pair.leased)])
            elif step == "reclaim":
                pair.exporters[choice % len(pair.exporters)].reclaim()
            elif step == "large":
                nbytes = LARGE  # smaller surfaces are freed for it
            elif step == "reopen" and len(pair.exporters) < 3:
                pair.reopen()
            assert all(numbers_in(lease) == {number} for number, lease in pair.leased.items())
        pair.receive_all()
        assert all(numbers_in(lease) == {number} for number, lease in pair.leased.items())
        if early:
            pair.importer.close()
            pair.deafen()
        for number in list(pair.leased):
            pair.release(number)
        for exporter in pair.exporters:
            for _ in range(2):  # a released one may have been behind one in use
                exporter.reclaim()
            assert exporter.in_flight == 0
        pair.pool.close()
        if not early:
            pair.close()
        assert fake.is_all_freed()


def test_threads_that_release_at_the_same_time(gpu: FakeGpu) -> None:
    descriptor = SharedCounters.create()
    counters = SharedCounters(descriptor), SharedCounters(descriptor)
    os.close(descriptor)
    pair = IpcPair(limit=6, counters=(counters[0].returned, counters[1].returned))
    count, wrong = 300, []
    came: queue.SimpleQueue[None] = queue.SimpleQueue()
    wanted: queue.SimpleQueue[tuple[int, BufferLease[ImportedSurface]] | None] = queue.SimpleQueue()

    def decode() -> None:
        for number in range(count):
            wait_for(functools.partial(pair.reclaim_and_decode, number))
            came.put(None)

    def use() -> None:
        while (item := wanted.get(timeout=WAIT_S)) is not None:
            number, lease = item
            if numbers_in(lease) != {number}:
                wrong.append(number)
            lease.release()

    threads = [threading.Thread(target=decode), *(threading.Thread(target=use) for _ in range(3))]
    for thread in threads:
        thread.start()
    for number in range(count):
        came.get(timeout=WAIT_S)
        while number not in pair.leased:
            pair.receive()
        wanted.put((number, pair.leased.pop(number)))
    for _ in range(3):
        wanted.put(None)
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    pair.close()


# --- through a decoder pool ---


@pytest.fixture
def processes(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderPool]:
    """A worker that decodes on the fake GPU."""
    with threads_for_processes(monkeypatch), DecoderPool(1) as started:
        yield started


def test_pictures_of_another_process_equal_the_cpus(gpu: FakeGpu, processes: DecoderPool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40, codec_options=WITH_B_FRAMES)
    wanted = frames_of(path, SourceOptions())
    sources = [processes.open(SourceSpec.parse(str(path), name=name), ON_GPU) for name in "ab"]
    for source in sources:
        source.wait_ready()
        got = list(source)  # all are kept
        assert [(frame.index, frame.pts_s) for frame in got] == [(frame.index, frame.pts_s) for frame in wanted]
        for ours, theirs in zip(got, wanted, strict=True):
            assert isinstance(ours.pixels, Nv12) and isinstance(ours.pixels.surface, ImportedSurface)
            for plane, other in zip(planes_of(ours), planes_of(theirs), strict=True):
                np.testing.assert_array_equal(plane, other)
            np.testing.assert_array_equal(ours.image, theirs.image)
        assert gpu.mapped.total() >= 40
        del got, ours
    wait_for(lambda: processes.status()[0].load == 0)
    wait_for(lambda: not (gpu.mapped.total() or gpu.memory))


def test_sources_closed_early_free_everything(gpu: FakeGpu, processes: DecoderPool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60)
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(processes.open(SourceSpec.parse(str(path), name=str(number)), ON_GPU))
            for number in range(4)
        ]
        kept = [next(iter(source)) for source in sources]
    wait_for(lambda: all(list(source) == [] for source in sources))
    assert [number_of(frame.image) for frame in kept] == [0] * 4
    assert processes.status()[0].load == 4  # while their pictures are in use
    kept.clear()
    wait_for(lambda: gc.collect() >= 0 and processes.status()[0].load == 0)
    wait_for(lambda: not (gpu.mapped.total() or gpu.memory))


def test_a_source_that_moves_is_decoded_by_the_other_gpu(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.count = 2
    path = write_clip(tmp_path / "clip.mp4", 60)
    with threads_for_processes(monkeypatch), DecoderPool(2) as pool:
        source = pool.open(SourceSpec.parse(str(path)), replace(ON_GPU, gpu=1))
        source.wait_ready()
        frames = []
        for frame in source:
            frames.append((frame.index, frame.gpu, number_of(frame.image)))
            del frame
            if len(frames) == 10:
                source.move_to_gpu(0)
        assert [index for index, _, _ in frames] == list(range(60))
        wanted = [number_of(frame.image) for frame in frames_of(path, SourceOptions())]
        assert [number for _, _, number in frames] == wanted
        used = [gpu_index for _, gpu_index, _ in frames]
        assert used == sorted(used, reverse=True)
        assert set(used) == {0, 1}
        wait_for(lambda: gc.collect() >= 0 and [worker.load for worker in pool.status()] == [0, 0])
        wait_for(lambda: not (gpu.mapped.total() or gpu.memory))


def test_pictures_on_a_gpu_that_failed_here_are_dropped_until_the_source_moves(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.count = 2
    path = write_clip(tmp_path / "clip.mp4", 200)
    failed: set[int] = set()
    mapped, synchronize = ImportedSurface.__init__, Gpu.synchronize

    def map_one(self: ImportedSurface, device: Gpu, *arguments: Any) -> None:
        if device.index in failed:
            raise EngineError("CUDA failed to map a picture: an illegal memory access was encountered")
        mapped(self, device, *arguments)

    def check(self: Gpu) -> None:
        if self.index in failed:
            raise EngineError("CUDA failed to finish its work: an illegal memory access was encountered")
        if hasattr(self._context, "synchronize"):
            synchronize(self)

    monkeypatch.setattr(ipc, "_UNMAP_TIMEOUT_S", 0.05)  # what failed here is never unmapped
    monkeypatch.setattr(ImportedSurface, "__init__", map_one)
    monkeypatch.setattr(Gpu, "synchronize", check)
    failed.add(1)
    with threads_for_processes(monkeypatch), DecoderPool(2) as pool:
        source = pool.open(SourceSpec.parse(str(path)), replace(ON_GPU, gpu=1))
        source.wait_ready()
        found: list[tuple[int, int | None]] = []
        reader = threading.Thread(target=lambda: found.extend((frame.index, frame.gpu) for frame in source))
        reader.start()
        wait_for(lambda: source.dropped > 20)
        source.move_to_gpu(0)
        reader.join(WAIT_S)
        assert found == [(index, 0) for index in range(200)]


def test_a_surface_that_was_not_mapped_is_returned_at_once(gpu: FakeGpu) -> None:
    pair = IpcPair()
    assert pair.importer.lease(0, 1) is None
    assert pair.importer._returned[0] == 1
    pair.importer.unmap(0, 2)
    assert pair.importer._returned[0] == 2
    pair.close()
