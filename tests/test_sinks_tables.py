"""CSV and COCO files: what other tools read of them, and what a killed run or a full disk leaves of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import SinkOptions, open_sink
from streamer.sinks.coco import CocoSink
from streamer.sinks.csv_rows import COLUMNS
from streamer.sinks.paths import OutputPaths
from streamer.sources.base import SourceInfo
from tests.recordings import even, frames
from tests.test_sinks_files import LABELS, found, frame
from tests.test_sinks_video_broken import file_size_limit

COCO = (Path(__file__).parents[1] / "streamer/data/coco.txt").read_text().splitlines()
FILE, CAMERA = SourceInfo("door", "door.mp4"), SourceInfo("door", "rtsp://x", live=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, source: SourceInfo, *written: tuple[Frame, Detections], **options: Any) -> None:
    with open_sink(str(path), source, labels=LABELS, options=SinkOptions(**options)) as sink:
        assert not sink.needs_pixels
        for each in written:
            sink.write(*each)


def test_csv_has_a_row_for_each_detection(tmp_path: Path) -> None:
    several = found((1.25, 2.5, 30.126, 40.0), (-7.0, -8.0, 500.0, 600.0), score=0.87654)
    write_csv(tmp_path / "out.csv", FILE, (frame(0), several), (frame(1), Detections.empty()), (frame(2), several))
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[:3] == [
        "source,index,pts_s,captured_at,width,height,name,held,label,class_id,score,left,top,right,bottom,track_id",
        "door,0,0.0,,96,64,,false,person,0,0.8765,1.25,2.5,30.13,40.0,",
        "door,0,0.0,,96,64,,false,Fußgänger,1,0.8765,0.0,0.0,96.0,64.0,",
    ]
    assert [row["index"] for row in rows(tmp_path / "out.csv")] == ["0", "0", "2", "2"]


def test_csv_of_a_camera_says_when_and_what_is_held(tmp_path: Path) -> None:
    some = found((1, 2, 3, 4))
    write_csv(tmp_path / "out.csv", CAMERA, (frame(0), some), (frame(1), some.reused()))
    seen, held = rows(tmp_path / "out.csv")
    assert seen["captured_at"].endswith("Z") and (seen["held"], held["held"]) == ("false", "true")


def test_csv_without_detections_has_a_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", FILE, (frame(0), Detections.empty()))
    assert (tmp_path / "out.csv").read_text().splitlines() == [",".join(COLUMNS)]


def test_csv_keeps_all_digits_where_asked(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", FILE, (frame(0), found((1 / 3, 2, 3, 4), score=0.123456)), rounded=False)
    (row,) = rows(tmp_path / "out.csv")
    assert np.float32(row["left"]) == np.float32(1 / 3) and np.float32(row["score"]) == np.float32(0.123456)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=st.text(min_size=1), label=st.text(min_size=1), name=st.none() | st.text(min_size=1))
def test_any_name_is_read_back_from_csv(
    source: str, label: str, name: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "out.csv"
    picture = Frame(np.zeros((8, 8, 3), np.uint8), source, 0, 0.0, 0.0, name)
    with open_sink(str(path), SourceInfo("x", "x"), labels=[label]) as sink:
        sink.write(picture, found((1, 2, 3, 4)))
    with path.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["source"], row["label"], row["name"]) == (source, label, name or "")


def test_csv_in_segments_has_a_header_in_each(tmp_path: Path) -> None:
    with open_sink(f"{tmp_path}/out.csv", FILE, labels=LABELS, options=SinkOptions(segment_s=1.0)) as sink:
        for picture in frames(even(10, 4.0), (16, 16)):
            sink.write(picture, found((1, 2, 3, 4)))
    assert [len(rows(file)) for file in sorted(tmp_path.glob("out-*.csv"))] == [4, 4, 2]


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.csv", FILE, labels=LABELS)
    with file_size_limit(1000), pytest.raises(SinkError, match="broke off: File too large"):
        for picture in frames(even(100), (16, 16)):
            sink.write(picture, found((1, 2, 3, 4), (5, 6, 7, 8)))
    sink.close()
    read = rows(tmp_path / "out.csv")
    assert len(read) > 4 and len(read) % 2 == 0 and all(row["bottom"] for row in read)


@pytest.mark.parametrize("name", ["out.csv", "out.coco.json"])
def test_what_is_no_number_is_refused(name: str, tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/{name}", FILE, labels=LABELS)
    with sink, pytest.raises(SinkError, match="frame 5 of door has a number that is NaN or Inf"):
        sink.write(frame(5), found((np.nan, 0.0, 1.0, 1.0)))


def write_coco(path: Path, *written: tuple[Frame, Detections], labels: list[str] = LABELS) -> dict[str, Any]:
    with CocoSink(path, labels) as sink:
        assert not sink.needs_pixels
        for each in written:
            sink.write(*each)
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def test_coco_is_a_data_set_and_its_annotations_are_results(tmp_path: Path) -> None:
    several = found((1.25, 2.5, 30.25, 40.0), (-7.0, -8.0, 500.0, 600.0))
    read = write_coco(tmp_path / "out.coco.json", (frame(3), several), (frame(4), Detections.empty()))
    assert read["categories"] == [
        {"id": 1, "name": "person", "supercategory": ""},
        {"id": 2, "name": "Fußgänger", "supercategory": ""},
    ]
    first, second = read["images"]
    assert first == {
        "id": 1, "file_name": "frame_000003.jpg", "width": 96, "height": 64, "source": "door", "frame_index": 3,
        "pts_s": 0.1,
    }  # fmt: skip
    assert (second["id"], second["file_name"]) == (2, "frame_000004.jpg")
    assert read["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1.25, 2.5, 29.0, 37.5], "area": 1087.5, "iscrowd": 0,
         "score": 0.25},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0.0, 0.0, 96.0, 64.0], "area": 6144.0, "iscrowd": 0,
         "score": 0.25},
    ]  # fmt: skip


def test_coco_of_pictures_has_their_numbers(tmp_path: Path) -> None:
    names = ["000000000139.jpg", "a.jpg", "139.png", "1.jpg", "000000000000.jpg"]
    read = write_coco(
        tmp_path / "out.coco.json", *((frame(i, name=name), Detections.empty()) for i, name in enumerate(names))
    )
    assert [image["file_name"] for image in read["images"]] == names
    ids = [image["id"] for image in read["images"]]
    assert ids[0] == 139 and len(set(ids)) == 5 and min(ids) >= 1


def test_coco_of_videos_and_pictures_numbers_each(tmp_path: Path) -> None:
    names = ["7.mp4", "7.mp4", "1.jpg", "9.jpg", "b.gif"]
    read = write_coco(
        tmp_path / "out.coco.json", *((frame(i, name=name), Detections.empty()) for i, name in enumerate(names))
    )
    assert [image["file_name"] for image in read["images"]] == [
        "7_000000.jpg", "7_000001.jpg", "1.jpg", "9.jpg", "b_000004.jpg",
    ]  # fmt: skip
    ids = [image["id"] for image in read["images"]]
    assert len(set(ids)) == 5 and ids[3] == 9


def test_coco_of_its_80_classes_has_their_ids(tmp_path: Path) -> None:
    read = write_coco(tmp_path / "out.coco.json", (frame(0), Detections.empty()), labels=COCO)
    by_name = {each["name"]: each["id"] for each in read["categories"]}
    assert (by_name["person"], by_name["stop sign"], by_name["cell phone"], by_name["toothbrush"]) == (1, 13, 77, 90)


def test_coco_leaves_out_what_the_detector_skipped(tmp_path: Path) -> None:
    some = found((1, 2, 3, 4))
    read = write_coco(tmp_path / "out.coco.json", (frame(0), some), (frame(1), some.reused()))
    assert (len(read["images"]), len(read["annotations"])) == (1, 1)


def test_coco_keeps_what_is_there_until_it_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.coco.json"
    path.write_text("old")
    with CocoSink(path, LABELS) as sink:
        for number in range(3):
            sink.write(frame(number), found((1, 2, 3, 4)))
            assert path.read_text() == "old"
    assert len(json.loads(path.read_text())["images"]) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["out.coco.json"]


def test_a_run_without_frames_writes_no_coco(tmp_path: Path) -> None:
    with CocoSink(tmp_path / "out.coco.json", LABELS) as sink:
        assert sink.written == ()
    assert not list(tmp_path.iterdir())


def test_coco_of_a_second_output_of_that_name_is_numbered(tmp_path: Path) -> None:
    paths = OutputPaths()
    for _ in range(2):
        with CocoSink(tmp_path / "out.coco.json", LABELS, paths=paths) as sink:
            sink.write(frame(0), Detections.empty())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out-2.coco.json", "out.coco.json"]


def test_a_full_disk_leaves_the_last_whole_coco(tmp_path: Path) -> None:
    path = tmp_path / "out.coco.json"
    sink = CocoSink(path, LABELS, every_s=0.0)
    expected = pytest.raises(SinkError, match="out.coco.json: File too large; it holds what was put in place before")
    with file_size_limit(3000), expected:
        for number in range(100):
            sink.write(frame(number), found((1, 2, 3, 4)))
    sink.close()
    assert len(json.loads(path.read_text())["images"]) >= 1


_ENDLESS = """
import sys
from streamer.sinks.coco import CocoSink
from tests.test_sinks_files import LABELS, found, frame
from pathlib import Path
sink = CocoSink(Path(sys.argv[1]), LABELS, every_s=0.0)
number = 0
while True:
    sink.write(frame(number), found((1, 2, 3, 4)))
    number += 1
    if number == 20:
        print("ready", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_leaves_whole_coco(tmp_path: Path) -> None:
    path = tmp_path / "out.coco.json"
    with subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, path], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        os.kill(run.pid, signal.SIGKILL)
    read = json.loads(path.read_text())
    assert len(read["images"]) == len(read["annotations"]) >= 1
