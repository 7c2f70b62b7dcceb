"""Recordings in segments: no frame lost or doubled, every file whole, names in the order of time."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.common.errors import ConfigError, SinkError
from streamer.frames.frame import Frame
from streamer.sinks import open_sink
from streamer.sinks.options import Retention, SinkOptions
from streamer.sinks.video.sink import VideoSegmentsSink
from streamer.sources.base import SourceInfo
from tests.media import picture, write_clip
from tests.recordings import ENDINGS, EXACT_ENDINGS, NOTHING, even, frames, info, read
from tests.test_sinks_video_audio import audio
from tests.test_sinks_video_broken import file_size_limit, noise

NAME = re.compile(r"out-[0-9]{8}T[0-9]{6}\.[0-9]{3}Z\.(mp4|mov|mkv|avi|webm|ts)")


def record(path: Path, source: SourceInfo, length_s: float, pictures: Iterator[Frame]) -> list[Path]:
    """Writes pictures in segments; returns the files, in the order of their names."""
    before = set(path.parent.iterdir())
    with VideoSegmentsSink(path, source, length_s) as sink:
        for frame in pictures:
            sink.write(frame, NOTHING)
    return sorted(set(path.parent.iterdir()) - before)


def starts_with_key_frame(path: Path) -> bool:
    with av.open(str(path)) as opened:
        return next(opened.demux(video=0)).is_keyframe


def length_s(path: Path) -> float:
    """Returns how long the pictures of a file are seen, the last one included, from the packets."""
    with av.open(str(path)) as opened:
        packets = [packet for packet in opened.demux(video=0) if packet.pts is not None]
        base = packets[0].time_base
        return float((packets[-1].pts + packets[-1].duration - packets[0].pts) * base)


@pytest.mark.parametrize("ending", EXACT_ENDINGS)
def test_segments_are_whole_files_that_add_up(ending: str, tmp_path: Path) -> None:
    files = record(tmp_path / f"out{ending}", info(), 1.0, frames(even(95)))
    assert all(NAME.fullmatch(file.name) for file in files)
    parts = [read(file) for file in files]
    assert [len(numbers) for numbers, _, _ in parts] == [30, 30, 30, 5]
    assert [number for numbers, _, _ in parts for number in numbers] == list(range(95))
    assert all(starts_with_key_frame(file) for file in files)
    np.testing.assert_allclose([duration for _, _, duration in parts], [1, 1, 1, 5 / 30], atol=2e-3)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [30.0, None])
def test_the_last_frame_of_a_segment_lasts_until_the_next_segment(
    ending: str, fps: float | None, tmp_path: Path
) -> None:
    times_s = list(itertools.accumulate([0.02, 0.1, 0.033, 0.7] * 4, initial=7.3))
    files = record(tmp_path / f"out{ending}", info(fps), 1.0, frames(times_s))
    firsts_s = []
    for boundary_s in range(5):
        firsts_s += [t for t in times_s if boundary_s <= t - 7.3 < boundary_s + 1][:1]
    assert len(files) == len(firsts_s) == 4
    got_s = [length_s(file) for file in files]
    np.testing.assert_allclose(got_s[:-1], np.diff(firsts_s), atol=1.1e-3)
    for file, first_s in zip(files, firsts_s, strict=True):
        numbers, read_s, _ = read(file)
        np.testing.assert_allclose(np.add(read_s, first_s), [times_s[number] for number in numbers], atol=1.1e-3)


def test_boundaries_are_counted_from_the_first_frame_and_empty_segments_are_left_out(tmp_path: Path) -> None:
    times_s = [100.5, 101.0, 101.4, 101.5, 106.7, 107.4, 107.5]
    files = record(tmp_path / "out.mp4", info(), 1.0, frames(times_s))
    assert [read(file)[0] for file in files] == [[0, 1, 2], [3], [4, 5], [6]]
    np.testing.assert_allclose([length_s(file) for file in files], [1.0, 5.2, 0.8, 1 / 30], atol=1e-3)


def test_sums_of_frame_times_do_not_miss_a_boundary(tmp_path: Path) -> None:
    times_s = list(itertools.accumulate([0.1] * 49, initial=0.0))
    assert times_s[30] != 3.0, "the sum has the error that this is about"
    files = record(tmp_path / "out.mkv", info(10.0), 1.0, frames(times_s))
    assert [len(read(file)[0]) for file in files] == [10] * 5


def test_times_that_go_back_stay_in_their_segment(tmp_path: Path) -> None:
    files = record(tmp_path / "out.mp4", info(), 1.0, frames([0.0, 0.9, 1.0, 0.95, 1.0, 1.1, 2.0]))
    assert [read(file)[0] for file in files] == [[0, 1], [2, 3, 4, 5], [6]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps_s=st.lists(st.floats(0.001, 1.5), min_size=1, max_size=25),
    length=st.floats(0.2, 2.0),
    ending=st.sampled_from([".mp4", ".mkv"]),
)
def test_whatever_the_times_no_frame_is_lost_or_doubled(
    gaps_s: list[float], length: float, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    times_s = list(itertools.accumulate(gaps_s, initial=0.25))
    files = record(folder / f"out{ending}", info(25.0), length, frames(times_s))
    parts = [read(file)[0] for file in files]
    assert [number for part in parts for number in part] == list(range(len(times_s)))
    for part, following in itertools.pairwise(parts):
        assert (times_s[part[0]] - 0.25 + 1e-6) // length == (times_s[part[-1]] - 0.25 + 1e-6) // length
        assert (times_s[part[-1]] - 0.25 + 1e-6) // length < (times_s[following[0]] - 0.25 + 1e-6) // length
    whole_s = sum(length_s(file) for file in files)
    assert whole_s == pytest.approx(times_s[-1] - times_s[0] + 0.04, abs=2e-3 * len(times_s))


def test_files_are_named_after_the_time_when_their_first_frame_was_captured(tmp_path: Path) -> None:
    ages_s = [7200.0, 7199.5, 7199.0, 3600.0, 3599.5]
    now_s, now = time.perf_counter(), datetime.now(UTC)
    pictures = [Frame(picture(n), "door", n, 7200 - age_s, now_s - age_s) for n, age_s in enumerate(ages_s)]
    files = record(tmp_path / "out.mp4", SourceInfo("door", "rtsp://x", live=True), 1.0, iter(pictures))
    stamps = [datetime.strptime(f.stem, "out-%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC) for f in files]
    for stamp, age_s in zip(stamps, (7200.0, 7199.0, 3600.0), strict=True):
        assert abs(stamp - (now - timedelta(seconds=age_s))) < timedelta(seconds=0.5)
    assert [read(file)[0] for file in files] == [[0, 1], [2], [3, 4]]


def test_names_rise_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(range(9, 0, -1))
    monkeypatch.setattr(
        "streamer.sinks.segmented.captured_utc", lambda frame: datetime(2026, 11, 23, next(hours), 59, 59, 999_700, UTC)
    )
    files = record(tmp_path / "out.mp4", info(), 1.0, frames(even(8, 2.0)))
    assert [file.name for file in files] == [
        "out-20261123T095959.999Z.mp4",
        "out-20261123T100000.000Z.mp4",
        "out-20261123T100000.001Z.mp4",
        "out-20261123T100000.002Z.mp4",
    ]
    assert [read(file)[0] for file in files] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_no_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.sinks.segmented.captured_utc", lambda frame: datetime(2026, 11, 23, 9, tzinfo=UTC))
    taken = tmp_path / "out-20261123T090000.000Z.mp4"
    taken.write_bytes(b"precious")
    (tmp_path / "out-20261123T090000.001Z.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (tmp_path / "out-20261123T090000.002Z.mp4").mkdir()
    files = record(tmp_path / "out.mp4", info(), 1.0, frames(even(31)))
    assert [file.name for file in files] == ["out-20261123T090000.003Z.mp4", "out-20261123T090000.004Z.mp4"]
    assert taken.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere.mp4").exists()


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".avi"])
def test_audio_continues_across_segments(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=100, with_audio=True)
    files = record(tmp_path / f"out{ending}", info(path=clip), 1.0, frames(even(100)))
    wanted = audio(clip)
    if ending in (".mkv", ".avi"):
        del wanted[0]  # the encoder's lead-in
    got = [[(time_s + start_s, content) for time_s, content in audio(file)] for start_s, file in enumerate(files)]
    if ending == ".mkv":  # since FFmpeg 9 each begins with a lead-in
        got = [[(t, content) for t, content in part if t >= start_s - 1e-6] for start_s, part in enumerate(got)]
    assert len(got) == 4
    assert [content for part in got for _, content in part] == [content for _, content in wanted], "lost or doubled"
    loose_s = 0.025 if ending == ".avi" else 1.1e-3  # AVI has no times: sound begins with the file
    np.testing.assert_allclose([t for part in got for t, _ in part], [t for t, _ in wanted], atol=loose_s)


def write_flashes(path: Path, seconds: int) -> Path:
    """Writes a clip of 30 frames a second that is black and silent, but for a flash and a beep 0.5 s into each."""
    rate = 48_000
    with av.open(str(path), "w") as output:
        video, sound = output.add_stream("libx264", rate=30), output.add_stream("aac", rate=rate)
        video.width, video.height = 64, 48
        sound.layout = "stereo"
        for index in range(30 * seconds):
            lit = index % 30 in (15, 16, 17)
            shown = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255 * lit, np.uint8), format="bgr24")
            output.mux(video.encode(shown))
        for start in range(0, rate * seconds, 1024):
            at = np.arange(start, start + 1024)
            wave = np.sin(2 * np.pi * 1000 / rate * at) * ((at % rate >= rate // 2) & (at % rate < rate * 0.6))
            piece = av.AudioFrame.from_ndarray(np.tile(wave.astype(np.float32), (2, 1)), "fltp", "stereo")
            piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
            output.mux(sound.encode(piece))
        output.mux([*video.encode(None), *sound.encode(None)])
    return path


def flashes_and_beeps(path: Path) -> tuple[list[float], list[float]]:
    """Returns when pictures become bright and sound becomes loud, as a player shows and plays them."""
    bright: list[tuple[float, bool]] = []
    loud: list[tuple[float, bool]] = []
    with av.open(str(path)) as opened:
        for decoded in opened.decode():
            if isinstance(decoded, av.VideoFrame):
                bright.append((decoded.time, decoded.to_ndarray(format="gray").mean() > 128))
            else:
                wave = np.abs(decoded.to_ndarray()[0])
                pieces = wave[: len(wave) // 64 * 64].reshape(-1, 64).max(axis=1) > 0.1
                loud += [
                    (decoded.time + n * 64 / decoded.sample_rate, bool(is_loud)) for n, is_loud in enumerate(pieces)
                ]
    quiet_s = 0.1
    onsets = []
    for marks in (bright, loud):
        lit = [time_s for time_s, is_on in marks if is_on]
        onsets.append([t for last, t in itertools.pairwise([-1.0, *lit]) if t - last > quiet_s])
    return onsets[0], onsets[1]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_sound_and_pictures_stay_together_in_every_segment(ending: str, tmp_path: Path) -> None:
    clip = write_flashes(tmp_path / "clip.mp4", seconds=7)
    with av.open(str(clip)) as opened:
        decoded = [f.to_ndarray(format="bgr24") for f in opened.decode(video=0)]
    pictures = (Frame(np.asarray(p, np.uint8), "clip", n, n / 30, 0.0) for n, p in enumerate(decoded))
    files = record(tmp_path / f"out{ending}", info(path=clip), 1.7, pictures)
    assert len(files) == 5
    count = 0
    for file in files:
        flashes_s, beeps_s = flashes_and_beeps(file)
        np.testing.assert_allclose(beeps_s, flashes_s, atol=1 / 30)
        count += len(flashes_s)
    assert count == 7


def test_audio_that_cannot_be_written_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"aac"})
    clip = write_clip(tmp_path / "clip.mkv", frames=90, with_audio=True, audio_codec="libopus")
    files = record(tmp_path / "out.avi", info(path=clip), 1.0, frames(even(90)))
    assert len(files) == 3
    assert len([message for message in caplog.messages if "no sound" in message]) == 1
    assert [number for file in files for number in read(file)[0]] == list(range(90))


def test_a_source_that_changes_its_size_keeps_the_open_segments_and_gives_the_next_its_own(tmp_path: Path) -> None:
    sizes = [(96, 64)] * 20 + [(64, 48)] * 40
    pictures = (Frame(picture(n, size), "door", n, n / 30, 0.0) for n, size in enumerate(sizes))
    files = record(tmp_path / "out.mp4", info(), 1.0, pictures)
    assert [read(file)[0] for file in files] == [list(range(30)), list(range(30, 60))]
    for file, size_wh in zip(files, ((96, 64), (64, 48)), strict=True):
        with av.open(str(file)) as opened:
            assert (opened.streams.video[0].width, opened.streams.video[0].height) == size_wh


def test_few_files_are_named_and_many_are_a_pattern(tmp_path: Path) -> None:
    sink = VideoSegmentsSink(tmp_path / "out.mp4", info(), 1.0)
    assert sink.written == ()
    counts = []
    with sink:
        for frame in frames(even(12, 2.0)):
            sink.write(frame, NOTHING)
            counts.append(len(sink.written))
            if counts[-1] == 3:
                assert list(sink.written) == sorted(tmp_path.iterdir())
    assert counts == [1, 1, 2, 2, 3, 3, 1, 1, 1, 1, 1, 1]
    assert sink.written == (tmp_path / "out-*.mp4",)


def test_finished_segments_leave_no_open_descriptor(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=120, with_audio=True)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc here")
    with VideoSegmentsSink(tmp_path / "out.mp4", info(path=clip), 0.1) as sink:
        counts = []
        for frame in frames(even(120)):
            sink.write(frame, NOTHING)
            counts.append(sum(1 for _ in descriptors.iterdir()))
    assert len(list(tmp_path.glob("out-*.mp4"))) == 40
    assert max(counts[10:]) == counts[10]
    assert sum(1 for _ in descriptors.iterdir()) < counts[10]


def test_a_run_without_frames_leaves_no_file(tmp_path: Path) -> None:
    with VideoSegmentsSink(tmp_path / "out.mp4", info(), 1.0) as sink:
        pass
    sink.close()
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error_on_open(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"there is no folder .*nowhere'; make it"):
        VideoSegmentsSink(tmp_path / "nowhere" / "out.mp4", info(), 1.0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_segments_before_whole_and_the_last_playable(ending: str, tmp_path: Path) -> None:
    sink = VideoSegmentsSink(tmp_path / f"out{ending}", info(), 4.0)
    pictures = noise(240)
    for frame in itertools.islice(pictures, 121):
        sink.write(frame, NOTHING)
    size = max(file.stat().st_size for file in tmp_path.iterdir())
    with file_size_limit(size * 3 // 4):
        for frame in pictures:
            sink.write(frame, NOTHING)
    with pytest.raises(SinkError, match="broke off: File too large.*can be played"):
        sink.close()
    sink.close()
    whole, broken, rest = sorted(tmp_path.iterdir())
    assert sink.written == (whole, broken, rest)
    counts = []
    for file in (whole, broken, rest):
        with av.open(str(file)) as opened:
            counts.append(sum(1 for _ in opened.decode(video=0)))
    assert counts[0] == 120
    assert counts[1] >= 30
    assert counts[2] >= 1, "the frame that failed begins the next segment"


def test_a_segment_that_fails_ends_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = VideoSegmentsSink(tmp_path / "out.mp4", info(30.0), 5.0)
    pictures = [Frame(f.pixels, "noise", f.index, f.index / 30, 0.0) for f in noise(600)]
    for frame in pictures[:10]:
        sink.write(frame, NOTHING)
    with file_size_limit(100):
        for frame in pictures[10:300]:
            sink.write(frame, NOTHING)
    for frame in pictures[300:]:
        sink.write(frame, NOTHING)
    with pytest.raises(SinkError, match="can't write .*: File too large; nothing was kept"):
        sink.close()
    times_s = [read_s for file in sorted(tmp_path.iterdir()) for read_s in [length_s(file)]]
    assert sum(times_s) > 8, "it is tried again ten seconds later"
    assert "File too large" in caplog.text


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_new_segment_begins_after_an_outage(ending: str, tmp_path: Path) -> None:
    times_s = [*even(20, 20.0), *(36_001.0 + time_s for time_s in even(20, 20.0))]
    files = record(tmp_path / f"out{ending}", info(20.0), 86_400.0, frames(times_s))
    assert [read(file)[0] for file in files] == [list(range(20)), list(range(20, 40))]
    np.testing.assert_allclose([read(file)[2] for file in files], [1, 1], atol=2e-3)


def test_pictures_that_are_always_far_apart_are_no_outage(tmp_path: Path) -> None:
    files = record(tmp_path / "out.mkv", info(None), 86_400.0, frames([60.0 * n for n in range(9)]))
    assert [read(file)[0] for file in files] == [list(range(9))]


def test_a_segment_that_could_not_be_begun_is_not_named(tmp_path: Path) -> None:
    sink = VideoSegmentsSink(tmp_path / "out.mp4", info(), 2.0)
    pictures = [Frame(f.pixels, "noise", f.index, f.index / 30, 0.0) for f in noise(62)]
    for frame in pictures[:60]:
        sink.write(frame, NOTHING)
    (first,) = tmp_path.iterdir()
    with file_size_limit(first.stat().st_size + 10**6):
        sink.write(pictures[60], NOTHING)
    with file_size_limit(100), pytest.raises(SinkError, match="can't write .*nothing was kept"):
        sink.close()
    assert list(tmp_path.iterdir()) == [first]
    assert sink.written == (first,)


def test_the_resolver_gives_segments_where_they_are_asked_for(tmp_path: Path) -> None:
    options = SinkOptions(segment_s=60)
    for name, kind in (("out.mp4", "VideoSegmentsSink"), ("out.jsonl", "JsonlSegmentsSink"), ("folder/", "ImagesSink")):
        with open_sink(f"{tmp_path}/{name}", info(), labels=[], options=options) as sink:
            assert type(sink).__name__ == kind
    with open_sink(f"{tmp_path}/out.mp4", info(), labels=[], options=SinkOptions()) as sink:
        assert type(sink).__name__ == "VideoSink"


def test_an_old_segment_is_not_read_while_old_segments_are_deleted(tmp_path: Path) -> None:
    old = write_clip(tmp_path / "out-20261123T090000.000Z.mp4", frames=2)
    source = SourceInfo("old", str(old), path=old)
    keep = SinkOptions(60, Retention(age_s=60))
    with pytest.raises(ConfigError, match="is an old segment of the output"):
        open_sink(f"{tmp_path}/out.mp4", source, labels=[], options=keep)
    open_sink(f"{tmp_path}/out.mp4", source, labels=[], options=SinkOptions(60)).close()
    open_sink(f"{tmp_path}/other.mp4", source, labels=[], options=keep).close()
