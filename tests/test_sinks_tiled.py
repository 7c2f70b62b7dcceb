"""Several sources in one window: when it is painted, added and removed sources, and what is on a real screen."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.mosaic import window as tiled_window
from streamer.sinks.mosaic.window import TiledWindow
from streamer.sources.base import SourceInfo
from tests.desktop import PATIENCE_S, press_close_button, press_until_gone, screenshot, until, window_ids
from tests.media import write_clip
from tests.test_cli import command
from tests.tiny import write_tiny

ROOT = Path(__file__).resolve().parent.parent
TITLE = "^nanodet-stream$"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="displays as Linux has them")

VIEWER = """
import sys, numpy as np
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import StopRequested
from streamer.sinks.mosaic.window import TiledWindow
from streamer.sources.base import SourceInfo

window = TiledWindow()
sinks = [window.add_tile(SourceInfo(name, "")) for name in ("red", "green", "blue", "never")]
for sink, colour in zip(sinks, ((0, 0, 255), (0, 255, 0), (255, 0, 0))):
    pixels = np.full((90, 160, 3), colour, np.uint8)
    sink.write(Frame(pixels, "x", 0, 0.0, 0.0), Detections.empty())
print("written", flush=True)
try:
    while True:
        for sink in sinks:
            sink.poll()
except StopRequested:
    print("stopped", flush=True)
for sink in sinks:
    sink.close()
    sink.poll()
print("closed", flush=True)
"""


def viewer() -> subprocess.Popen[str]:
    """Starts a process that shows three coloured sources and one that gives no frame, until it is asked to stop."""
    child = subprocess.Popen(
        [sys.executable, "-c", VIEWER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n", child.communicate()[1]
    return child


def shows_all_four(screen: npt.NDArray[np.uint8], width: int, height: int) -> bool:
    """Whether a window of that size at the screen's corner has red, green, blue and grey in its quarters."""
    for number, colour in enumerate([(0, 0, 255), (0, 255, 0), (255, 0, 0), (64, 64, 64)]):
        row, column = divmod(number, 2)
        tile = screen[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2]
        is_coloured = (tile == colour).all(axis=2)
        middle = is_coloured[tile.shape[0] // 4 : -tile.shape[0] // 3]  # names are below
        corner = tile[-30:, :100]
        has_name = 20 < (corner.min(axis=2) > 200).sum() < 600
        if middle.mean() < 0.95 or not has_name:
            return False
    return True


@linux_only
@pytest.mark.parametrize("how", ["q", "Escape", "close button"])
def test_all_sources_are_in_one_window_until_it_is_closed(how: str, display: str, tmp_path: Path) -> None:
    child = viewer()
    assert until(lambda: shows_all_four(screenshot(tmp_path / "screen.png"), 1280, 720))
    assert len(window_ids(".")) == 1
    press_close_button(display, TITLE) if how == "close button" else press_until_gone(how, child, TITLE)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert output == "stopped\nclosed\n", errors
    assert errors == ""
    assert child.returncode == 0


@linux_only
@pytest.mark.parametrize("display", ["800x600"], indirect=True)
def test_the_layout_follows_the_windows_size(display: str, tmp_path: Path) -> None:
    child = viewer()
    assert until(lambda: shows_all_four(screenshot(tmp_path / "screen.png"), 800, 450)), "it fits a small screen"
    subprocess.run(["xdotool", "windowsize", window_ids(TITLE)[0], "500", "600"], check=True, timeout=PATIENCE_S)

    def has_letterboxed_tiles() -> bool:
        column = screenshot(tmp_path / "screen.png")[:600, 120]
        return 100 < int((column == (0, 0, 255)).all(axis=1).sum()) < 150  # 250 pixels wide, 16:9

    assert until(has_letterboxed_tiles)
    press_until_gone("q", child, TITLE)
    assert child.communicate(timeout=PATIENCE_S)[0] == "stopped\nclosed\n"


@linux_only
@pytest.mark.parametrize(
    ("sources", "layout", "titles"),
    [
        (["one=clip.mp4", "two=clip.mp4"], (), {"nanodet-stream"}),
        (["one=clip.mp4", "two=clip.mp4"], ("--layout", "separate"), {"one", "two"}),
        (["one=clip.mp4"], ("--layout", "tiled"), {"one"}),
    ],
)
def test_the_program_opens_the_windows_that_were_asked_for(
    sources: list[str], layout: tuple[str, ...], titles: set[str], display: str, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mp4", times_s=[float(second) for second in range(60)])
    model = write_tiny(tmp_path / "tiny.onnx")
    named = [part for source in sources for part in ("--source", source)]
    arguments = command(*named, "--output", "window", "--model", model, "--quiet", *layout)
    child = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def all_are_open() -> bool:
        assert child.poll() is None, child.communicate()
        return all(len(window_ids(f"^{re.escape(title)}$")) == 1 for title in titles)

    assert until(all_are_open)
    assert len(window_ids(".")) == len(titles)
    press_until_gone("q", child, f"^{min(titles)}$")
    _, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, errors
    assert errors == ""


Paint = Callable[[tuple[int, int]], npt.NDArray[np.uint8]]


class FakeWindow:
    """Stands for the desktop's window: keeps what is painted."""

    latest: FakeWindow

    def __init__(
        self, title: str, paint: Callable[[tuple[int, int]], npt.NDArray[np.uint8]], *, keep_ratio: bool
    ) -> None:
        FakeWindow.latest = self
        self.paint = paint
        self.is_open = False
        self.shown: list[npt.NDArray[np.uint8]] = []
        self.closed = 0

    def show(self, size_wh: tuple[int, int]) -> None:
        self.is_open = True
        self.shown.append(self.paint(size_wh).copy())

    def poll(self) -> None:
        pass

    def close(self) -> None:
        self.is_open = False
        self.closed += 1


@pytest.fixture
def clock_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as tiled windows see it, and fake windows."""
    now_s = [100.0]
    monkeypatch.setattr(tiled_window, "time", SimpleNamespace(perf_counter=lambda: now_s[0]))
    monkeypatch.setattr(tiled_window, "DesktopWindow", FakeWindow)
    return now_s


def source(name: str) -> SourceInfo:
    return SourceInfo(name, "")


def frame(value: int, size_wh: tuple[int, int] = (32, 18)) -> Frame:
    return Frame(np.full((size_wh[1], size_wh[0], 3), value, np.uint8), "x", 0, 0.0, 0.0)


def test_it_is_painted_when_something_changed_and_thirty_times_a_second_at_most(clock_s: list[float]) -> None:
    window = TiledWindow()
    sinks = [window.add_tile(source("a")), window.add_tile(source("b"))]
    shown = FakeWindow.latest.shown
    for _ in range(600):  # a second of frames on one source, polled as the pipeline does
        sinks[0].write(frame(200), Detections.empty())
        for sink in sinks:
            sink.poll()
        clock_s[0] += 1 / 600
    assert 25 <= len(shown) <= 31
    clock_s[0] += 1
    sinks[0].poll()
    count = len(shown)
    for _ in range(10):
        clock_s[0] += 1
        sinks[1].poll()
    assert len(shown) == count, "nothing changed"
    sinks[1].write(frame(90), Detections.empty())
    sinks[0].poll()
    assert len(shown) == count + 1
    assert shown[-1][100, 600].tolist() == [200] * 3
    assert shown[-1][100, 700].tolist() == [90] * 3


def test_the_window_closes_with_its_last_tile_and_stays_closed(clock_s: list[float]) -> None:
    window = TiledWindow()
    sinks = [window.add_tile(source("a")), window.add_tile(source("b"))]
    sinks[0].poll()
    assert window.is_open
    sinks[0].close()
    assert window.is_open
    sinks[1].close()
    sinks[1].close()
    assert not window.is_open
    sinks[0].write(frame(1), Detections.empty())
    clock_s[0] += 1
    sinks[0].poll()
    assert not window.is_open


def test_single_pictures_stay_until_the_window_is_closed(clock_s: list[float]) -> None:
    window = TiledWindow()
    one, two = window.add_tile(source("a")), window.add_tile(source("b"))
    one.write(frame(1), Detections.empty())
    assert not one.lingers, "the window isn't there yet"
    one.poll()
    for _ in range(2):
        two.write(frame(1), Detections.empty())
    assert one.lingers
    assert not two.lingers


def test_a_name_too_long_for_its_tile_is_cut_and_does_not_reach_the_next(clock_s: list[float]) -> None:
    window = TiledWindow()
    sinks = [window.add_tile(source("a-name-that-goes-on-" * 9)), window.add_tile(source("b"))]
    for sink in sinks:
        sink.write(frame(0), Detections.empty())
    sinks[0].poll()
    shown = FakeWindow.latest.shown[-1]
    bright = (shown > 128).any(axis=(0, 2))
    assert bright[500:636].any()
    assert not bright[636:644].any()


def test_sources_come_and_go_while_the_window_is_open(clock_s: list[float]) -> None:
    window = TiledWindow()
    sinks = [window.add_tile(source("a")), window.add_tile(source("b"))]
    for value, sink in zip((100, 150), sinks, strict=True):
        sink.write(frame(value), Detections.empty())

    def shown() -> tuple[int, ...]:
        """Returns what is above the middle of the window's quarters."""
        clock_s[0] += 1
        sinks[0].poll()
        height, width = (picture := FakeWindow.latest.shown[-1]).shape[:2]
        return tuple(int(picture[y * height // 8, x * width // 4, 0]) for y in (1, 5) for x in (1, 3))

    assert shown() == (100, 150, 100, 150), "side by side"
    sinks.append(window.add_tile(source("c")))
    assert shown() == (100, 150, 64, 16), "the third waits, the fourth place is empty"
    sinks[2].write(frame(200), Detections.empty())
    sinks[1].close()
    assert shown() == (100, 150, 200, 16), "ended tiles stay"
    window.remove("b")
    assert shown() == (100, 200, 100, 200), "removed tiles disappear"
    window.remove("c")
    assert shown() == (100,) * 4
    sinks[2].close()
    assert window.is_open
    sinks[0].close()
    assert not window.is_open
    sinks.append(window.add_tile(source("d")))
    sinks[3].write(frame(220), Detections.empty())
    assert shown() == (100, 220, 100, 220), "it opens again"


def test_a_source_that_ends_without_a_picture_is_shown_as_ended(clock_s: list[float]) -> None:
    window = TiledWindow()
    one, two = window.add_tile(source("a")), window.add_tile(source("b"))
    one.poll()
    waiting = FakeWindow.latest.shown[-1]
    two.close()
    clock_s[0] += 1
    one.poll()
    over = FakeWindow.latest.shown[-1]
    assert (waiting[:, :640] == over[:, :640]).all()
    assert (waiting[:, 640:] != over[:, 640:]).any()


@given(width=st.integers(1, 120), height=st.integers(1, 120))
def test_any_window_size_can_be_painted(width: int, height: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled_window, "DesktopWindow", FakeWindow)
        window = TiledWindow()
        for name in ("a", "b", "c"):
            window.add_tile(source(name)).write(frame(7), Detections.empty())
        window.add_tile(source("d"))
        window.poll()
        assert FakeWindow.latest.paint((width, height)).shape == (height, width, 3)
    assert FakeWindow.latest.paint((0, 0)).shape == (360, 640, 3)
