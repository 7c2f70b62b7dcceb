"""Several GPUs on the command line: which are meant, which one decodes a source, and the detectors that are opened."""

from __future__ import annotations

from typing import Any

import pytest

from streamer import detector as detectors
from streamer.app.gpu_placement import GpuPlacement
from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.gpu import list_gpus, parse_devices
from streamer.detector import open_detectors
from streamer.sources.base import SourceInfo
from streamer.sources.gpu_decoder import decoding_gpus
from streamer.sources.spec import SourceSpec
from tests.fake_gpu import FakeGpu, install
from tests.fakes import SlowDetector
from tests.test_lanes import GpuDetector, MovableSource


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Three GPUs."""
    fake = install(monkeypatch)
    fake.count = 3
    return fake


# --- the option ---


@pytest.mark.parametrize(
    ("device", "numbers"),
    [
        ("cuda", (0,)),
        ("cuda:1", (1,)),
        ("cuda:0,cuda:1", (0, 1)),
        ("cuda:2, cuda:0", (2, 0)),
        ("cuda,cuda:1", (0, 1)),
        ("cuda:*", (0, 1, 2)),
    ],
)
def test_several_devices_are_read(gpu: FakeGpu, device: str, numbers: tuple[int, ...]) -> None:
    assert parse_devices(device) == numbers


@pytest.mark.parametrize(
    "device", ["cuda:0,", ",", "cuda:0,cpu", "cuda:0,1", "auto,cuda:0", "cuda:*,cuda:0", "cuda:0;cuda:1", "*"]
)
def test_wrong_lists_are_refused(gpu: FakeGpu, device: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown device .*several GPUs are cuda:0,cuda:1 or cuda:\*") as caught:
        parse_devices(device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda:1,cuda:1", "cuda,cuda:0", "cuda:0,cuda:2,cuda:2"])
def test_a_device_twice_is_refused(gpu: FakeGpu, device: str) -> None:
    with pytest.raises(ConfigError, match=r"^device 'cuda.*' names GPU \d twice$"):
        parse_devices(device)


def test_a_number_that_is_not_there_is_refused(gpu: FakeGpu) -> None:
    with pytest.raises(EngineError, match="there is no GPU 7: this machine has 3, counted from 0"):
        open_detectors("nanodet-g_416_float", device="cuda:7,cuda:0", engine="torch")


def test_the_list_of_devices_says_what_all_are(gpu: FakeGpu) -> None:
    assert list_gpus()[-1] == "cuda:*         all of these: cuda:0,cuda:1,cuda:2"
    gpu.count = 1
    assert list_gpus() == ["cuda:0         Fake GPU, 8 GiB"]


def test_all_of_them_decode(gpu: FakeGpu) -> None:
    assert decoding_gpus("gpu", device="cuda:*", engine="torch") == (0, 1, 2)
    assert decoding_gpus("gpu", device="cuda:2,cuda:0", engine="torch") == (2, 0)
    with pytest.raises(EngineError, match="--decode gpu: there is no GPU 5"):
        decoding_gpus("gpu", device="cuda:0,cuda:5", engine="torch")


# --- the detectors ---


class Opened:
    """Opens made-up detectors; those of `broken` GPUs fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *broken: str) -> None:
        self.calls: list[tuple[str, int]] = []
        self.closed: list[str] = []
        self.broken = broken
        monkeypatch.setattr(detectors, "open_detector", self)

    def __call__(self, model: object, *, device: str, streams: int, **_: Any) -> SlowDetector:
        self.calls.append((device, streams))
        if device in self.broken:
            raise EngineError(f"no engine works on {device}")
        opened = GpuDetector(int(device.partition(":")[2])) if ":" in device else SlowDetector()
        opened.close = lambda: self.closed.append(device)  # type: ignore[method-assign]
        return opened


@pytest.mark.parametrize(
    ("device", "calls"),
    [
        ("auto", [("auto", 5)]),
        ("cpu", [("cpu", 5)]),
        ("cuda", [("cuda:0", 5)]),
        ("cuda:1", [("cuda:1", 5)]),
        ("cuda:0,cuda:2", [("cuda:0", 3), ("cuda:2", 3)]),
        ("cuda:*", [("cuda:0", 2), ("cuda:1", 2), ("cuda:2", 2)]),
    ],
)
def test_each_gpu_gets_a_detector_for_its_share(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, device: str, calls: list[tuple[str, int]]
) -> None:
    opened = Opened(monkeypatch)
    assert len(open_detectors("m", device=device, streams=5)) == len(calls)
    assert opened.calls == calls
    assert not opened.closed


def test_a_gpu_asked_for_by_name_must_work(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, "cuda:2")
    with pytest.raises(EngineError, match="no engine works on cuda:2"):
        open_detectors("m", device="cuda:0,cuda:2")
    assert opened.closed == ["cuda:0"]


@pytest.mark.parametrize("broken", [0, 2])
def test_of_all_gpus_one_that_does_not_work_is_left_out(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: int
) -> None:
    Opened(monkeypatch, f"cuda:{broken}")
    assert {each.gpu for each in open_detectors("m", device="cuda:*")} == {0, 1, 2} - {broken}
    assert f"cuda:{broken} can't be used: no engine works on cuda:{broken}" in caplog.text


def test_of_all_gpus_one_must_work(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    Opened(monkeypatch, "cuda:0", "cuda:1", "cuda:2")
    with pytest.raises(EngineError, match="no engine works on cuda:2"):
        open_detectors("m", device="cuda:*")


# --- which one decodes ---


def spec(number: int) -> SourceSpec:
    return SourceSpec.parse(f"rtsp://door/{number}", name=f"s{number}")


def sized(number: int, width: int) -> MovableSource:
    source = MovableSource(1, name=f"s{number}")
    source.info = SourceInfo(f"s{number}", "rtsp://", (width, width // 16 * 9), 30.0, live=True)
    return source


def test_videos_are_placed_in_turn_before_they_are_known() -> None:
    placement = GpuPlacement((2, 0))
    assert [placement.place(spec(number)) for number in range(5)] == [2, 0, 2, 0, 2]
    assert placement.settle("s1") == 0
    assert placement.place(SourceSpec.parse("0", name="webcam")) is None
    assert placement.settle("webcam") is None


def test_without_a_gpu_nothing_is_placed() -> None:
    placement = GpuPlacement(())
    assert placement.place(spec(0)) is None
    placement.balance([sized(0, 1920)])


def test_a_source_that_fails_to_open_counts_no_more() -> None:
    placement = GpuPlacement((0, 1))
    placement.place(spec(0))
    placement.drop("s0")
    assert placement.place(spec(1)) == 0


def test_a_run_chooses_by_its_streams() -> None:
    placement = GpuPlacement((0, 1))
    asked: list[list[int]] = []

    def choose(opening: Any) -> int:
        asked.append(list(opening))
        return 1

    placement.choose = choose
    assert [placement.place(spec(number)) for number in range(2)] == [1, 1]
    assert asked == [[], [1]]


def placed(widths: tuple[int, ...]) -> list[MovableSource]:
    placement = GpuPlacement((0, 1))
    sources = [sized(number, width) for number, width in enumerate(widths)]
    for number in range(len(widths)):
        placement.place(spec(number))
    placement.balance(sources)
    assert [placement.settle(f"s{number}") for number in range(len(widths))] == [
        source.moves[-1] if source.moves else number % 2 for number, source in enumerate(sources)
    ]
    return sources


def test_sources_move_where_the_load_is_uneven() -> None:
    assert [source.moves for source in placed((3840, 640, 3840, 640))] == [[], [], [1], [0]]


@pytest.mark.parametrize("widths", [(1920,) * 6, (1920, 1920, 1280, 1280), (1920, 1920, 1920), (1920,)])
def test_sources_stay_where_moving_gains_little(widths: tuple[int, ...]) -> None:
    assert not any(source.moves for source in placed(widths))
