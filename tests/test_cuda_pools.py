"""Pools of GPU buffers, on the fake GPU."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from streamer.common.errors import EngineError
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.staging import BufferLease, BufferPool
from tests.fake_gpu import FakeGpu, install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU."""
    return install(monkeypatch)


def pool_of(limit: int, **options: Any) -> BufferPool[DeviceBuffer]:
    device = Gpu(0)
    return BufferPool(lambda nbytes: DeviceBuffer(device, nbytes), limit, **options)


def acquired(pool: BufferPool[DeviceBuffer], nbytes: int = 1) -> DeviceBuffer:
    buffer = pool.acquire(nbytes)
    assert buffer is not None
    return buffer


def test_a_pool_reuses_buffers_up_to_its_limit(gpu: FakeGpu) -> None:
    pool = pool_of(2)
    first, second = acquired(pool, 10), acquired(pool, 10)
    assert pool.acquire(10) is None
    pool.release(first)
    assert pool.acquire(5) is first
    pool.release(first)
    pool.release(second)
    larger = acquired(pool, 20)
    assert larger.nbytes == 20
    assert len(gpu.memory) == 1
    pool.close()
    pool.release(larger)
    assert not gpu.memory
    assert pool.acquire(1) is None


def test_a_pool_reserves_buffers(gpu: FakeGpu) -> None:
    pool = pool_of(3)
    held = [pool.acquire(1, reserve=2) for _ in range(2)]
    assert [buffer is not None for buffer in held] == [True, False]
    assert pool.acquire(1, reserve=1) is not None


@pytest.mark.parametrize("held", [0, 2])
def test_a_pool_reports_once_that_it_is_empty(gpu: FakeGpu, held: int) -> None:
    reported: list[int] = []
    pool = pool_of(3, on_empty=lambda: reported.append(len(gpu.memory)))
    buffers = [acquired(pool) for _ in range(3)]
    for buffer in buffers[held:]:
        pool.release(buffer)
    assert not reported
    pool.close()
    assert reported == ([] if held else [0])
    for buffer in buffers[:held]:
        pool.release(buffer)
    pool.close()
    assert reported == [0]


def test_a_failed_allocation_is_not_counted(gpu: FakeGpu) -> None:
    device, tries = Gpu(0), []

    def make(nbytes: int) -> DeviceBuffer:
        tries.append(nbytes)
        if len(tries) == 1:
            raise EngineError("no memory")
        return DeviceBuffer(device, nbytes)

    pool = BufferPool(make, 1)
    with pytest.raises(EngineError):
        pool.acquire(1)
    assert pool.acquire(1) is not None


def test_a_lease_ends_once_explicitly_or_with_its_last_reference(gpu: FakeGpu) -> None:
    pool = pool_of(2)
    lease = BufferLease(acquired(pool), pool.release)
    lease.release()
    lease.release()
    assert pool.acquire(1) is lease.buffer
    assert pool.acquire(1) is not None
    assert pool.acquire(1) is None
    other = BufferLease(lease.buffer, pool.release)
    cycle: list[Any] = [other]
    cycle.append(cycle)
    del other, cycle
    gc.collect()
    assert pool.acquire(1) is lease.buffer
