"""The sound of cameras in recordings: which there is, when it is heard, and what it must not disturb."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import numpy.typing as npt
import pytest

from streamer.app.cli import main
from streamer.common.queues import OverflowPolicy
from streamer.detector.base import DetectTimes
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import open_sink
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, SinkOptions
from streamer.sources import Source, SourceOptions, open_source
from tests.fakes import SlowDetector
from tests.file_server import FileServer
from tests.http_camera import HttpCamera, head
from tests.media import SIZE_WH, number_of
from tests.media import picture as numbered
from tests.recordings import NOTHING
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.rtsp.sound import SOUND_CODECS, Microphone, beep_times_s, beeps

FPS = 30
HEARD = SourceOptions(audio=True, overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=20.0)
OPEN_LATE_S = 0.06  # how far two threads of the camera may begin apart, and a frame of AAC


def camera(codec: str = "pcmu", parts: tuple[tuple[float, float], ...] = ((0.0, 1e9),), **options: int) -> RtspServer:
    return RtspServer(Loop(fps=FPS), sound=Microphone(codec, parts=parts), **options)


def record(source: Source, path: Path, count: int, options: SinkOptions = DEFAULT_SINK_OPTIONS) -> list[Frame]:
    frames = []
    with open_sink(str(path), source.info, labels=(), options=options) as sink:
        for frame in islice(source, count):
            frames.append(frame)
            sink.write(frame, NOTHING)
    return frames


def heard(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Returns (n,) samples of a file's sound from time zero on, and how many there are a second."""
    with av.open(str(path)) as opened:
        stream = opened.streams.audio[0]
        rate = stream.codec_context.sample_rate
        parts: list[npt.NDArray[np.float32]] = []
        at = 0
        for frame in opened.decode(stream):
            begin = round(float(frame.pts * frame.time_base) * rate)
            samples = np.asarray(frame.to_ndarray(), np.float32)[0]
            if begin > at:
                parts.append(np.zeros(begin - at, np.float32))
            parts.append(samples[max(0, at - begin) :])
            at = max(at, begin + len(samples))
    return np.concatenate(parts), rate


def beeps_of(path: Path) -> list[float]:
    return beep_times_s(*heard(path))


def seconds_shown(path: Path) -> list[float]:
    """Returns when the pictures are shown that the camera makes at the beginning of each second."""
    with av.open(str(path)) as opened:
        shown = [
            (number_of(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)), frame.time)
            for frame in opened.decode(video=0)
        ]
    return [time_s for number, time_s in shown if number == 0]


def length_s(path: Path) -> float:
    with av.open(str(path)) as opened:
        return (opened.duration or 0) / 1e6


def assert_in_sync(path: Path, count: int) -> None:
    """Checks that beeps are heard when their pictures are shown, at least `count`."""
    heard_s, pictures = beeps_of(path), seconds_shown(path)
    if heard_s[:1] == [0.0] and pictures[0] > 0.15:
        del heard_s[0]  # the rest of a beep that began before the file
    matched = [beep_s for beep_s in heard_s if any(abs(beep_s - shown_s) < 0.15 for shown_s in pictures)]
    assert len(heard_s) >= count and matched == heard_s, (heard_s, pictures)


@pytest.mark.parametrize("codec", list(SOUND_CODECS))
def test_every_codec_is_recorded_in_step_with_the_pictures(codec: str, tmp_path: Path) -> None:
    if codec == "opus" and "libopus" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libopus")
    path = tmp_path / "out.mp4"
    with camera(codec) as server, open_source(server.url, options=HEARD) as source:
        frames = record(source, path, 75)
    assert_in_sync(path, 2)
    assert length_s(path) == pytest.approx(frames[-1].pts_s - frames[0].pts_s + 1 / FPS, abs=0.03)
    assert source.info.audio is not None and source.info.audio.format is not None
    assert source.info.audio.format.codec.startswith(SOUND_CODECS[codec].encoder.removeprefix("lib")[:4])


@pytest.mark.parametrize("ending", [".mkv", ".mov", ".avi", ".webm", ".ts"])
def test_every_container_has_the_sound(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    with camera() as server, open_source(server.url, options=HEARD) as source:
        record(source, path, 75)
    assert_in_sync(path, 2)


def test_segments_have_the_sound_without_a_gap(tmp_path: Path) -> None:
    with camera() as server, open_source(server.url, options=HEARD) as source:
        record(source, tmp_path / "out.mkv", 120, SinkOptions(segment_s=1.1))
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 4
    joined = np.concatenate([heard(part)[0][: round(1.1 * 8000)] for part in parts])
    assert [round(beep_s) for beep_s in beep_times_s(joined, 8000)] == [0, 1, 2, 3]


def test_sound_that_starts_late_is_heard_late(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with camera(parts=((2.6, 1e9),)) as server, open_source(server.url, options=HEARD) as source:
        record(source, path, 160)
    assert [round(beep_s) for beep_s in beeps_of(path)] == [3, 4, 5]
    assert_in_sync(path, 3)


def test_sound_for_parts_only_leaves_silence_between(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with camera(parts=((0.0, 1.5), (3.5, 1e9))) as server, open_source(server.url, options=HEARD) as source:
        record(source, path, 150)
    assert [round(beep_s) for beep_s in beeps_of(path)] == [0, 1, 4]
    assert_in_sync(path, 3)
    samples, rate = heard(path)
    assert np.abs(samples[round(1.7 * rate) : round(3.3 * rate)]).max() < 0.01


def test_a_camera_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with RtspServer(Loop(fps=FPS)) as server, open_source(server.url, options=HEARD) as source:
        assert len(record(source, path, 20)) == 20
        assert source.info.audio is not None and source.info.audio.format is None
    with av.open(str(path)) as opened:
        assert not opened.streams.audio


def test_a_microphone_that_says_nothing_costs_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with (
        camera(parts=()) as server,
        open_source(server.url, options=HEARD) as source,
        open_sink(str(path), source.info, labels=()) as sink,
    ):
        for number, frame in enumerate(islice(source, 150)):
            sink.write(frame, NOTHING)
            if number == 140:
                with av.open(str(path)) as half:  # it can be played while it is written
                    assert half.streams.video
    assert not beeps_of(path)


@pytest.mark.parametrize("turned_off", ["sink", "source"])
def test_sound_that_is_not_wanted(turned_off: str, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    options = SourceOptions(audio=turned_off != "source", overflow_policy=OverflowPolicy.BLOCK)
    with camera() as server, open_source(server.url, options=options) as source:
        record(source, path, 20, SinkOptions(audio=turned_off != "sink"))
    with av.open(str(path)) as opened:
        assert not opened.streams.audio


def test_sound_stays_in_step_when_frames_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with (
        camera() as server,
        open_source(server.url, options=HEARD) as source,
        open_sink(str(path), source.info, labels=()) as sink,
    ):
        for number, frame in enumerate(islice(source, 100)):
            if number % 5 == 0:
                sink.write(frame, NOTHING)
    heard_s, pictures = beeps_of(path), seconds_shown(path)
    assert len(heard_s) == 4 and len(pictures) == 4
    assert heard_s == pytest.approx(pictures, abs=0.15)


def test_sound_goes_on_after_a_reconnect(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    with camera("aac") as server, open_source(server.url, options=HEARD) as source:
        with open_sink(str(path), source.info, labels=()) as sink:
            frames = iter(source)
            for number in range(140):
                frame = next(frames)
                sink.write(frame, NOTHING)
                if number == 70:
                    server.sound = Microphone("pcmu")  # another codec and rate than before
                    server.cut()
        assert source.reconnects == 1
    assert_in_sync(path, 4)


def test_two_recordings_of_one_camera_both_have_the_sound(tmp_path: Path) -> None:
    paths = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
    with camera() as server, open_source(server.url, options=HEARD) as source:
        sinks = [open_sink(str(path), source.info, labels=()) for path in paths]
        for frame in islice(source, 70):
            for sink in sinks:
                sink.write(frame, NOTHING)
        for sink in sinks:
            sink.close()
    for path in paths:
        assert_in_sync(path, 2)


@pytest.mark.parametrize(("arguments", "has_sound"), [([], True), (["--no-audio"], False), (["--audio", "no"], False)])
def test_a_run(arguments: list[str], has_sound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(SlowDetector):
        def collect(self) -> tuple[Frame, Detections, DetectTimes]:
            frame, _, times = super().collect()
            return frame, NOTHING, times

    def load(model: str, **wanted: object) -> SlowDetector:
        threading.Event().wait(0.7)  # the recording begins some time after the camera was reached
        return Blind()

    monkeypatch.setattr("streamer.detector.open_detector", load)
    path = tmp_path / "out.mp4"
    with camera() as server:
        options = ["--source", server.url, "--output", str(path), "--duration", "3", "--policy", "every-frame"]
        assert main([*options, *arguments]) == 0
    with av.open(str(path)) as opened:
        assert bool(opened.streams.audio) == has_sound
    assert length_s(path) == pytest.approx(3, abs=0.2)
    if has_sound:
        assert_in_sync(path, 2)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of beeps as MPEG-TS, FLV and playlists."""
    folder = tmp_path_factory.mktemp("streams")
    lists = {"hls_time": "1", "hls_list_size": "0"}
    for name, options in (
        ("clip.ts", {}),
        ("clip.flv", {}),
        ("live.m3u8", lists | {"hls_flags": "omit_endlist", "hls_segment_filename": str(folder / "live%d.ts")}),
        ("whole.m3u8", lists | {"hls_segment_filename": str(folder / "whole%d.ts")}),
    ):
        write_beeping(folder / name, 6, options)
    return folder


def write_beeping(path: Path, seconds: int, options: dict[str, str]) -> None:
    rate = 44100
    with av.open(str(path), "w", options=options) as output:
        video = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "g": str(FPS), "qp": "10"})
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = *SIZE_WH, "yuv420p"
        audio = output.add_stream("aac", rate=rate)
        assert isinstance(audio, av.AudioStream)
        audio.layout = "mono"
        samples = beeps(rate, seconds)
        for number in range(seconds * FPS):
            picture = av.VideoFrame.from_ndarray(numbered(number % FPS), format="bgr24")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            output.mux(video.encode(picture))
            part = samples[None, number * rate // FPS : (number + 1) * rate // FPS]
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, number * rate // FPS, Fraction(1, rate)
            output.mux(audio.encode(sound))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))


@pytest.mark.parametrize(("name", "kind"), [("clip.ts", "video/mp2t"), ("clip.flv", "video/x-flv")])
def test_a_stream_over_http(name: str, kind: str, streams: Path, tmp_path: Path) -> None:
    content = (streams / name).read_bytes()
    over = threading.Event()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(kind) + content)
        over.wait(60)

    path = tmp_path / "out.mp4"
    with HttpCamera(reply) as server, open_source(f"{server.url}/live", options=HEARD) as source:
        assert source.info.live == (name == "clip.ts")  # the FLV says how long it is
        record(source, path, 110)
        over.set()
    assert_in_sync(path, 3)


@pytest.mark.parametrize(("name", "is_live"), [("live.m3u8", True), ("whole.m3u8", False), ("clip.ts", False)])
def test_a_playlist_and_a_file_on_a_server(name: str, is_live: bool, streams: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with FileServer(streams) as server, open_source(f"{server.url}/{name}", options=HEARD) as source:
        assert source.info.live == is_live
        record(source, path, 70)
    assert_in_sync(path, 2)
