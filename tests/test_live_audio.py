"""Sound between a source and its recordings: on one timeline with the pictures, bounded, for any number of readers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.audio import AudioChunk, AudioFormat
from streamer.sources.audio_clock import AudioClock
from streamer.sources.live_audio import AudioFeed, LiveAudio

RATE = 8000
FORMAT = AudioFormat("pcm_mulaw", RATE, 1)


def chunk(time_s: float, length_s: float = 0.02, value: float = 0.0) -> AudioChunk:
    return AudioChunk(time_s, RATE, np.full((1, round(length_s * RATE)), value, np.float32))


def clock_with_pictures(until_s: float, *, zero_s: float = 500.0, live: bool = True) -> AudioClock:
    """Returns a clock that has seen pictures, 25 a second, whose stamps begin at 7 s and arrive from `zero_s` on."""
    clock = AudioClock(live=live)
    for number in range(round(until_s * 25) + 1):
        clock.add_picture(7 + number / 25, number / 25, zero_s + number / 25)
    return clock


def test_audio_follows_the_stamps_of_the_pictures() -> None:
    clock = clock_with_pictures(1.0)
    assert clock.at(7.9, 500.95) == pytest.approx(0.9)
    assert clock.at(8.0, 501.3) == pytest.approx(1.0)  # late, but not of another time


def test_a_files_stamps_are_taken_as_they_are() -> None:
    clock = clock_with_pictures(1.0, live=False)
    assert clock.at(47.0, 501.0) == pytest.approx(40.0)


@pytest.mark.parametrize("stamp_s", [0.0, 9.0, 1e6])
def test_audio_whose_first_stamp_is_of_another_clock_begins_on_arrival(stamp_s: float) -> None:
    clock = clock_with_pictures(5.0)
    assert clock.at(stamp_s, 505.0) == pytest.approx(5.0)
    assert clock.at(stamp_s + 0.02, 505.02) == pytest.approx(5.02)


def test_a_clock_that_is_set_later_is_noticed() -> None:
    clock = clock_with_pictures(5.0)
    assert clock.at(12.0, 505.0) == pytest.approx(5.0)
    assert clock.at(3612.02, 505.02) == pytest.approx(5.02)


@pytest.mark.parametrize("drift", [-0.01, -0.001, 0.001, 0.01])
def test_a_clock_that_drifts_stays_near_the_pictures(drift: float) -> None:
    clock = AudioClock(live=True)
    off_s = []
    for number in range(25 * 300):
        true_s = number / 25
        clock.add_picture(7 + true_s, true_s, 500 + true_s + 0.05 * (number % 7 == 0))
        off_s.append(clock.at(7 + true_s * (1 + drift), 500 + true_s) - true_s)
    assert abs(drift) * 300 >= 0.3
    assert max(map(abs, off_s)) < 0.11 + 21 * abs(drift)


def test_pictures_that_come_in_bursts_move_no_sound() -> None:
    clock = AudioClock(live=True)
    for number in range(25 * 60):
        true_s = number / 25
        clock.add_picture(true_s, true_s, 500 + true_s + 2 - true_s % 2)  # two seconds at once
        assert clock.at(true_s, 500 + true_s + 2 - true_s % 2) == pytest.approx(true_s)


def test_a_reader_begins_with_what_was_just_heard_and_splits_exactly() -> None:
    audio, feed = LiveAudio(), AudioFeed(FORMAT)
    for number in range(100):
        feed.push(chunk(number / 50, value=number))
    audio.attach(feed, 3.0)
    reader = audio.subscribe()
    first = reader.take_until(4.005)
    assert first[0].time_s == pytest.approx(3.0) and first[-1].end_s == pytest.approx(4.005)
    second = reader.take_until(100.0)
    assert second[0].time_s == pytest.approx(4.005) and second[-1].end_s == pytest.approx(5.0)
    assert sum(part.samples.shape[1] for part in (*first, *second)) == 100 * 160
    assert reader.take_until(100.0) == []


def test_a_run_that_begins_later_moves_the_sound_with_its_frames() -> None:
    audio, feed = LiveAudio(), AudioFeed(FORMAT)
    audio.attach(feed, 0.0)
    feed.push(chunk(5.0))
    early = audio.subscribe()
    audio.attach(feed, -4.9)
    feed.push(chunk(5.02))
    for reader in (early, audio.subscribe()):
        assert [part.time_s for part in reader.take_until(9.0)] == pytest.approx([0.1, 0.12])


def test_a_connection_that_was_replaced_is_not_heard_any_more() -> None:
    audio, old, new = LiveAudio(), AudioFeed(FORMAT), AudioFeed(AudioFormat("aac", 48000, 2))
    audio.attach(old, 0.0)
    reader = audio.subscribe()
    audio.attach(new, 10.0)
    old.push(chunk(1.0))
    new.push(chunk(0.0))
    assert [part.time_s for part in reader.take_until(99.0)] == [10.0]
    assert audio.format is not None and audio.format.codec == "aac"
    audio.attach(None, 20.0)  # a camera that comes back without sound
    new.push(chunk(0.0))
    assert reader.take_until(99.0) == []
    assert audio.format.codec == "aac"


def test_what_nobody_reads_is_bounded() -> None:
    audio, feed = LiveAudio(), AudioFeed(FORMAT)
    for number in range(50 * 30):
        feed.push(chunk(number / 50))
    audio.attach(feed, 0.0)
    reader = audio.subscribe()
    for number in range(50 * 30, 50 * 120):
        feed.push(chunk(number / 50))
    heard = reader.take_until(1e9)
    assert heard[-1].end_s == pytest.approx(120.0) and heard[0].time_s == pytest.approx(60.0, abs=0.1)
    late = audio.subscribe().take_until(1e9)
    assert late[0].time_s == pytest.approx(110.0, abs=0.1)


def test_a_reader_that_is_closed_gets_nothing() -> None:
    audio, feed = LiveAudio(), AudioFeed(FORMAT)
    audio.attach(feed, 0.0)
    reader = audio.subscribe()
    reader.close()
    reader.close()
    feed.push(chunk(0.0))
    assert reader.take_until(9.0) == []


@given(st.floats(0, 100), st.integers(1, 500), st.floats(-1, 101))
def test_a_chunk_is_split_without_loss(time_s: float, count: int, at_s: float) -> None:
    samples = np.arange(count, dtype=np.float32)[None]
    parts = [part for part in AudioChunk(time_s, RATE, samples).split(at_s) if part is not None]
    np.testing.assert_array_equal(np.concatenate([part.samples for part in parts], axis=1), samples)
    assert parts[0].time_s == time_s and parts[-1].end_s == pytest.approx(time_s + count / RATE)


@pytest.mark.parametrize("shape", [(160,), (3, 160), (0, 160)])
def test_samples_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"wanted \(1 or 2, n\) samples"):
        AudioChunk(0.0, RATE, np.zeros(shape, np.float32))
