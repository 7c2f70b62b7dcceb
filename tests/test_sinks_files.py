"""JSON lines, pictures and nothing: what lands on the disk."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import files, open_sink
from streamer.sinks.files import captured_utc, safe_name
from streamer.sinks.images import ImagesSink
from streamer.sinks.jsonl import JsonlSink
from streamer.sinks.null import NullSink
from streamer.sources.base import SourceInfo
from tests.media import number_of, picture

LABELS = ["person", "Fußgänger"]


def frame(number: int = 0, *, name: str | None = None, size_wh: tuple[int, int] = (96, 64)) -> Frame:
    return Frame(picture(number, size_wh), "door", number, number / 30, 0.0, name)


def found(*boxes: tuple[float, ...], score: float = 0.25) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), score), np.arange(len(boxes)) % len(LABELS)
    )


def test_a_line_a_frame_with_exactly_the_promised_keys(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonlSink(path, LABELS) as sink:
        assert not sink.needs_pixels
        sink.write(frame(0), Detections.empty())
        sink.write(frame(1, name="a.png"), found((1.25, 2.5, 30.125, 40.0), (-7.0, -8.0, 500.0, 600.0)))
        assert sink.written == (path,)
    first, second = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert first == {
        "version": 1, "source": "door", "index": 0, "pts_s": 0.0, "width": 96, "height": 64, "name": None,
        "detections": [],
    }  # fmt: skip
    assert second["name"] == "a.png"
    assert second["pts_s"] == 1 / 30
    assert second["detections"] == [
        {"label": "person", "class_id": 0, "score": 0.25, "box_xyxy": [1.25, 2.5, 30.12, 40.0]},
        {"label": "Fußgänger", "class_id": 1, "score": 0.25, "box_xyxy": [0.0, 0.0, 96.0, 64.0]},
    ]


def test_lines_say_when_detections_are_held(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", LABELS) as sink:
        sink.write(frame(0), found((1, 2, 3, 4)))
        sink.write(frame(1), found((1, 2, 3, 4)).reused())
    seen, held = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert "held" not in seen
    assert held["held"] is True
    assert held["detections"] == seen["detections"]


def test_lines_of_live_sources_say_when_the_frame_was_captured(tmp_path: Path) -> None:
    captured = Frame(picture(3), "door", 3, 0.1, time.perf_counter() - 3600)
    with open_sink(f"{tmp_path}/out.jsonl", SourceInfo("door", "rtsp://x", live=True), labels=LABELS) as sink:
        sink.write(captured, Detections.empty())
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["captured_at"])
    moment = datetime.strptime(line.pop("captured_at"), "%Y-%m-%dT%H:%M:%S.%f%z")
    assert abs(datetime.now(UTC) - timedelta(hours=1) - moment) < timedelta(seconds=5)
    assert set(line) == {"version", "source", "index", "pts_s", "width", "height", "name", "detections"}


def test_every_output_gets_the_same_time_of_a_frame_though_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = captured_utc(frame(1))

    class Set(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(files, "datetime", Set)
    assert captured_utc(frame(1)) == before
    later = replace(frame(1), captured_at_s=time.perf_counter())
    assert captured_utc(later) - before > timedelta(minutes=59)


def test_lines_are_rounded_or_keep_all_digits(tmp_path: Path) -> None:
    box = np.array([[0.1, 1 / 3, 20.7, 33.333332]], np.float32)
    for name, rounded in (("short.jsonl", True), ("long.jsonl", False)):
        with JsonlSink(tmp_path / name, LABELS, rounded=rounded) as sink:
            sink.write(frame(), Detections(box, np.array([0.87654321]), np.array([0])))
    (detection,) = json.loads((tmp_path / "short.jsonl").read_text())["detections"]
    assert detection == {"label": "person", "class_id": 0, "score": 0.8765, "box_xyxy": [0.1, 0.33, 20.7, 33.33]}
    (detection,) = json.loads((tmp_path / "long.jsonl").read_text())["detections"]
    assert np.float32(detection["box_xyxy"]).tolist() == box[0].tolist()
    assert np.float32(detection["score"]) == np.float32(0.87654321)


def test_a_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", LABELS) as sink:
        for number in range(3):
            sink.write(frame(number), Detections.empty())
            assert len((tmp_path / "out.jsonl").read_text().splitlines()) == number + 1


def test_infinite_boxes_are_clipped_and_what_is_no_number_is_refused(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", LABELS) as sink:
        sink.write(frame(), found((-np.inf, 0.0, np.inf, 64.0)))
        with pytest.raises(SinkError, match="frame 5 of door has a number that is NaN or Inf"):
            sink.write(frame(5), found((np.nan, 0.0, 1.0, 1.0)))
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["detections"][0]["box_xyxy"] == [0.0, 0.0, 96.0, 64.0]


def test_names_that_are_not_unicode_survive(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", LABELS) as sink:
        sink.write(frame(name="caf\udce9.jpg"), Detections.empty())
    assert json.loads((tmp_path / "out.jsonl").read_text())["name"] == "caf\udce9.jpg"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_lines_on_a_full_disk_end_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    sink = JsonlSink(tmp_path / "out.jsonl", LABELS)
    with pytest.raises(SinkError, match=r"out\.jsonl broke off: No space left on device"):
        sink.write(frame(), Detections.empty())
    try:
        sink.close()
    except SinkError as error:
        assert "No space left" in str(error)
    sink.close()


@pytest.mark.parametrize(
    "name,written",
    [
        (None, "door_000007.jpg"),
        ("a.jpg", "a.jpg"),
        ("a.JPEG", "a.JPEG"),
        ("b.png", "b.png"),
        ("c.bmp", "c.bmp"),
        ("d.webp", "d.webp"),
        ("e.tif", "e.tif"),
        ("f.gif", "f.gif.jpg"),
        ("über 1.png", "über 1.png"),
    ],
)
def test_pictures_keep_their_names(name: str | None, written: str, tmp_path: Path) -> None:
    with ImagesSink(tmp_path / "out") as sink:
        assert sink.written == ()
        sink.write(frame(7, name=name), Detections.empty())
        assert sink.written == (tmp_path / "out",)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [written]
    content = np.fromfile(tmp_path / "out" / written, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert image.shape == (64, 96, 3)
    assert number_of(np.asarray(image, np.uint8)) == 7


@pytest.mark.parametrize("size_wh", [(97, 65), (17, 31)])
def test_pictures_of_odd_size(size_wh: tuple[int, int], tmp_path: Path) -> None:
    with ImagesSink(tmp_path) as sink:
        sink.write(frame(9, name="a.png", size_wh=size_wh), Detections.empty())
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), picture(9, size_wh))


def test_pictures_of_one_name_from_two_folders_are_both_kept(tmp_path: Path) -> None:
    with ImagesSink(tmp_path) as sink:
        for number in (1, 2, 3):
            sink.write(frame(number, name="a.png"), Detections.empty())
    kept = {path.name: number_of(cv2.imread(str(path))) for path in tmp_path.iterdir()}
    assert kept == {"a.png": 1, "a_000002.png": 2, "a_000003.png": 3}


def test_a_picture_that_has_the_name_of_anothers_index_is_kept_apart(tmp_path: Path) -> None:
    names = ["a_000002.png", "a.png", "a.png", "a_000002.png", "a.png", "a_000004.png"]
    with ImagesSink(tmp_path) as sink:
        for number, name in enumerate(names):
            sink.write(frame(number, name=name), Detections.empty())
    assert sorted(number_of(cv2.imread(str(path))) for path in tmp_path.iterdir()) == [0, 1, 2, 3, 4, 5]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(["a.png", "a_000001.png", "a_000003.png", "a_000003_000004.png", None]), max_size=9)
)
def test_no_name_is_used_twice_however_few_are_remembered(
    names: list[str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    with ImagesSink(folder, max_names=2) as sink:
        for number, name in enumerate(names):
            sink.write(frame(number, name=name, size_wh=(16, 16)), Detections.empty())
        assert sink.remembered_names <= 2
    assert len(list(folder.iterdir())) == len(names)


def test_names_of_frames_are_not_remembered(tmp_path: Path) -> None:
    with ImagesSink(tmp_path) as sink:
        for number in range(20):
            sink.write(frame(number, size_wh=(16, 16)), Detections.empty())
        assert not sink.remembered_names
    assert len(list(tmp_path.iterdir())) == 20


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("front door", "front_door"),
        ("t\u00fcre", "t\u00fcre"),
        ("tu\u0308re", "t\u00fcre"),
        ("1", "1"),
        ("../../etc", "etc"),
        ("a/b", "a_b"),
        ("..", "source"),
        ("", "source"),
        ("CON", "_CON"),
        ("nul.1", "_nul.1"),
        ("console", "console"),
        ("x" * 300, "x" * 100),
        ("\u65e5" * 300, "\u65e5" * 33),
        ("caf\udce9", "caf"),
    ],
)
def test_names_in_paths_are_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text())
def test_any_name_makes_one_part_of_a_path(name: str) -> None:
    safe = safe_name(name)
    assert safe == Path(safe).name
    assert 0 < len(safe.encode()) <= 101
    assert not safe.startswith(".")


def test_replaced_pictures_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with ImagesSink(tmp_path) as sink, caplog.at_level(logging.INFO):
            for number in range(3):
                sink.write(frame(number), Detections.empty())
    assert caplog.messages == [f"replacing pictures in {tmp_path}, the first is door_000000.jpg"]


def test_a_picture_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    wide = Frame(np.zeros((1, 70_000, 3), np.uint8), "door", 0, 0.0, 0.0)  # JPEG ends at 65,535
    with ImagesSink(tmp_path) as sink, pytest.raises(SinkError, match=r"door_000000\.jpg"):
        sink.write(wide, Detections.empty())
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "door_000001.jpg").mkdir()
    with ImagesSink(tmp_path) as sink:
        sink.write(frame(0), Detections.empty())
        with pytest.raises(SinkError, match=r"can't write .*door_000001\.jpg: .*the pictures before are complete"):
            sink.write(frame(1), Detections.empty())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["door_000000.jpg", "door_000001.jpg"]


def test_null_takes_everything() -> None:
    with NullSink() as sink:
        assert not sink.needs_pixels
        sink.write(frame(), Detections.empty())
    assert sink.written == ()
