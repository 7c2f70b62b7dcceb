"""JSON lines in segments: no line lost, doubled or split; files begin where those of videos do."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.common.errors import SinkError
from streamer.sinks.jsonl import JsonlSegmentsSink, JsonlSink
from streamer.sinks.lines import LineFile
from streamer.sinks.paths import OutputPaths
from streamer.sinks.segmented import Boundaries, Boundary
from streamer.sinks.video.sink import VideoSegmentsSink
from tests.recordings import NOTHING, even, frames, info, read
from tests.test_sinks_video_broken import file_size_limit


def numbers_in(path: Path) -> list[int]:
    """Returns the indices of a file's lines, each of which is whole."""
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line)["index"] for line in text.splitlines()]


def write_lines(folder: Path, times_s: list[float], length_s: float) -> list[Path]:
    """Writes lines in segments; returns the files in the order of their names."""
    with JsonlSegmentsSink(folder / "out.jsonl", info(), ["thing"], length_s) as sink:
        assert not sink.needs_pixels
        for frame in frames(times_s, (16, 16)):
            sink.write(frame, NOTHING)
    return sorted(folder.glob("out-*.jsonl"))


def test_lines_are_in_segments_as_pictures_are(tmp_path: Path) -> None:
    times_s = [100.5, 101.0, 101.4, 101.5, 106.7, 107.4, 107.5]
    lines = write_lines(tmp_path, times_s, 1.0)
    with VideoSegmentsSink(tmp_path / "out.mkv", info(), 1.0) as sink:
        for frame in frames(times_s):
            sink.write(frame, NOTHING)
    videos = sorted(tmp_path.glob("out-*.mkv"))
    assert [numbers_in(file) for file in lines] == [read(file)[0] for file in videos] == [[0, 1, 2], [3], [4, 5], [6]]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gaps_s=st.lists(st.floats(0.001, 30), min_size=1, max_size=25), length_s=st.floats(0.2, 5.0))
def test_whatever_the_times_no_line_is_lost_or_doubled(
    gaps_s: list[float], length_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = write_lines(tmp_path_factory.mktemp("any"), list(itertools.accumulate(gaps_s, initial=0.25)), length_s)
    assert [number for file in files for number in numbers_in(file)] == list(range(len(gaps_s) + 1))


def test_a_boundary_is_at_each_multiple_and_after_an_outage() -> None:
    boundaries = Boundaries(60.0, 10.0)
    times_s = [5.0, 5.1, 64.9, 65.0, 65.1, 95.1, 95.2, 85.0, 130.0, 400.0]
    assert [boundaries.before(time_s) for time_s in times_s] == [
        None, None, Boundary.OUTAGE, Boundary.LENGTH, None, Boundary.OUTAGE, None, None, Boundary.OUTAGE,
        Boundary.LENGTH,
    ]  # fmt: skip
    slow = Boundaries(3600.0, None)
    assert [slow.before(number * 30.0) for number in range(5)] == [None] * 5


def test_a_run_without_frames_leaves_no_file(tmp_path: Path) -> None:
    JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1.0).close()
    assert not list(tmp_path.iterdir())


def test_few_files_are_named_and_many_are_a_pattern(tmp_path: Path) -> None:
    sink = JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1.0)
    counts = []
    with sink:
        for frame in frames(even(10, 2.0)):
            sink.write(frame, NOTHING)
            counts.append(len(sink.written))
    assert counts == [1, 1, 2, 2, 3, 3, 1, 1, 1, 1]
    assert sink.written == (tmp_path / "out-*.jsonl",)


def test_after_a_failure_lines_continue_in_another_file(tmp_path: Path) -> None:
    sink = JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1000.0)
    pictures = list(frames(even(300, 10.0), (16, 16)))
    with file_size_limit(1000):
        for frame in pictures[:100]:
            sink.write(frame, NOTHING)
    for frame in pictures[100:]:
        sink.write(frame, NOTHING)
    with pytest.raises(SinkError, match=r"out-.*Z\.jsonl broke off: File too large; the lines before are complete"):
        sink.close()
    sink.close()
    first, second = (numbers_in(file) for file in sorted(tmp_path.iterdir()))
    assert first == list(range(len(first)))
    assert second == list(range(second[0], 300))
    assert second[0] <= len(first) + 110


def test_of_a_line_that_a_full_disk_cuts_nothing_stays(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl", []) as sink, file_size_limit(1000):
        with pytest.raises(SinkError, match="broke off: File too large"):
            for frame in frames(even(100), (16, 16)):
                sink.write(frame, NOTHING)
        count = len(numbers_in(tmp_path / "out.jsonl"))
    assert 2 < count < 20


def test_a_file_of_lines_that_is_closed_twice(tmp_path: Path) -> None:
    lines = LineFile(os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT))
    lines.write("one\n")
    lines.close()
    lines.close()
    assert (tmp_path / "x").read_text() == "one\n"


def test_two_outputs_of_one_name_are_two_series(tmp_path: Path) -> None:
    paths = OutputPaths()
    first = JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1.0, paths=paths)
    second = JsonlSegmentsSink(tmp_path / "out.jsonl", info(), [], 1.0, paths=paths)
    for number, sink in enumerate((first, second)):
        for frame in frames(even(2 + number)):
            sink.write(frame, NOTHING)
    first.close()
    second.close()
    assert len(list(tmp_path.glob("out-2*.jsonl"))) == 2
    (other,) = tmp_path.glob("out-2-*.jsonl")
    assert numbers_in(other) == [0, 1, 2]
