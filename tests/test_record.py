"""Recordings of a source's own packets: whole, in step with sound and detections, and what may go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.app.cli import main
from streamer.app.recording import open_record
from streamer.common.errors import SinkError
from streamer.common.queues import OverflowPolicy
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.options import DEFAULT_SINK_OPTIONS, Retention, SinkOptions
from streamer.sinks.paths import OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.spec import RECORD_ENDINGS, OutputSpec
from streamer.sinks.video.captions import CaptionWriter, caption
from streamer.sinks.video.record import RecordSink
from streamer.sources import Source, SourceOptions, open_source
from streamer.sources.packet_tap import PacketTap
from tests.media import write_clip
from tests.recordings import frames, info, read
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.rtsp.sound import Microphone
from tests.test_sinks_video_broken import file_size_limit
from tests.test_sound_of_cameras import assert_in_sync

KEPT = SourceOptions(kept_packets_s=15.0, overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=20.0)
FPS = 30
ONE = Detections(np.array([[0, 0, 10, 10]], np.float32), np.array([0.5], np.float32), np.array([0]))


def sink_for(
    source: Source, path: Path, options: SinkOptions = DEFAULT_SINK_OPTIONS, retention: SegmentRetention | None = None
) -> RecordSink:
    assert source.info.packets is not None
    return RecordSink(path, source.info, source.info.packets, labels=("cat",), options=options, retention=retention)


def recorded(
    source: Source, path: Path, count: int | None = None, options: SinkOptions = DEFAULT_SINK_OPTIONS
) -> list[Frame]:
    written = []
    with sink_for(source, path, options) as sink:
        for frame in islice(source, count):
            written.append(frame)
            sink.write(frame, ONE)
        source.interrupt()
        source.close()
    return written


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as opened:
        return [bytes(packet) for packet in opened.demux(video=0) if packet.size]


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as opened:
        return [
            (float(packet.pts * packet.time_base), bytes(packet)) for packet in opened.demux(audio=0) if packet.size
        ]


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 100, fps=FPS)


@pytest.mark.parametrize("ending", RECORD_ENDINGS)
def test_a_file_is_recorded_whole_and_unchanged(clip: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    with open_source(str(clip), options=KEPT) as source:
        shown = recorded(source, path)
    assert packets_of(path) == packets_of(clip)
    numbers, times_s, length_s = read(path)
    assert numbers == list(range(100)) and times_s == pytest.approx([index / FPS for index in range(100)], abs=2e-3)
    assert length_s == pytest.approx(100 / FPS, abs=0.05)
    lines = lines_of(path.with_suffix(".jsonl"))
    assert [line["index"] for line in lines] == [frame.index for frame in shown]
    assert [line["pts_s"] for line in lines] == pytest.approx(times_s, abs=2e-3)


def test_segments_begin_with_key_frames_and_lack_nothing(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 150, fps=FPS, codec_options={"g": "10"})
    path = tmp_path / "out" / "part.mp4"
    path.parent.mkdir()
    with open_source(str(clip), options=KEPT) as source:
        recorded(source, path, options=SinkOptions(segment_s=1.1))
    parts = sorted(path.parent.glob("*.mp4"))
    assert len(parts) >= 4
    assert [packet for part in parts for packet in packets_of(part)] == packets_of(clip)
    shown = [read(part) for part in parts]
    assert [number for numbers, _, _ in shown for number in numbers] == list(range(150))
    assert all(numbers[0] % 10 == 0 for numbers, _, _ in shown)
    for part, (numbers, times_s, _) in zip(parts, shown, strict=True):
        lines = lines_of(part.with_suffix(".jsonl"))
        assert [line["index"] for line in lines] == numbers
        assert [line["pts_s"] for line in lines] == pytest.approx(times_s, abs=2e-3)
        assert part.with_suffix(".vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")


def test_segments_have_all_the_sound_each_its_own(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 150, fps=FPS, codec_options={"g": "10"}, with_audio=True)
    path = tmp_path / "out" / "part.mkv"
    path.parent.mkdir()
    with open_source(str(clip), options=KEPT) as source:
        recorded(source, path, options=SinkOptions(segment_s=1.1))
    parts = sorted(path.parent.glob("*.mkv"))
    assert len(parts) >= 4
    whole, sound = sound_of(clip), [sound_of(part) for part in parts]
    assert len(whole) - 2 <= sum(map(len, sound)) <= len(whole)
    assert [packet for _, packet in whole][-40:] == [packet for each in sound for _, packet in each][-40:]
    assert all(each[0][0] < 0.03 for each in sound)


@pytest.mark.parametrize(("codec", "ending", "kept"), [("pcmu", ".mkv", "pcm_mulaw"), ("pcmu", ".mp4", "aac"),
                                                       ("aac", ".mp4", "aac")])  # fmt: skip
def test_a_camera_is_recorded_with_its_sound(tmp_path: Path, codec: str, ending: str, kept: str) -> None:
    path = tmp_path / f"door{ending}"
    with RtspServer(Loop(fps=FPS), sound=Microphone(codec)) as server, open_source(server.url, options=KEPT) as source:
        shown = recorded(source, path, 75)
    with av.open(str(path)) as opened:
        assert opened.streams.audio[0].codec_context.name == kept
    numbers, times_s, _ = read(path)
    assert len(numbers) >= 75 and {(after - before) % FPS for before, after in pairwise(numbers)} == {1}
    assert_in_sync(path, 2)
    lines = lines_of(path.with_suffix(".jsonl"))
    assert [line["index"] for line in lines] == [frame.index for frame in shown]
    assert all(min(abs(float(str(line["pts_s"])) - time_s) for time_s in times_s) < 0.02 for line in lines)


def test_a_recording_goes_on_after_the_camera_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "door.mp4"
    with RtspServer(Loop(fps=60), hang_up_after=40) as server, open_source(server.url, options=KEPT) as source:
        shown = recorded(source, path, 90)
        assert source.reconnects >= 1
    numbers, times_s, _ = read(path)
    assert len(numbers) >= 60 and times_s == sorted(times_s)
    assert times_s[-1] == pytest.approx(shown[-1].pts_s - shown[0].pts_s, abs=0.5)


def test_frames_that_detection_drops_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "door.mp4"
    with (
        RtspServer(Loop(fps=FPS)) as server,
        open_source(server.url, options=KEPT) as source,
        sink_for(source, path) as sink,
    ):
        for frame in islice(source, 60):
            if frame.index % 10 == 0:
                sink.write(frame, ONE)
        source.interrupt()
        source.close()
    assert len(read(path)[0]) >= 60 and len(lines_of(path.with_suffix(".jsonl"))) == 6


def test_a_full_disk_ends_one_recording_and_leaves_what_plays(clip: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", 600, fps=FPS)
    path = tmp_path / "out.mp4"
    limit, broken = file_size_limit(clip.stat().st_size // 2), "broke off: .*; what it holds can be played"
    with limit, open_source(str(clip), options=KEPT) as source, pytest.raises(SinkError, match=broken):
        recorded(source, path)
    numbers = read(path)[0]
    assert 30 <= len(numbers) < 600 and numbers == [index % 256 for index in range(len(numbers))]


def test_a_recording_that_failed_holds_no_source_up(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mp4", 600, fps=FPS, codec_options={"g": "10"})
    kept = replace(KEPT, kept_packets_s=0.5)
    with file_size_limit(20_000), open_source(str(clip), options=kept) as source:
        sink = sink_for(source, tmp_path / "out.mp4")
        images = iter(source)
        sink.write(next(images), ONE)
        assert sum(1 for _ in images) == 599  # none is written, so only the source can be waited for
        with pytest.raises(SinkError, match="broke off"):
            sink.close()


def test_old_segments_are_deleted_with_what_is_beside_them(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 150, fps=FPS, codec_options={"g": "10"})
    path = tmp_path / "out" / "part.mp4"
    path.parent.mkdir()
    retention = SegmentRetention(Retention(size_bytes=1))
    with (
        open_source(str(clip), options=KEPT) as source,
        sink_for(source, path, SinkOptions(segment_s=1.0), retention) as sink,
    ):
        for frame in source:
            sink.write(frame, ONE)
    left = sorted(each.name for each in path.parent.iterdir())
    assert len({name.rpartition(".")[0] for name in left}) == 1 and len(left) == 3


def test_the_program_records_beside_no_other_output(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert main([str(clip), "--record", "kept.mkv", "--no-self-check", "-q"]) == 0
    assert packets_of(tmp_path / "kept.mkv") == packets_of(clip)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["clip.mp4", "kept.jsonl", "kept.mkv", "kept.vtt"]


def test_a_source_has_its_own_recording(clip: Path, tmp_path: Path) -> None:
    other = write_clip(tmp_path / "other.mp4", 20, fps=FPS)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"source:\n  a: {{uri: {clip}, record: {tmp_path / 'a-kept.mp4'}}}\n  b: {other}\noutput: 'null'\n"
    )
    assert main(["--config", str(config), "--no-self-check", "-q"]) == 0
    assert packets_of(tmp_path / "a-kept.mp4") == packets_of(clip)
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--record", "out.avi"], "wanted a file ending in .mp4, .mkv, .mov, got 'out.avi'"),
        (["a=sample", "b=sample", "--record", "out.mp4"], "can't be recorded into 'out.mp4'"),
        (["sample", "--record", "x.mp4", "-o", "x.mp4"], "two outputs are 'x.mp4'"),
    ],
)
def test_what_cant_be_recorded_is_refused(
    arguments: Sequence[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--no-self-check"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pictures_are_recorded_without_boxes_where_there_are_no_packets(tmp_path: Path) -> None:
    path = tmp_path / "plain.mp4"
    with open_record(OutputSpec.parse(str(path)), info(), ("cat",), SinkOptions(), OutputPaths()) as sink:
        assert not sink.needs_pixels
        for frame in frames([0.0, 0.1, 0.2]):
            sink.write(frame, ONE)
    assert read(path)[0] == [0, 1, 2]


def cues(path: Path) -> Iterator[str]:
    yield from path.read_text().strip().split("\n\n")[1:]


def test_captions_last_as_long_as_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out.vtt"
    writer = CaptionWriter(path)
    for time_s, text in [(0.0, ""), (0.5, "1 cat"), (1.0, "1 cat"), (61.25, "2 cat"), (62.0, ""), (3700.0, "1 cat")]:
        writer.write(time_s, text)
    writer.close()
    assert list(cues(path)) == [
        "00:00:00.500 --> 00:01:01.250\n1 cat",
        "00:01:01.250 --> 00:01:02.000\n2 cat",
        "01:01:40.000 --> 01:01:41.000\n1 cat",
    ]


def test_a_caption_counts_and_escapes() -> None:
    found = Detections(np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.array([1, 0, 1]))
    assert caption(found, ("a & b", "<c>")) == "2 &lt;c&gt;, 1 a &amp; b"
    assert caption(Detections.empty(), ("a",)) == ""


def test_pictures_without_packets_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordSink(tmp_path / "out.mp4", info(), PacketTap(), labels=("cat",))
    for frame in frames([0.0, 5.0, 11.0, 12.0]):
        sink.write(frame, ONE)
    sink.close()
    said = [record.message for record in caplog.records if "nothing is recorded" in record.message]
    assert len(said) == 1 and "source 'clip' gives pictures but no video packets" in said[0]
    assert not list(tmp_path.iterdir())
