"""Recordings of sources that nothing else is wanted of: only demultiplexed, and no model is loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import pytest

from streamer.app.cli import main
from streamer.app.config import StreamConfig
from streamer.app.entries import entries_of
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from streamer.sources.cpu_decoder import CpuDecoder
from tests.media import write_clip
from tests.recordings import read
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.rtsp.sound import Microphone
from tests.test_record import lines_of, packets_of

UNDECODED = SourceOptions(kept_packets_s=15.0, packets_only=True, overflow_policy=OverflowPolicy.BLOCK)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 100, fps=30, codec_options={"bf": "2", "b_strategy": "0"})


def refuse_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("a picture is decoded")

    monkeypatch.setattr(CpuDecoder, "decode", decode)


@pytest.mark.parametrize("off", ["0", "off"])
def test_detection_can_be_off(
    off: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_decoding(monkeypatch)
    path, report = tmp_path / "kept.mkv", tmp_path / "report.json"
    arguments = ["--detect-every", off, "--report", str(report), "--model", "not-loaded.onnx", "-q"]
    assert main([str(clip), "--record", str(path), *arguments]) == 0
    assert packets_of(path) == packets_of(clip) and read(path)[0] == list(range(100))
    lines = lines_of(path.with_suffix(".jsonl"))
    assert len(lines) == 100 and not any(line["detections"] or "held" in line for line in lines)
    assert json.loads(report.read_text())["engine"]["name"] == "none"


def test_a_camera_is_recorded_without_decoding_with_its_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_decoding(monkeypatch)
    path = tmp_path / "door.mp4"
    config = tmp_path / "run.yaml"
    with RtspServer(Loop(fps=30), sound=Microphone("aac"), hang_up_after=60) as server:
        config.write_text(f"source:\n  door: {{uri: '{server.url}', detect: off, record: '{path}'}}\nduration: 4s\n")
        assert main(["--config", str(config), "-q"]) == 0
    with av.open(str(path)) as opened:
        assert opened.streams.audio[0].codec_context.name == "aac"
    assert len(read(path)[0]) >= 75


def test_one_of_two_sources_is_detected(clip: Path, tmp_path: Path) -> None:
    config, lines = tmp_path / "run.yaml", tmp_path / "{source}.jsonl"
    config.write_text(
        f"source:\n  a: {{uri: '{clip}', detect: off, record: '{tmp_path}/a.mp4', output: 'null'}}\n"
        f"  b: {{uri: sample}}\noutput: '{lines}'\nmax_frames: 20\n"
    )
    assert main(["--config", str(config), "--no-self-check", "-q"]) == 0
    assert any(line["detections"] for line in lines_of(tmp_path / "b.jsonl"))
    assert not any(line["detections"] for line in lines_of(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("outputs", [["-o", "out.mp4"], ["-o", "out.jsonl"]])
def test_other_outputs_get_pictures_without_boxes(
    outputs: Sequence[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(clip), "--detect-every", "0", "--record", "kept.mp4", *outputs, "-q"]) == 0
    assert packets_of(tmp_path / "kept.mp4") == packets_of(clip)
    if outputs[1] == "out.mp4":
        assert read(tmp_path / "out.mp4")[0] == list(range(100))


def test_black_frames_have_the_times_of_the_pictures(clip: Path) -> None:
    with open_source(str(clip), options=UNDECODED) as source:
        undecoded = list(source)
    with open_source(str(clip)) as source:
        decoded = list(source)
    assert [frame.pts_s for frame in undecoded] == pytest.approx([frame.pts_s for frame in decoded], abs=1e-6)
    assert [frame.size_wh for frame in undecoded] == [frame.size_wh for frame in decoded]
    assert not undecoded[5].image.any()


def test_beginning_or_ending_to_detect_restarts_the_stream() -> None:
    def entry(**values: object) -> object:
        return {"source": {"a": {"uri": "sample", **values}}}

    on, every, off = (
        entries_of(StreamConfig.model_validate(entry(**v)))["a"] for v in ({}, {"detect_every": 3}, {"detect": "off"})
    )
    assert off.in_place["detect_every"] == 0
    assert on.needs_restart(off) and off.needs_restart(every) and not on.needs_restart(every)


def test_a_cut_off_file_is_said_though_nothing_is_decoded(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut = tmp_path / "cut.mkv"
    whole = write_clip(tmp_path / "whole.mkv", 100, fps=30)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        assert main([str(cut), "--detect-every", "0", "--record", str(tmp_path / "kept.mkv"), "-q"]) == 0
    assert 20 <= len(read(tmp_path / "kept.mkv")[0]) < 100
