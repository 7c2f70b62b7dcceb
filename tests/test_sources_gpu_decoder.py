"""Who decodes: the choice for a run, from what this machine has, and what of it reaches the sources."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.app.config import StreamConfig, read_config
from streamer.app.listing import list_known
from streamer.app.run import run
from streamer.common.errors import ConfigError, EngineError, SourceError
from streamer.common.queues import OverflowPolicy
from streamer.cuda import nvdec
from streamer.cuda.nv12 import Nv12
from streamer.engines import gpu_engines
from streamer.sources import SourceOptions, open_source
from streamer.sources.gpu_decoder import decoding_gpus
from tests.fake_gpu import FakeGpu, install
from tests.media import number_of, write_clip, write_image
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer
from tests.tiny import write_tiny


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Two GPUs that decode, and an engine for them."""
    fake = install(monkeypatch)
    fake.count = 2
    monkeypatch.setattr(gpu_engines, "installed_gpu_engines", lambda: {"tensorrt": "pip install t", "torch": None})
    return fake


@pytest.mark.parametrize(
    ("decode", "device", "engine", "wanted"),
    [
        ("auto", "auto", "auto", 0),
        ("auto", "cuda", "auto", 0),
        ("auto", "cuda:1", "torch", 1),
        ("gpu", "cuda:1", "auto", 1),
        ("gpu", "cpu", "auto", 0),  # the network elsewhere than the pictures: asked for by name
        ("gpu", "auto", "onnxruntime", 0),
        ("cpu", "cuda:1", "auto", None),
    ],
)
def test_the_gpu_is_the_detectors(gpu: FakeGpu, decode: str, device: str, engine: str, wanted: int | None) -> None:
    assert decoding_gpus(decode, device=device, engine=engine) == (() if wanted is None else (wanted,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "engine", "said"),
    [
        ("cpu", "auto", "the network runs there too"),
        ("auto", "openvino", "the network runs there too"),
        ("auto", "onnxruntime", "the network runs there too"),
        ("auto", "tensorrt", "no engine for a GPU is installed: pip install t"),
        ("cuda:2", "auto", "there is no GPU 2: this machine has 2, counted from 0"),
    ],
)
def test_auto_takes_the_cpu_and_says_why(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture, device: str, engine: str, said: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert decoding_gpus("auto", device=device, engine=engine) == ()
    assert f"videos are decoded by the CPU: {said}" in caplog.text


def test_auto_takes_the_cpu_where_nothing_is_installed(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nvdec.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.DEBUG):
        assert decoding_gpus("auto", device="auto", engine="auto") == ()
    assert "videos are decoded by the CPU: PyCUDA is not installed: pip install" in caplog.text


def test_a_gpu_asked_for_by_name_is_never_replaced(gpu: FakeGpu) -> None:
    with pytest.raises(EngineError, match=r"^--decode gpu: there is no GPU 7: .*; or use --decode cpu$"):
        decoding_gpus("gpu", device="cuda:7", engine="auto")


def test_an_unknown_device_is_refused(gpu: FakeGpu) -> None:
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        decoding_gpus("auto", device="tpu", engine="auto")


def test_the_option_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("decode: cpu")
    assert read_config(None, {}).decode == "auto"
    assert read_config(path, {}).decode == "cpu"
    with pytest.raises(ConfigError, match="decode: .*'nvdec'"):
        read_config(None, {"decode": "nvdec"})


def test_devices_say_whether_they_decode(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_known("devices")[-1] == "nvdec          decodes files and streams (--decode)"
    gpu.count = 0
    assert list_known("devices")[-1].startswith("nvdec          not usable: there is no GPU 0")


def test_cameras_and_pictures_take_no_notice(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 5)
    with open_source(str(path), options=SourceOptions(gpu=0, gpu_only=True)) as source:
        assert number_of(next(iter(source)).image) == 5
    assert not gpu.opened


@pytest.mark.parametrize("first", [0, 5])
def test_a_stream_begins_with_the_same_picture_as_on_the_cpu(gpu: FakeGpu, first: int) -> None:
    numbers = []
    for options in (
        SourceOptions(gpu=0, overflow_policy=OverflowPolicy.BLOCK),
        SourceOptions(overflow_policy=OverflowPolicy.BLOCK),
    ):
        with RtspServer(Loop(first=first)) as server, open_source(server.url, options=options) as source:
            frame = next(iter(source))
            assert isinstance(frame.pixels, Nv12) == (options.gpu is not None)
            numbers.append(number_of(frame.image))
    assert numbers[0] == numbers[1]
    assert numbers[0] % 10 == 0


def test_a_damaged_beginning_is_left_to_no_gpu(gpu: FakeGpu, tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    path.write_bytes(bytes(188 * 40))
    with pytest.raises(SourceError):
        open_source(str(path), options=SourceOptions(gpu=0, gpu_only=True))
    assert not gpu.opened


def test_a_run_finds_the_same_in_frames_from_the_gpu(gpu: FakeGpu, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    clip, model = write_clip(tmp_path / "clip.mp4", 12), write_tiny(tmp_path / "tiny.onnx")
    lines = []
    for decode in ("gpu", "cpu"):
        output = tmp_path / f"{decode}.jsonl"
        report = run(
            StreamConfig(
                source=(str(clip),), output=(str(output), str(tmp_path / f"{decode}.mp4")), model=str(model),
                engine="onnxruntime", decode=decode, conf=0.01,
            )
        )  # fmt: skip
        assert report.sources[0].frames_processed == 12
        lines.append([json.loads(line) for line in output.read_text().splitlines()])
        assert bool(gpu.opened) == (decode == "gpu")
        gpu.opened.clear()
    assert [line["detections"] for line in lines[0]] == [line["detections"] for line in lines[1]]
    assert (tmp_path / "gpu.mp4").stat().st_size > 1000


def test_the_command_line_refuses_in_one_line(gpu: FakeGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.count = 0
    arguments = ["--source", str(write_clip(tmp_path / "clip.mp4", 3)), "--output", "null", "--decode", "gpu"]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: --decode gpu: there is no GPU 0: this machine has none") and "\n" not in error
