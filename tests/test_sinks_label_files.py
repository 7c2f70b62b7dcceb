"""YOLO labels, crops, one picture and animations: what is in the files, and who reads them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import av
import numpy as np
import pytest
import yaml

from calibration.labels import read_yolo
from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import SinkOptions, open_sink
from streamer.sinks.crops import CropsSink
from streamer.sinks.frame_files import FrameNames, class_folders
from streamer.sinks.gif import GifSink
from streamer.sinks.images import PictureSink
from streamer.sinks.yolo import YoloSink
from streamer.sources.base import SourceInfo
from tests.media import number_of, picture
from tests.recordings import NOTHING, as_planes, even, frames
from tests.test_sinks_files import LABELS, found, frame
from tests.test_sinks_video_broken import file_size_limit


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_yolo_labels_are_fractions_of_the_picture(tmp_path: Path) -> None:
    folder = tmp_path / "out.yolo"
    with YoloSink(folder, LABELS) as sink:
        assert not sink.needs_pixels and sink.written == ()
        sink.write(frame(0), found((24, 16, 72, 48), (-7.0, -8.0, 500.0, 600.0)))
        sink.write(frame(1, name="street 1.png"), Detections.empty())
        assert sink.written == (folder,)
    assert files_in(folder) == ["data.yaml", "labels/frame_000000.txt", "labels/street 1.txt"]
    assert (folder / "labels/frame_000000.txt").read_text() == (
        "0 0.500000 0.500000 0.500000 0.500000\n1 0.500000 0.500000 1.000000 1.000000\n"
    )
    assert (folder / "labels/street 1.txt").read_text() == ""
    assert [each.class_id for each in read_yolo(folder / "labels/frame_000000.txt", 2)] == [0, 1]
    assert yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8")) == {
        "train": "images", "names": {0: "person", 1: "Fußgänger"},
    }  # fmt: skip


def test_yolo_labels_have_scores_where_asked(tmp_path: Path) -> None:
    with open_sink(
        f"{tmp_path}/out.yolo", SourceInfo("door", "x"), labels=LABELS, options=SinkOptions(yolo_scores=True)
    ) as sink:
        sink.write(frame(0), found((24, 16, 72, 48)))
    (line,) = (tmp_path / "out.yolo/labels/frame_000000.txt").read_text().splitlines()
    assert line == "0 0.500000 0.500000 0.500000 0.500000 0.2500"


def test_yolo_labels_are_none_for_what_the_detector_skipped(tmp_path: Path) -> None:
    with YoloSink(tmp_path / "out.yolo", LABELS) as sink:
        sink.write(frame(0), found((24, 16, 72, 48)).reused())
    assert files_in(tmp_path / "out.yolo") == ["data.yaml"]


def test_old_labels_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with YoloSink(tmp_path / "out.yolo", LABELS) as sink:
            sink.write(frame(0), NOTHING)
    assert "out.yolo/labels has labels already: those of other frames stay" in caplog.text


def test_frames_of_one_name_have_files_of_their_own() -> None:
    names = FrameNames(max_names=3)
    given = [names.name(frame(number, name=name)) for number, name in enumerate(["a.jpg", "a.png", "b.jpg", "c.jpg"])]
    assert given == ["a", "a_000001", "b", "c_000003"]
    assert len(set(given)) == 4
    assert FrameNames().name(frame(7)) == "frame_000007"
    assert FrameNames().name(frame(7, name="caf\udce9.jpg")).encode() == b"caf_udce9"


def test_frames_of_videos_in_a_folder_are_numbered() -> None:
    names = FrameNames()
    given = [names.name(frame(number, name=name)) for number, name in enumerate(["a.mp4", "a.mp4", "b.gif", "a.jpg"])]
    assert given == ["a_000000", "a_000001", "b_000002", "a"]


def test_crops_are_what_is_in_the_boxes(tmp_path: Path) -> None:
    folder = tmp_path / "out.crops"
    drawn = frame(5)
    with CropsSink(folder, LABELS) as sink:
        assert not sink.needs_pixels
        sink.write(drawn, found((8.4, 4.2, 40.5, 30.1), (80.0, 50.0, 500.0, 600.0), (200.0, 200.0, 210.0, 210.0)))
        sink.write(frame(6), found((8, 4, 40, 30)).reused())
    assert files_in(folder) == ["Fußgänger/door_000005_2.jpg", "person/door_000005_1.jpg"]
    first = cv2.imdecode(np.fromfile(folder / "person/door_000005_1.jpg", np.uint8), cv2.IMREAD_COLOR)
    second = cv2.imdecode(np.fromfile(folder / "Fußgänger/door_000005_2.jpg", np.uint8), cv2.IMREAD_COLOR)
    assert first is not None and second is not None
    assert (first.shape, second.shape) == ((27, 33, 3), (14, 16, 3))
    assert cv2.PSNR(first, np.ascontiguousarray(drawn.image[4:31, 8:41])) > 25


def test_crops_have_square_pixels(tmp_path: Path) -> None:
    wide = Frame(picture(1, (96, 64)), "door", 0, 0.0, 0.0, "a b.png", Fraction(2))
    with CropsSink(tmp_path / "out.crops", LABELS) as sink:
        sink.write(wide, found((0, 0, 20, 10)))
    crop = cv2.imread(str(tmp_path / "out.crops/person/a_b_000000_1.jpg"))
    assert crop is not None and crop.shape == (10, 40, 3)


def test_every_class_has_a_folder_of_its_own() -> None:
    assert class_folders(["person", "Person", "a/b", "a b", "..", ""]) == (
        "person", "Person_1", "a_b", "a_b_3", "source", "source_5",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["out.jpg", "out.PNG", "out.webp", "out.bmp", "out.tiff"])
def test_one_picture_is_written_whole(name: str, tmp_path: Path) -> None:
    with PictureSink(tmp_path / name) as sink:
        assert sink.needs_pixels and sink.written == ()
        sink.write(frame(3), NOTHING)
        assert sink.written == (tmp_path / name,)
        with pytest.raises(SinkError, match="has the first picture of 'door', which gives more: use folder/"):
            sink.write(frame(4), NOTHING)
    read = cv2.imread(str(tmp_path / name))
    assert read is not None and number_of(np.asarray(read, np.uint8)) == 3
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_picture_that_fails_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out.bmp").write_text("old")
    expected = pytest.raises(SinkError, match=r"can't write .*out\.bmp: File too large")
    with PictureSink(tmp_path / "out.bmp") as sink, file_size_limit(100), expected:
        sink.write(frame(3), NOTHING)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.bmp", "old")]


def read_gif(path: Path) -> tuple[list[int], list[int]]:
    """Returns the numbers of the pictures and their times in hundredths of a second."""
    with av.open(str(path)) as opened:
        decoded = list(opened.decode(video=0))
    numbers = [number_of(np.asarray(each.to_ndarray(format="bgr24"), np.uint8)) for each in decoded]
    return numbers, [round(each.time * 100) for each in decoded]


def test_a_gif_has_the_frames_own_times(tmp_path: Path) -> None:
    times_s = [1.0 + time_s for time_s in (*even(40, 30.0), 2.5, 2.505, 5.0)]
    with GifSink(tmp_path / "out.gif") as sink:
        for each in frames(times_s):
            sink.write(each, NOTHING)
        assert sink.written == (tmp_path / "out.gif",)
    kept = [index for index in range(43) if index != 41]
    assert read_gif(tmp_path / "out.gif") == (kept, [round((times_s[index] - 1) * 100) for index in kept])


def test_a_gif_of_planes_repeats_and_has_square_pixels(tmp_path: Path) -> None:
    with GifSink(tmp_path / "out.gif") as sink:
        for each in frames(even(5, 10.0), (1600, 900)):
            planes = as_planes(each)
            sink.write(Frame(planes.pixels, "x", each.index, each.pts_s, 0.0, None, Fraction(2)), NOTHING)
    data = (tmp_path / "out.gif").read_bytes()
    assert [int.from_bytes(data[at : at + 2], "little") for at in (6, 8)] == [640, 180]
    assert b"NETSCAPE2.0\x03\x01\x00\x00" in data  # 0: for ever
    assert data[-1:] == b";"
    assert read_gif(tmp_path / "out.gif")[0] == list(range(5))


def test_what_a_killed_run_leaves_of_a_gif_plays(tmp_path: Path) -> None:
    sink = GifSink(tmp_path / "out.gif")
    for each in frames(even(10, 10.0)):
        sink.write(each, NOTHING)
    (tmp_path / "killed.gif").write_bytes((tmp_path / "out.gif").read_bytes())
    sink.close()
    sink.close()
    assert read_gif(tmp_path / "killed.gif")[0] == list(range(9))


def test_a_full_disk_leaves_a_gif_that_plays(tmp_path: Path) -> None:
    sink = GifSink(tmp_path / "out.gif")
    expected = pytest.raises(SinkError, match=r"out\.gif broke off: File too large; what it holds can be played")
    with file_size_limit(20_000), expected:
        for each in frames(even(500, 10.0)):
            sink.write(each, NOTHING)
    sink.close()
    numbers, _ = read_gif(tmp_path / "out.gif")
    assert numbers == list(range(len(numbers))) and len(numbers) > 3


@pytest.mark.parametrize("name", ["out.gif", "out.jpg", "out.coco.json"])
def test_what_needs_a_file_refuses_a_device(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(SinkError, match="needs a file"):
        open_sink(f"{tmp_path}/{name}", SourceInfo("door", "x"), labels=LABELS)
