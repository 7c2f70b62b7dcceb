"""A real RTSP camera and real faults: what the source, the pipeline and the program make of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.frame import Frame
from streamer.frames.pixels import pixels_of
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.runtime.threads import STUCK
from streamer.sinks.video.sink import VideoSink
from streamer.sources import Source, SourceOptions, open_source
from tests.fakes import SlowDetector, wait_for
from tests.rtsp.camera import Camera
from tests.rtsp.code import CodeSink, code_of
from tests.tiny import write_tiny

RUN = Path(__file__).parent.parent / "run_stream.py"
WATCHFUL = SourceOptions(stall_timeout_s=1.0, overflow_policy=OverflowPolicy.BLOCK)
EVERY = SourceOptions(overflow_policy=OverflowPolicy.BLOCK)


def read(source: Source, count: int) -> list[Frame]:
    return list(islice(source, count))


@pytest.fixture
def camera() -> Iterator[Camera]:
    with Camera(key_interval=10) as camera:
        yield camera


def run_in_background(pipeline: Pipeline) -> threading.Thread:
    thread = threading.Thread(target=pipeline.run, daemon=True)
    thread.start()
    return thread


def test_frames_are_fresh_from_the_first(camera: Camera) -> None:
    with open_source(camera.url, options=EVERY) as source:
        frames = read(source, 30)
        ages_s = [time.monotonic() - code.sent_s for code in [code_of(frames[-1])] if code]
    codes = [code_of(frame) for frame in frames]
    numbers = [code.number for code in codes if code]
    assert numbers == list(range(numbers[0], numbers[0] + 30))
    assert ages_s and ages_s[0] < 1.0


def test_a_slow_loop_around_a_source_gets_fresh_frames(camera: Camera) -> None:
    with open_source(camera.url) as source:
        first = code_of(next(iter(source)))
        assert first is not None
        wait_for(lambda: time.monotonic() - first.sent_s > 2.0)
        read(source, 1)
        late = code_of(next(iter(source)))
        assert late is not None
        assert time.monotonic() - late.sent_s < 1.0
        assert late.number - first.number > 25
        assert source.dropped > 25


@pytest.mark.parametrize("fault", ["kill", "freeze", "hold", "cut", "refuse"])
def test_it_comes_back_after(fault: str, camera: Camera) -> None:
    with open_source(camera.url, options=WATCHFUL) as source:
        before = read(source, 10)
        if fault == "kill":
            camera.kill()
        elif fault == "freeze":
            camera.freeze()
        elif fault == "hold":
            camera.wire.hold()
        else:
            camera.wire.cut()
            if fault == "refuse":
                camera.wire.refuse()
        after: list[Frame] = []
        reader = threading.Thread(target=lambda: after.extend(read(source, 60)), daemon=True)
        reader.start()
        wait_for(lambda: source.lost_s is not None or source.reconnects)
        back_at_s = time.monotonic()
        if fault == "kill":
            camera.start()
        elif fault == "freeze":
            camera.thaw()
        elif fault == "hold":
            camera.wire.pass_on()
        elif fault == "refuse":
            camera.wire.accept()
        reader.join(30)
        assert not reader.is_alive()
        assert source.reconnects == 1
        assert source.lost_s is None
    frames = before + after
    assert [frame.index for frame in frames] == list(range(70))
    assert [frame.pts_s for frame in frames] == sorted(frame.pts_s for frame in frames)
    elapsed_s = frames[-1].captured_at_s - frames[0].captured_at_s
    assert frames[-1].pts_s == pytest.approx(elapsed_s, abs=1.0)
    late = code_of(frames[-1])
    assert late is not None and late.sent_s > back_at_s  # not what was left in some buffer


def test_a_camera_that_comes_back_with_another_size_and_codec_fills_the_same_file(
    camera: Camera, tmp_path: Path
) -> None:
    source = open_source(camera.url, options=WATCHFUL)
    sink, path = CodeSink(), tmp_path / "out.mp4"
    pipeline = Pipeline(
        [StreamSpec(source, [("codes", sink), ("video", VideoSink(path, source.info))])], SlowDetector()
    )
    thread = run_in_background(pipeline)
    wait_for(lambda: len(sink.shown) > 20)
    camera.kill()
    wait_for(lambda: source.lost_s is not None)
    seen = len(sink.shown)
    camera.start(size_wh=(320, 240), codec="mjpeg")
    wait_for(lambda: len(sink.shown) > seen + 20)
    pipeline.stop()
    thread.join(20)
    assert not thread.is_alive()
    with av.open(str(path)) as container:
        sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
        assert container.duration is not None
        length_s = container.duration / 1e6
    assert sizes == {(640, 360)}
    report = pipeline.report()
    assert report.sources[0].reconnects == 1
    assert length_s == pytest.approx(report.wall_s, abs=1.5)  # the outage takes its time in the recording too


def test_a_run_is_stopped_at_once_while_its_camera_is_lost(camera: Camera, caplog: pytest.LogCaptureFixture) -> None:
    source, sink = open_source(camera.url, options=WATCHFUL), CodeSink()
    pipeline = Pipeline([StreamSpec(source, [("codes", sink)])], SlowDetector())
    thread = run_in_background(pipeline)
    wait_for(lambda: sink.shown)
    camera.freeze()
    wait_for(lambda: source.lost_s is not None)
    pipeline.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert STUCK not in caplog.text
    assert pipeline.report().errors == ()


def test_corrupt_packets_are_survived_and_counted(camera: Camera) -> None:
    sink, source = CodeSink(), open_source(camera.url, options=WATCHFUL)
    pipeline = Pipeline([StreamSpec(source, [("codes", sink)])], SlowDetector())
    thread = run_in_background(pipeline)
    wait_for(lambda: len(sink.shown) > 5)
    camera.wire.corrupt(0.3, seed=1)
    wait_for(lambda: source.damaged or source.lost_s is not None or source.reconnects)
    camera.wire.corrupt(0.0, seed=1)
    clean_from_s = time.monotonic()
    wait_for(lambda: any(at_s - age_s > clean_from_s for at_s, _, age_s in sink.shown[-3:]))
    pipeline.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert pipeline.report().errors == ()


def test_a_server_that_has_udp_only(camera: Camera) -> None:
    with Camera(transport="udp") as udp:
        with open_source(udp.direct_url) as source:
            assert all(code_of(frame) for frame in read(source, 20))
        with pytest.raises(SourceError, match="can't be opened|answered"):
            open_source(udp.direct_url, options=SourceOptions(rtsp_transport="tcp"))
    with open_source(camera.direct_url, options=SourceOptions(rtsp_transport="tcp")) as source:
        assert all(code_of(frame) for frame in read(source, 5))


@pytest.mark.slow
def test_a_key_frame_may_take_eleven_seconds() -> None:
    with Camera(key_interval=330) as camera, open_source(camera.url, options=SourceOptions(reconnect=0)) as first:
        read(first, 10)  # the encoder's first key frame has gone by
        with open_source(camera.url, options=SourceOptions(stall_timeout_s=1.0, reconnect=0)) as source:
            assert code_of(read(source, 1)[0])


@pytest.mark.slow
def test_what_is_shown_stays_fresh_however_slow_the_detector(camera: Camera) -> None:
    source, sink = open_source(camera.url), CodeSink()
    detector = SlowDetector(during=lambda _: time.sleep(1 / 3))
    report = Pipeline([StreamSpec(source, [("codes", sink)])], detector).run(20.0)
    assert len(sink.ages_s) > 30
    # One frame interval, one in flight, and the parser's frame; the rest is this machine's noise.
    assert sorted(sink.ages_s)[len(sink.ages_s) // 2] < 0.7
    late, early = sink.ages_s[-10:], sink.ages_s[:10]
    assert sum(late) / 10 < sum(early) / 10 + 0.2
    assert report.sources[0].frames_dropped > 300


@pytest.mark.slow
def test_decoding_too_slowly_passes_pictures_over_rather_than_fall_behind(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_pixels_of(*picture: Any) -> Any:
        time.sleep(0.1)  # ten a second, of thirty
        return pixels_of(*picture)

    monkeypatch.setattr("streamer.sources.cpu_decoder.pixels_of", slow_pixels_of)
    sink, source = CodeSink(), open_source(camera.url)
    Pipeline([StreamSpec(source, [("codes", sink)])], SlowDetector()).run(8.0)
    assert source.dropped > 60
    assert len(sink.shown) > 30
    assert max(sink.ages_s[-20:]) < 2.5  # a key frame interval of 1/3 s and 0.5 s, not half of eight seconds


def test_one_dead_camera_leaves_the_others_alone(camera: Camera) -> None:
    well, lost = open_source(camera.url, name="well"), open_source(camera.direct_url, name="lost", options=WATCHFUL)
    sinks = CodeSink(), CodeSink()
    plans = [StreamSpec(source, [("codes", sink)]) for source, sink in zip((well, lost), sinks, strict=True)]
    with Camera() as other:
        lost.close()
        lost = open_source(other.url, name="lost", options=WATCHFUL)
        plans[1] = StreamSpec(lost, [("codes", sinks[1])])
        pipeline = Pipeline(plans, SlowDetector())
        thread = run_in_background(pipeline)
        wait_for(lambda: len(sinks[0].shown) > 10 and len(sinks[1].shown) > 10)
        other.freeze()
        wait_for(lambda: lost.lost_s is not None)
        seen = len(sinks[0].shown)
        wait_for(lambda: len(sinks[0].shown) > seen + 30)
        assert well.lost_s is None
        other.thaw()
        seen = len(sinks[1].shown)
        wait_for(lambda: len(sinks[1].shown) > seen + 10)
        pipeline.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert [part.reconnects for part in pipeline.report().sources] == [0, 1]


def test_nothing_is_left_after_closing(camera: Camera) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with open_source(camera.url) as source:  # whatever is opened once and kept
        read(source, 3)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("read ")])
    before = descriptors(), threading.active_count()
    for _ in range(3):
        with open_source(camera.url, options=WATCHFUL) as source:
            read(source, 3)
            camera.wire.cut()
            read(source, 3)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("read ")])
    wait_for(lambda: (descriptors(), threading.active_count()) <= before)


def program(folder: Path, *options: object) -> subprocess.Popen[str]:
    model = write_tiny(folder / "tiny.onnx")
    command = [sys.executable, str(RUN), "--model", str(model), "--no-self-check", *map(str, options)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_program_gives_up_when_told_to_and_its_video_plays(camera: Camera, tmp_path: Path) -> None:
    url = camera.url.replace("rtsp://", "rtsp://admin:hunter2@")
    run = program(
        tmp_path, "--source", url, "--output", "o.mp4", "--output", "o.jsonl", "--reconnect", 2, "--report", "r"
    )
    wait_for(lambda: (tmp_path / "o.jsonl").exists() and (tmp_path / "o.jsonl").read_text().count("\n") > 10, 60)
    camera.kill()
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "frames in" in out
    assert errors.splitlines()[-1].startswith("error: source 'rtsp://***@127.0.0.1")
    assert "tried again 2 times" in errors
    report = json.loads((tmp_path / "r").read_text())
    assert [error["where"] for error in report["errors"]] == ["127.0.0.1"]
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10
    lines = (tmp_path / "o.jsonl").read_text()
    for text in (out, errors, json.dumps(report), lines):
        assert "hunter2" not in text


def test_a_run_that_never_reaches_its_camera_fails(camera: Camera, tmp_path: Path) -> None:
    camera.wire.refuse()
    run = program(tmp_path, "--source", camera.url, "--output", "null", "--reconnect", "forever", "--duration", 2)
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert out == ""
    assert "before its first frame" in errors.splitlines()[-1]
    run = program(tmp_path, "--source", camera.url, "--output", "null")  # without being told to, it doesn't wait
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "refused the connection" in errors


def test_a_run_with_several_cameras_begins_without_one(camera: Camera, tmp_path: Path) -> None:
    with Camera() as late:
        late.kill()
        run = program(
            tmp_path, "--source", f"a={camera.url}", "--source", f"b={late.url}", "--output", "{source}.jsonl",
            "--duration", 30, "--max-frames", 40, "--report", "r",
        )  # fmt: skip
        wait_for(lambda: (tmp_path / "a.jsonl").exists() and (tmp_path / "a.jsonl").read_text().count("\n") == 40, 60)
        late.start()
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert "the run starts without it" in errors
    report = json.loads((tmp_path / "r").read_text())
    print(errors, report)
    assert [(part["name"], part["frames_processed"]) for part in report["sources"]] == [("a", 40), ("b", 40)]
    assert "errors" not in report
