"""Pictures that one process writes on a GPU and another reads there; both, and the GPU, are played by this process."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.cuda.gpu import Gpu
from streamer.cuda.ipc import ImportedSurface, Slots, handle_of
from streamer.cuda.memory import Surface
from streamer.cuda.nv12 import Nv12
from streamer.cuda.staging import BufferLease
from streamer.sources import SourceOptions
from streamer.sources.workers import DecoderPool
from streamer.sources.workers.shared_counters import SharedCounters
from tests.fake_gpu import FakeGpu, install, threads_for_processes
from tests.fakes import WAIT_S, wait_for
from tests.lending import LARGE, SMALL, Processes, is_all_back, shown
from tests.media import number_of, write_clip
from tests.test_cuda_nvdec import ON_GPU, WITH_B_FRAMES, frames_of, planes_of


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A GPU; all of it is given back at the end."""
    fake = install(monkeypatch)
    yield fake
    wait_for(lambda: is_all_back(fake))


# --- one surface ---


def test_a_handle_tells_where_in_its_block_a_surface_is(gpu: FakeGpu) -> None:
    device = Gpu(0)
    surface = Surface(device, SMALL)
    handle = handle_of(surface)
    assert (handle.offset, handle.nbytes, handle.gpu_index) == (512, SMALL, 0)
    assert isinstance(handle.handle, bytes)
    surface.write(np.arange(SMALL, dtype=np.uint8))
    borrowed = ImportedSurface(device, 3, handle)
    words = np.zeros(SMALL, np.uint8)
    borrowed.read(words)
    np.testing.assert_array_equal(words, np.arange(SMALL, dtype=np.uint8))
    assert borrowed.written is None
    borrowed.unmap()
    surface.free()
    device.close()


def test_a_surface_is_written_again_only_once_it_was_given_back(gpu: FakeGpu) -> None:
    both = Processes(limit=1)
    assert both.decode(1)
    assert not both.decode(2)
    assert [kind for kind, *_ in both.line] == ["lent", "given"]
    both.hear_all()
    both.origin.lending.take_back()
    assert not both.decode(2)
    assert shown(both.held[1]) == {1}
    del both.held[1]  # the last reference gives it back
    both.origin.lending.take_back()
    assert both.origin.lending.out == 0
    assert both.decode(2)
    assert [kind for kind, *_ in both.line] == ["given"]  # it is mapped already
    both.hear_all()
    assert shown(both.held[2]) == {2}
    both.end()


def test_one_that_is_kept_does_not_keep_the_others_for_ever(gpu: FakeGpu) -> None:
    both = Processes(slots=64, limit=64)
    for number in range(40):
        assert both.decode(number)
    both.hear_all()
    for number in range(1, 40):
        both.give_back(number)
    both.origin.lending.take_back()
    assert both.origin.lending.out == 1
    assert shown(both.held[0]) == {0}
    both.end()


def test_surfaces_can_be_mapped_before_they_are_needed(gpu: FakeGpu) -> None:
    both = Processes()
    both.origin.pool.fill(SMALL, 3)
    for surface in both.origin.pool.spare():
        both.origin.lending.offer(surface)
    both.hear_all()
    assert (gpu.mapped.total(), len(both.borrower.spare())) == (3, 3)
    assert both.decode(1)
    assert [kind for kind, *_ in both.line] == ["given"]
    both.hear_all()
    assert shown(both.held[1]) == {1}
    assert len(both.borrower.spare()) == 2
    both.end()


# --- ends ---


def test_what_is_freed_is_unmapped_there(gpu: FakeGpu) -> None:
    both = Processes()
    for number in range(3):
        assert both.decode(number)
    both.hear_all()
    both.give_back(0)
    both.origin.lending.take_back()
    both.origin.pool.close()
    assert (gpu.mapped.total(), len(gpu.memory)) == (2, 2)  # what is lent stays
    assert [shown(both.held[number]) for number in (1, 2)] == [{1}, {2}]
    both.end()


def test_what_is_in_use_is_unmapped_when_it_comes_back(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Processes()
    both.deafen(monkeypatch)
    assert both.decode(1)
    slot = both.line[0][1]
    both.hear_all()
    both.borrower.drop(slot, 99)
    assert gpu.mapped.total() == 1
    assert shown(both.held[1]) == {1}
    assert not both.slots.is_back(slot, 99)
    both.give_back(1)
    assert gpu.mapped.total() == 0
    assert both.slots.is_back(slot, 99)
    both.borrower.close()
    both.origin.lending.take_back()
    both.origin.pool.close()


def test_closing_the_borrower_leaves_pictures_that_are_out(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Processes()
    both.deafen(monkeypatch)
    for number in range(3):
        assert both.decode(number)
    both.hear_all()
    both.give_back(1)
    for _ in range(2):
        both.borrower.close()
    assert (gpu.mapped.total(), gpu.retained) == (2, 2)
    assert [shown(both.held[number]) for number in (0, 2)] == [{0}, {2}]
    both.give_back(0)
    assert (gpu.mapped.total(), gpu.retained) == (1, 2)
    both.give_back(2)
    assert (gpu.mapped.total(), gpu.retained) == (0, 1)
    both.origin.lending.take_back()
    both.origin.pool.close()


def test_one_that_does_not_unmap_is_not_waited_for_and_keeps_its_slot(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Processes(slots=2, limit=1)
    both.deafen(monkeypatch)
    assert both.decode(1)
    both.hear_all()
    both.give_back(1)
    both.origin.lending.take_back()
    both.borrower.close()  # as when it is gone
    both.reopen()
    assert [kind for kind, *_ in both.line] == ["freed"]
    assert len(both.slots._free) == 1
    both.origin.pool.close()


def test_a_slot_is_used_again_and_counts_on(gpu: FakeGpu) -> None:
    both = Processes(slots=1, limit=1)
    turns = []
    for number in range(3):
        assert both.decode(number)
        slot, turn = both.line[-1][1:3]
        turns.append((slot, turn))
        both.origin.lending.take_back()
        assert both.origin.lending.out == 1  # what was given back of the one before doesn't count
        both.hear_all()
        assert shown(both.held[number]) == {number}
        both.give_back(number)
        both.origin.lending.take_back()
        both.reopen()
    assert turns == [(0, 1), (0, 3), (0, 5)]  # one each between, for unmapping
    both.end()


def test_a_slot_may_come_back_while_another_is_taken() -> None:
    """A picture's finaliser may run wherever the interpreter collects garbage."""
    slots = Slots(np.zeros(8, np.uint32))

    class Collecting(list[int]):
        def pop(self, index: Any = -1) -> int:
            slots.give_back(100)
            return super().pop(index)

    slots._free = Collecting(slots._free)
    taker = threading.Thread(target=slots.take, daemon=True)
    taker.start()
    taker.join(2)
    assert not taker.is_alive(), "it waits for itself"


# --- any order ---

STEPS = st.tuples(
    st.sampled_from(
        ["decode", "decode", "decode", "hear", "hear", "hear", "give back", "take back", "large", "reopen"]
    ),
    st.integers(0, 99),
)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60), st.integers(1, 5), st.booleans())
def test_no_order_of_events_shows_a_wrong_picture(steps: list[tuple[str, int]], limit: int, early: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake = install(patch)
        both, count, nbytes = Processes(slots=16, limit=limit), 0, SMALL
        lendings = [both.origin.lending]
        for step, choice in steps:
            if step == "decode":
                count += both.decode(count + 1, nbytes)
            elif step == "hear" and both.line:
                both.hear()
            elif step == "give back" and both.held:
                both.give_back(list(both.held)[choice % len(both.held)])
            elif step == "take back":
                lendings[choice % len(lendings)].take_back()
            elif step == "large":
                nbytes = LARGE  # smaller surfaces are freed for it
            elif step == "reopen" and len(lendings) < 3:
                both.reopen()
                lendings.append(both.origin.lending)
            assert all(shown(loan) == {number} for number, loan in both.held.items())
        both.hear_all()
        assert all(shown(loan) == {number} for number, loan in both.held.items())
        if early:
            both.borrower.close()
            both.deafen(patch)
        for number in list(both.held):
            both.give_back(number)
        for lending in lendings:
            for _ in range(2):  # one given back may have waited behind one that wasn't
                lending.take_back()
            assert lending.out == 0
        both.origin.pool.close()
        if not early:
            both.end()
        assert is_all_back(fake)


def test_threads_that_give_back_at_once(gpu: FakeGpu) -> None:
    descriptor = SharedCounters.create()
    boards = SharedCounters(descriptor), SharedCounters(descriptor)
    os.close(descriptor)
    both = Processes(limit=6, boards=(boards[0].returned, boards[1].returned))
    count, wrong = 300, []
    came: queue.SimpleQueue[None] = queue.SimpleQueue()
    wanted: queue.SimpleQueue[tuple[int, BufferLease[ImportedSurface]] | None] = queue.SimpleQueue()

    def decode() -> None:
        for number in range(count):
            wait_for(functools.partial(both.decode_again, number))
            came.put(None)

    def use() -> None:
        while (item := wanted.get(timeout=WAIT_S)) is not None:
            number, loan = item
            if shown(loan) != {number}:
                wrong.append(number)
            loan.end()

    threads = [threading.Thread(target=decode), *(threading.Thread(target=use) for _ in range(3))]
    for thread in threads:
        thread.start()
    for number in range(count):
        came.get(timeout=WAIT_S)
        while number not in both.held:
            both.hear()
        wanted.put((number, both.held.pop(number)))
    for _ in range(3):
        wanted.put(None)
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    both.end()


# --- the whole way ---


@pytest.fixture
def processes(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderPool]:
    """A process that decodes with the stand-in."""
    with threads_for_processes(monkeypatch), DecoderPool(1) as started:
        yield started


def test_pictures_of_another_process_are_the_cpus(gpu: FakeGpu, processes: DecoderPool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 40, codec_options=WITH_B_FRAMES)
    wanted = frames_of(path, SourceOptions())
    sources = [processes.open(str(path), name=name, options=ON_GPU) for name in "ab"]
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


def test_sources_that_are_let_go_in_the_middle_leave_nothing(
    gpu: FakeGpu, processes: DecoderPool, tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "clip.mp4", 60)
    with contextlib.ExitStack() as stack:
        sources = [
            stack.enter_context(processes.open(str(path), name=str(number), options=ON_GPU)) for number in range(4)
        ]
        kept = [next(iter(source)) for source in sources]
    wait_for(lambda: all(list(source) == [] for source in sources))
    assert [number_of(frame.image) for frame in kept] == [0] * 4
    assert processes.status()[0].load == 4  # as long as pictures of theirs are in use
    kept.clear()
    wait_for(lambda: gc.collect() >= 0 and processes.status()[0].load == 0)
    wait_for(lambda: not (gpu.mapped.total() or gpu.memory))
