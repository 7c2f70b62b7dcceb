"""How much disk a live recording needs: measured from what was written, logged, and reported."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.common.units import bytes_text, parse_bytes
from streamer.sinks import open_sink
from streamer.sinks.options import SinkOptions
from streamer.sinks.shared_outputs import SharedOutputs
from streamer.sinks.spec import OutputSpec
from streamer.sinks.video.disk_use import DiskUseMeter
from streamer.sources.base import SourceInfo
from tests.fakes import SlowDetector
from tests.recordings import NOTHING, even, frames, info
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

LIVE = replace(info(), live=True)


def test_a_day_is_what_was_written_so_far_at_its_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    meter = DiskUseMeter("door.mp4", is_live=True)
    assert meter.use is None
    for second in range(2 * 86_400 + 10):
        meter.add(100.0 + second, 125_000 * second)
    use = meter.use
    assert use is not None and use.written_bytes == 125_000 * (2 * 86_400 + 9)
    assert use.bytes_a_day == pytest.approx(10.8e9)
    meter.finish(21_601_125_000)
    meter.finish(21_601_125_000)
    assert [message.partition(" (")[2] for message in caplog.messages] == [
        "7.50 MB in 60 s, 1.00 Mb/s)",
        "450 MB in 3600 s, 1.00 Mb/s)",
        "10.8 GB in 86400 s, 1.00 Mb/s)",
        "21.6 GB in 172800 s, 1.00 Mb/s)",
        "21.6 GB in 172809 s, 1.00 Mb/s)",
    ]
    assert all(message.startswith("door.mp4 needs 10.8 GB a day") for message in caplog.messages)


def test_files_need_nothing_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with open_sink(str(tmp_path / "out.mp4"), info(), labels=()) as sink:
        for frame in frames(even(60)):
            sink.write(frame, NOTHING)
    assert sink.disk_use is None
    assert not any("a day" in message for message in caplog.messages)


@pytest.mark.parametrize("segment_s", [None, 1.0])
def test_what_is_measured_is_what_is_on_the_disk(
    segment_s: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = SinkOptions(segment_s=segment_s)
    with open_sink(str(tmp_path / "out.mp4"), LIVE, labels=(), options=options) as sink:
        for frame in frames(even(91)):
            sink.write(frame, NOTHING)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == (1 if segment_s is None else 4)
    assert sink.disk_use is not None
    assert sink.disk_use.written_bytes == on_disk
    assert sink.disk_use.bytes_a_day == pytest.approx(on_disk / 3 * 86_400, rel=1e-6)
    assert [message for message in caplog.messages if message.startswith("out.mp4 needs ")]


def test_a_recording_too_short_to_tell_says_nothing(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "out.mp4"), LIVE, labels=()) as sink:
        for frame in frames(even(5)):
            sink.write(frame, NOTHING)
    assert sink.disk_use is None


def test_a_tiled_video_is_counted_once(tmp_path: Path) -> None:
    sources = [SourceInfo(name, "rtsp://x", fps=30.0, live=True) for name in ("a", "b")]
    output = OutputSpec.parse(str(tmp_path / "wall.mp4"))
    shared = SharedOutputs([output], sources, labels=())
    tiles = [shared.open(output, source) for source in sources]
    for tile in tiles:
        tile.close()
    assert [tile.disk_use for tile in tiles] == [None, None]
    shared.close()


def test_the_report_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.detector.open_detector", lambda model, **wanted: SlowDetector())
    report = tmp_path / "report.json"
    with RtspServer(Loop(fps=30)) as server:
        arguments = ["--source", server.url, "--output", str(tmp_path / "out.mp4"), "--duration", "2"]
        assert main([*arguments, "--policy", "every-frame", "--report", str(report)]) == 0
    (source,) = json.loads(report.read_text())["sources"]
    assert source["recorded_bytes"] == (tmp_path / "out.mp4").stat().st_size
    assert source["recorded_gb_a_day"] == pytest.approx(source["recorded_bytes"] / 2 * 86_400 / 1e9, rel=0.1, abs=1e-3)


def test_sizes_in_words() -> None:
    for count, text in ((0, "0 kB"), (1234, "1 kB"), (2_500_000, "2.50 MB"), (10.8e9, "10.8 GB"), (123e9, "123 GB")):
        assert bytes_text(count) == text
    assert parse_bytes(bytes_text(2_500_000)) == 2_500_000
