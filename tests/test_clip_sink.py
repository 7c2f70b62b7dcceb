"""Clips on events: what they show, when they begin and end, and what may go wrong meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import islice, pairwise
from pathlib import Path

import cv2
import av
import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.common.queues import OverflowPolicy
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.clips import files as clip_files
from streamer.sinks.clips.clip import Clip
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.sink import ClipSink
from streamer.sinks.clips.snapshot import frame_quality
from streamer.sinks.clips.timing import ClipTiming
from streamer.sinks.clips.trigger import LabelTrigger
from streamer.sinks.paths import OutputPaths
from streamer.sources import SourceOptions, open_source
from streamer.sources.base import SourceInfo
from streamer.sources.packet_tap import PacketTap
from tests.media import write_clip
from tests.recordings import frames as numbered_frames
from tests.recordings import info, read
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.rtsp.sound import Microphone
from tests.test_sinks_video_broken import file_size_limit
from tests.test_sound_of_cameras import assert_in_sync

KEPT = SourceOptions(kept_packets_s=70.0, overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=20.0)
LABELS = ("cat", "car")
FPS = 30
SECOND = ClipTiming(1.0, 1.0, 300.0)
NOTHING = Detections.empty()


def cats(
    count: int = 1, score: float = 0.8, class_id: int = 0, box: tuple[float, ...] = (20, 20, 60, 50)
) -> Detections:
    boxes = np.tile(np.array([box], np.float32), (count, 1))
    return Detections(boxes, np.full(count, score, np.float32), np.full(count, class_id, np.int64))


@contextmanager
def clips_of(
    source: SourceInfo, folder: Path, timing: ClipTiming = SECOND, *, frames: int = 1, overlay: bool = False,
    clock: Callable[[], float] | None = None,
) -> Iterator[ClipSink]:  # fmt: skip
    trigger = LabelTrigger(LABELS, None, frames)
    with ClipFolder(folder, paths=OutputPaths()) as opened:
        more = {} if clock is None else {"clock": clock}
        with ClipSink(opened, source, labels=LABELS, trigger=trigger, timing=timing, overlay=overlay, **more) as sink:
            yield sink


def made(folder: Path) -> list[Clip]:
    """Returns the clips of a folder, the oldest first."""
    with ClipFolder(folder, paths=OutputPaths()) as opened:
        return opened.index.find(limit=None)[::-1]


def shown(clip: Clip) -> list[int]:
    return read(clip.video)[0]


def run_file(path: Path, folder: Path, there: Collection[int], timing: ClipTiming = SECOND, **more: int) -> list[Clip]:
    """Runs a file in which a cat is in the frames `there`."""
    with open_source(str(path), options=KEPT) as source, clips_of(source.info, folder, timing, **more) as sink:
        for frame in source:
            sink.write(frame, cats() if frame.index in there else NOTHING)
    return made(folder)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "film.mp4", 250, fps=FPS, codec_options={"g": "10"})


def test_a_clip_goes_from_before_to_after_its_event_unchanged(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (clip,) = run_file(film, folder, range(95, 106))
    assert shown(clip) == list(range(60, 136))  # from the key frame at or before 65, to a second after 105
    assert (clip.source, clip.labels, clip.best_label, clip.is_complete) == ("film", ("cat",), "cat", True)
    assert clip.best_score == pytest.approx(0.8)
    assert clip.length_s == pytest.approx(76 / FPS, abs=0.01)
    with av.open(str(film)) as opened:
        whole = [bytes(packet) for packet in opened.demux(video=0) if packet.size]
    with av.open(str(clip.video)) as opened:
        assert [bytes(packet) for packet in opened.demux(video=0) if packet.size] == whole[60:136]
    assert clip.detections is not None and clip.captions is not None
    lines = [json.loads(line) for line in clip.detections.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(60, 136))
    assert lines[0]["pts_s"] == pytest.approx(0, abs=2e-3) and lines[35]["detections"][0]["label"] == "cat"
    assert clip.captions.read_text().count("1 cat") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(path.name for path in clip.files), "clips.sqlite"]
    )


@pytest.mark.parametrize(
    ("there", "first", "last"),
    [(range(5), 0, 34), (range(3, 5), 0, 34), (range(245, 250), 210, 249), (range(250), 0, 249)],
    ids=["at the start", "near the start", "at the end", "always"],
)
def test_an_event_at_an_end_of_the_source_has_what_there_is(
    film: Path, tmp_path: Path, there: range, first: int, last: int
) -> None:
    (clip,) = run_file(film, tmp_path / "clips", there)
    assert shown(clip) == list(range(first, last + 1)) and clip.is_complete


@pytest.mark.parametrize(
    ("there", "spans"),
    [
        ({50, 80}, [(20, 110)]),
        ({50, 100}, [(20, 130)]),  # the second begins its lead-in while the first lasts
        ({50, 109}, [(20, 139)]),
        ({50, 130}, [(20, 80), (100, 160)]),
    ],
)
def test_events_whose_clips_would_touch_share_one(
    film: Path, tmp_path: Path, there: set[int], spans: list[tuple[int, int]]
) -> None:
    clips = run_file(film, tmp_path / "clips", there)
    assert [(numbers[0], numbers[-1]) for numbers in map(shown, clips)] == spans
    for numbers in map(shown, clips):
        assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_two_events_at_once_are_one_clip_with_both_labels(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    with open_source(str(film), options=KEPT) as source, clips_of(source.info, folder) as sink:
        for frame in source:
            sink.write(frame, {range(60, 90): cats(), range(80, 120): cats(score=0.9, class_id=1)}.get(
                next((each for each in (range(60, 80), range(80, 120)) if frame.index in each), None)
                and (range(80, 120) if frame.index >= 80 else range(60, 90)), NOTHING))  # fmt: skip
    (clip,) = made(folder)
    assert clip.labels == ("cat", "car") and clip.best_label == "car"
    assert shown(clip) == list(range(30, 150))


def test_a_long_event_goes_on_in_the_next_clip_without_a_gap(film: Path, tmp_path: Path) -> None:
    clips = run_file(film, tmp_path / "clips", range(30, 220), ClipTiming(1.0, 1.0, 2.0))
    numbers = [shown(clip) for clip in clips]
    assert [number for each in numbers for number in each] == list(range(250))
    assert [each[0] for each in numbers] == [0, 60, 120, 180, 240]
    for before, after in pairwise(clips):
        assert after.begin_utc - before.end_utc < timedelta(milliseconds=20)
    assert all(clip.labels == ("cat",) and clip.is_complete for clip in clips)
    assert all(clip.snapshot is not None and clip.snapshot.is_file() for clip in clips[:-1])
    for clip, each in zip(clips, numbers, strict=True):
        assert clip.detections is not None
        assert [json.loads(line)["index"] for line in clip.detections.read_text().splitlines()] == each


def test_a_clip_is_begun_while_its_event_goes_on(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    with open_source(str(film), options=KEPT) as source, clips_of(source.info, folder) as sink:
        for frame in source:
            sink.write(frame, cats())
            if frame.index == 200:
                sink._folder.index.flush()
                (clip,) = sink._folder.index.find()
                assert not clip.is_complete and clip.snapshot is not None and clip.length_s > 4
                assert len(read(clip.video)[0]) >= 150  # what a killed run would leave


def test_the_event_counts_from_the_first_of_its_frames(film: Path, tmp_path: Path) -> None:
    (clip,) = run_file(film, tmp_path / "clips", {100, 102, 103}, ClipTiming(1.0, 0.0), frames=3)
    assert (shown(clip)[0], shown(clip)[-1]) == (70, 103)


def test_an_event_is_placed_by_the_time_of_its_packets(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are three seconds later than their packets, as behind a camera whose clock was set."""
    monkeypatch.setattr(PacketTap, "time_of", lambda self, pts_s: pts_s - 3.0)
    with open_source(str(film), options=KEPT) as source, clips_of(source.info, tmp_path / "clips") as sink:
        for frame in source:
            sink.write(replace(frame, pts_s=frame.pts_s + 3.0), cats() if 100 <= frame.index < 120 else NOTHING)
    (clip,) = made(tmp_path / "clips")
    assert shown(clip) == list(range(70, 150))
    lines = [json.loads(line) for line in clip.detections.read_text().splitlines()]
    assert next(line["pts_s"] for line in lines if line["detections"]) == pytest.approx(1.0)


def test_without_an_event_there_is_no_clip(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    assert run_file(film, folder, {50, 100}, frames=3) == []
    assert [path.name for path in folder.iterdir()] == ["clips.sqlite"]


def test_a_clip_has_the_sound_of_its_time(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mkv", 250, fps=FPS, codec_options={"g": "10"}, with_audio=True)
    (clip,) = run_file(film, tmp_path / "clips", range(95, 106))
    with av.open(str(clip.video)) as opened:
        sound = [float(packet.pts * packet.time_base) for packet in opened.demux(audio=0) if packet.size]
    assert sound[0] < 0.05 and sound[-1] == pytest.approx(76 / FPS, abs=0.1)


def test_a_codec_that_mp4_does_not_hold_is_written_as_mkv(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.webm", 100, fps=FPS, codec="libvpx", codec_options={"g": "10"})
    (clip,) = run_file(film, tmp_path / "clips", range(50, 55))
    assert clip.video.suffix == ".mkv" and len(shown(clip)) >= 60


@pytest.mark.parametrize("overlay", [False, True])
def test_pictures_without_packets_are_encoded_all_the_time(tmp_path: Path, overlay: bool) -> None:
    folder = tmp_path / "clips"
    with clips_of(info(), folder, overlay=overlay) as sink:
        assert sink.needs_pixels is overlay
        for frame in numbered_frames([index / FPS for index in range(200)]):
            sink.write(frame, cats() if 95 <= frame.index < 106 else NOTHING)
    (clip,) = made(folder)
    assert shown(clip) == list(range(60, 136)) and clip.is_complete


@pytest.mark.parametrize("there", [range(95, 106), range(10, 106)])
def test_pictures_of_a_source_whose_packets_never_come_are_encoded(tmp_path: Path, there: range) -> None:
    folder = tmp_path / "clips"
    with clips_of(replace(info(), packets=PacketTap()), folder) as sink:
        for frame in numbered_frames([index / FPS for index in range(200)]):
            sink.write(frame, cats() if frame.index in there else NOTHING)
    (clip,) = made(folder)
    assert shown(clip) == list(range(60, 136)) and clip.is_complete


def test_clips_with_boxes_have_the_sources_sound(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mkv", 250, fps=FPS, codec_options={"g": "10"}, with_audio=True)
    (clip,) = run_file(film, tmp_path / "clips", range(95, 106), overlay=True)
    with av.open(str(clip.video)) as opened:
        sound = [float(packet.pts * packet.time_base) for packet in opened.demux(audio=0) if packet.size]
    assert shown(clip) == list(range(60, 136))
    assert sound[0] < 0.1 and sound[-1] == pytest.approx(76 / FPS, abs=0.15)


def test_a_camera_is_clipped_with_its_sound(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    with (
        RtspServer(Loop(fps=FPS), sound=Microphone("aac")) as server,
        open_source(server.url, options=KEPT) as source,
        clips_of(source.info, folder) as sink,
    ):
        for frame in islice(source, 150):
            sink.write(frame, cats() if 60 <= frame.index < 66 else NOTHING)
        source.interrupt()
        source.close()
    (clip,) = made(folder)
    numbers, times_s, _ = read(clip.video)
    assert {(after - before) % FPS for before, after in pairwise(numbers)} == {1}
    assert 2.0 <= times_s[-1] <= 4.0 and clip.is_complete
    assert_in_sync(clip.video, 1)


def test_an_event_goes_on_in_a_clip_when_the_camera_was_lost_and_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    with (
        RtspServer(Loop(fps=60), hang_up_after=60) as server,
        open_source(server.url, options=KEPT) as source,
        clips_of(source.info, folder) as sink,
    ):
        for frame in islice(source, 150):
            sink.write(frame, cats())
        assert source.reconnects >= 1
        source.interrupt()
        source.close()
    clips = made(folder)
    assert clips and all(clip.is_complete for clip in clips)
    assert sum(len(shown(clip)) for clip in clips) >= 100
    for before, after in pairwise(clips):
        assert before.end_utc <= after.begin_utc + timedelta(seconds=0.05)


def test_the_clip_of_a_camera_that_stays_lost_ends(film: Path, tmp_path: Path) -> None:
    folder, now = tmp_path / "clips", [0.0]
    with (
        open_source(str(film), options=KEPT) as source,
        clips_of(source.info, folder, clock=lambda: now[0]) as sink,
    ):
        for frame in islice(source, 100):
            now[0] = frame.pts_s
            sink.write(frame, cats() if frame.index >= 60 else NOTHING)
        now[0] += 9.0
        sink.tick()
        assert sink._spans.open is not None
        now[0] += 2.0
        sink.tick()
        sink.tick()
        sink._folder.index.flush()
        (clip,) = sink._folder.index.find()
        assert clip.is_complete and shown(clip)[:1] == [30]
        assert clip.detections is not None and len(clip.detections.read_text().splitlines()) == 70


def test_a_clip_begins_with_what_no_clip_has_after_an_outage(tmp_path: Path) -> None:
    """The lead-in of the second event is in the first clip, which ended as no frame came."""
    folder, now = tmp_path / "clips", [0.0]
    times_s = [index / FPS for index in range(60)]
    with clips_of(info(), folder, ClipTiming(5.0, 1.0), clock=lambda: now[0]) as sink:
        pictures = list(numbered_frames([*times_s, *(3.0 + time_s for time_s in times_s)]))
        for frame in pictures:
            now[0] = frame.pts_s + (20.0 if frame.index >= 60 else 0.0)
            if frame.index == 60:
                now[0] = 15.0
                sink.tick()
            sink.write(frame, cats() if frame.index in (30, 70) else NOTHING)
    first, second = made(folder)
    assert shown(first)[0] == 0 and not set(shown(first)) & set(shown(second))


def test_a_full_disk_is_said_and_the_next_event_has_a_clip_again(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", 900, fps=FPS, codec_options={"g": "10"})
    folder = tmp_path / "clips"
    with ClipFolder(folder, paths=OutputPaths()) as opened, open_source(str(film), options=KEPT) as source:
        sink = ClipSink(opened, source.info, labels=LABELS, trigger=LabelTrigger(LABELS, None, 1), timing=SECOND)
        with pytest.raises(SinkError, match=r"broke off|nothing was kept|can't write"):
            for frame in source:
                limit = file_size_limit(4_000) if 60 <= frame.index < 200 else file_size_limit(1 << 40)
                with limit:
                    sink.write(frame, cats() if frame.index in range(95, 106) or frame.index >= 800 else NOTHING)
            sink.close()
        opened.index.flush()
        clips = opened.index.find(limit=None)[::-1]
    assert shown(clips[-1])[-1] == 899 and clips[-1].is_complete
    for clip in clips[:-1]:
        assert not clip.is_complete and len(shown(clip)) > 5  # what there was room for


def test_the_picture_is_the_best_frame_with_its_boxes(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    boxes = {60: (0, 40, 300, 400), 61: (300, 200, 330, 230), 70: (120, 100, 520, 400), 80: (121, 100, 520, 400)}
    with clips_of(info(), folder) as sink:
        for index in range(120):
            frame = Frame(np.full((480, 640, 3), index, np.uint8), "door", index, index / FPS, 0.0)
            sink.write(frame, cats(1, 0.9, box=boxes[index]) if index in boxes else NOTHING)
    (clip,) = made(folder)
    picture = cv2.imread(str(clip.snapshot))
    assert picture is not None and picture.shape == (480, 640, 3)
    assert np.abs(picture[20, 20].astype(int) - 70).max() <= 2  # that frame
    assert np.abs(picture[400 - 4 : 402, 300].astype(int) - 70).max() > 40  # its box


def test_a_picture_is_better_the_larger_surer_and_less_cut_its_object_is() -> None:
    size_wh = (100, 100)
    whole = frame_quality(cats(box=(20, 20, 60, 60)), size_wh)
    assert (
        frame_quality(cats(box=(20, 20, 80, 80)), size_wh) > whole > frame_quality(cats(box=(20, 20, 40, 40)), size_wh)
    )
    assert frame_quality(cats(score=0.9, box=(20, 20, 60, 60)), size_wh) > whole
    for cut in ((0, 20, 40, 60), (20, 0, 60, 40), (60, 20, 100, 60), (20, 60, 60, 100)):
        assert frame_quality(cats(box=cut), size_wh) == pytest.approx(whole / 2)
    assert frame_quality(NOTHING, size_wh) == 0.0


def test_clips_are_in_the_order_of_their_capture_where_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamer.sinks.clips import sink as module

    folder, real = tmp_path / "clips", module.captured_utc
    back = timedelta(hours=1)

    def captured(frame: Frame) -> object:
        return real(frame) - (back if frame.index >= 150 else timedelta())

    monkeypatch.setattr(module, "captured_utc", captured)
    live = SourceInfo("door", "door", fps=FPS, live=True)
    with clips_of(live, folder) as sink:
        for frame in numbered_frames([index / FPS for index in range(300)]):
            frame = replace(frame, captured_at_s=frame.pts_s)
            sink.write(frame, cats() if frame.index in (60, 240) else NOTHING)
    later, earlier = made(folder)[::-1]
    assert (shown(later)[0], shown(earlier)[0]) == (30, 210)
    assert later.begin_utc - earlier.begin_utc == pytest.approx(back - timedelta(seconds=6), abs=timedelta(seconds=1.1))
    for clip in (later, earlier):
        assert clip.length_s == pytest.approx(2.0, abs=0.6)


def test_two_cameras_of_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    with ClipFolder(folder, paths=OutputPaths()) as opened:
        sinks = [
            ClipSink(opened, SourceInfo(name, name, fps=FPS), labels=LABELS, trigger=LabelTrigger(LABELS, None, 1),
                     timing=SECOND)
            for name in ("front door", "front_door")
        ]  # fmt: skip
        for frame in numbered_frames([index / FPS for index in range(60)]):
            for sink in sinks:
                sink.write(frame, cats() if frame.index == 30 else NOTHING)
        for sink in sinks:
            sink.close()
    assert sorted(clip.source for clip in made(folder)) == ["front door", "front_door"]
    assert len({clip.video for clip in made(folder)}) == 2


def test_a_second_run_on_the_folder_is_refused(tmp_path: Path) -> None:
    with ClipFolder(tmp_path / "clips", paths=OutputPaths()), pytest.raises(SinkError.__base__, match="another run"):
        ClipFolder(tmp_path / "clips", paths=OutputPaths())
    ClipFolder(tmp_path / "clips", paths=OutputPaths()).close()


def test_a_lead_in_that_is_too_large_to_be_kept_is_said(
    film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_source(str(film), options=KEPT) as source, clips_of(source.info, tmp_path / "clips") as sink:
        assert source.info.packets is not None
        source.info.packets._max_bytes = film.stat().st_size // 10
        for frame in source:
            sink.write(frame, cats() if frame.index == 200 else NOTHING)
    assert sum("too large to be kept" in record.message for record in caplog.records) == 1


def test_rows_are_saved_at_once_with_news_else_every_two_seconds(film: Path, tmp_path: Path) -> None:
    class File:
        length_s = 0.0

    clip = clip_files.OpenClip(File(), None)  # type: ignore[arg-type]
    assert clip.is_to_be_saved() and not clip.is_to_be_saved()
    clip.note("cat", 0.5)
    assert clip.is_to_be_saved()
    clip.file.length_s = 1.9
    assert not clip.is_to_be_saved()
    clip.file.length_s = 2.0
    assert clip.is_to_be_saved() and not clip.is_to_be_saved()
