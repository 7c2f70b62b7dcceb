"""Two streams of one camera: detected on one, recorded of the other, on one timeline."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.app.cli import main
from streamer.common.queues import Closed, OverflowPolicy
from streamer.frames.detections import Detections
from streamer.sinks.video.record import RecordSink
from streamer.sources import Source, SourceOptions, open_source
from streamer.sources.packet_tap import PacketReader
from streamer.sources.paired import PairedSource
from streamer.sources.stream_pairing import ArrivalLead, PairedClock
from tests.fakes import wait_for
from tests.media import number_of
from tests.recordings import read
from tests.rtsp.film import SteadyLoop
from tests.rtsp.server import RtspServer

FPS, LOOP = 30, 30
MAIN_WH = (192, 128)
DETECTED = SourceOptions(overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=20.0)
MAIN = replace(DETECTED, kept_packets_s=15.0, packets_only=True)
ONE = Detections(np.array([[12, 16, 48, 64]], np.float32), np.array([0.5], np.float32), np.array([0]))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def servers(stack: ExitStack, *, delay_s: float = 0.0, reports: bool = False) -> tuple[RtspServer, RtspServer]:
    """Returns those of the small and of the large stream of a camera; the large one comes later by a delay."""
    origin_s = time.monotonic()
    small = RtspServer(SteadyLoop(fps=FPS, origin_s=origin_s), reports=reports)
    large = RtspServer(SteadyLoop(size_wh=MAIN_WH, fps=FPS, origin_s=origin_s, delay_s=delay_s), reports=reports)
    return stack.enter_context(small), stack.enter_context(large)


def paired(small: RtspServer, large: RtspServer) -> PairedSource:
    detected = open_source(small.url, name="door", options=DETECTED, wait=False)
    main_stream = open_source(large.url, name="door (main stream)", options=MAIN, wait=False)
    source = PairedSource(detected, main_stream, 15.0)
    source.wait_ready()
    return source


def recorded(source: Source, path: Path, count: int) -> list[int]:
    """Records `count` frames' time of the main stream; returns the numbers that the frames show."""
    shown = []
    assert source.info.packets is not None
    with RecordSink(path, source.info, source.info.packets, labels=("cat",)) as sink, source:
        for frame in islice(source, count):
            shown.append(number_of(frame.image))
            sink.write(frame, ONE)
    return shown


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]


def apart(path: Path, shown: list[int]) -> list[int]:
    """Returns by how many pictures each line is off the picture of the recording that is seen at its time."""
    numbers, times_s, _ = read(path)
    lines = lines_of(path)
    off = []
    for number, line in zip(shown[len(shown) - len(lines) :], lines, strict=True):
        at_s = float(str(line["pts_s"]))
        seen = numbers[int(np.argmin(np.abs(np.array(times_s) - at_s)))]
        off.append((seen - number + LOOP // 2) % LOOP - LOOP // 2)
    return off


def test_frames_and_packets_of_two_streams_are_on_one_timeline(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "door.mp4"
    source = paired(*servers(stack))
    assert source.info.size_wh == (96, 64) and source.info.detected_uri != source.info.uri
    shown = recorded(source, path, 75)
    numbers = read(path)[0]
    assert {(after - before) % LOOP for before, after in pairwise(numbers)} == {1}
    with av.open(str(path)) as opened:
        assert (opened.streams.video[0].width, opened.streams.video[0].height) == MAIN_WH
    lines = lines_of(path)
    assert {(line["width"], line["height"]) for line in lines} == {MAIN_WH}
    assert lines[-1]["detections"] == [{"label": "cat", "class_id": 0, "score": 0.5, "box_xyxy": [24, 32, 96, 128]}]
    assert abs(np.median(apart(path, shown))) <= 2


def test_the_cameras_clock_puts_a_delayed_stream_where_it_belongs(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "door.mp4"
    source = paired(*servers(stack, delay_s=0.4, reports=True))
    shown = recorded(source, path, 90)
    assert source.utc_offset_s is not None and source.main.utc_offset_s is not None
    assert abs(np.median(apart(path, shown))) <= 1


def test_each_stream_reconnects_alone(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "door.mp4"
    small, large = servers(stack, reports=True)
    source = paired(small, large)
    shown: list[int] = []
    packets = source.info.packets
    assert packets is not None
    with RecordSink(path, source.info, packets, labels=("cat",)) as sink, source:
        for frame in source:
            shown.append(number_of(frame.image))
            sink.write(frame, ONE)
            if len(shown) == 30:
                large.cut()
            elif len(shown) == 60:
                assert source.reconnects == 0
                wait_for(lambda: source.main_reconnects == 1)
                small.cut()
            elif len(shown) >= 120 and source.reconnects == 1:
                break
    assert (source.reconnects, source.main_reconnects) == (1, 1)
    numbers, times_s, _ = read(path)
    assert len(numbers) >= 60 and times_s == sorted(times_s)
    off = apart(path, shown)
    assert abs(np.median(off[:20])) <= 2 and abs(np.median(off[-20:])) <= 2


def test_a_main_stream_that_is_gone_ends_the_recording_and_not_detection(tmp_path: Path, stack: ExitStack) -> None:
    small, large = servers(stack)
    detected = open_source(small.url, name="door", options=DETECTED, wait=False)
    main_stream = open_source(large.url, name="door (main stream)", options=replace(MAIN, reconnect=0), wait=False)
    source = PairedSource(detected, main_stream, 15.0)
    source.wait_ready()
    packets = source.info.packets
    assert packets is not None
    reader = packets.read_from()
    for index, _ in enumerate(source):
        if index == 20:
            large.cut()
        if index >= 30 and is_over(reader):
            break
    else:
        pytest.fail("detection ended")
    source.close()


def is_over(reader: PacketReader) -> bool:
    try:
        while reader.read(0) is not None:
            pass
    except Closed:
        return True
    return False


def test_the_program_detects_on_one_stream_and_records_the_other(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = servers(stack)
    config, report = tmp_path / "run.yaml", tmp_path / "report.json"
    monkeypatch.setenv("CAMERA_PASSWORD", "geheim")
    uris = [server.url.replace("//", "//admin:${CAMERA_PASSWORD}@") for server in (large, small)]
    config.write_text(
        f"source:\n  door: {{uri: '{uris[0]}', detect: '{uris[1]}', record: '{tmp_path}/door.mp4'}}\n"
        f"output: '{tmp_path}/small.mp4'\nduration: 3s\nreport: '{report}'\n"
    )
    assert main(["--config", str(config), "--no-self-check", "-q"]) == 0
    with av.open(str(tmp_path / "door.mp4")) as large_file, av.open(str(tmp_path / "small.mp4")) as small_file:
        assert large_file.streams.video[0].width == MAIN_WH[0]
        assert small_file.streams.video[0].width == 96
    (told,) = json.loads(report.read_text())["sources"]
    assert "geheim" not in report.read_text()
    assert told["uri"] == large.url.replace("//", "//***@") and told["detected_uri"] == small.url.replace(
        "//", "//***@"
    )
    assert told["main_reconnects"] == 0 and told["recorded_bytes"] > 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{uri: rtsp://cam/main, detect: small.mp4}", "wanted off, or the URL of the camera's stream to detect on"),
        ("{uri: sample, detect: rtsp://cam/sub}", "source 'door' has no stream beside it to detect on"),
    ],
)
def test_what_cant_be_paired_is_refused(
    source: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"source:\n  door: {source}\noutput: 'null'\n")
    assert main(["--config", str(config)]) == 2
    assert said in capsys.readouterr().err


def test_a_lead_is_that_of_the_picture_that_was_delayed_least() -> None:
    lead = ArrivalLead()
    assert lead.lead_s is None
    for time_s, arrived_s in [(0.0, 10.0), (1.0, 10.0), (2.0, 10.1), (2.1, 10.9)]:
        lead.add(time_s, arrived_s)
    assert lead.lead_s == pytest.approx(-8.1)
    for second in range(40):  # its clock is slow: what is long ago is forgotten
        lead.add(3.0 + 0.99 * second, 11.0 + second)
    assert lead.lead_s == pytest.approx(-8.15, abs=0.1)
    lead.restart()
    assert lead.lead_s is None


def test_an_estimate_is_approached_without_steps_back() -> None:
    clock = PairedClock()
    assert clock.at(0.0, 5.0) == 5.0
    assert clock.at(0.1, 4.9) == pytest.approx(4.995)
    assert clock.at(0.2, 4.9) == pytest.approx(4.99)
    assert clock.at(0.3, 7.0) == 7.0  # too far off
    assert clock.at(0.4, 3.0) + 0.4 > 7.3
    clock.restart()
    assert clock.at(20.0, 3.5) == 3.5
