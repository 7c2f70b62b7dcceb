"""The window: on a real X server where one can be had, and the clear words where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.sinks.window.display import display_problem
from streamer.sinks.window.sink import WindowSink, fitted
from tests.desktop import PATIENCE_S, press, press_close_button, press_until_gone, screenshot, until

ROOT = Path(__file__).resolve().parent.parent
TITLE = "front.door"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="displays as Linux has them")

VIEWER = """
import sys, numpy as np
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import StopRequested
from streamer.sinks.window.sink import WindowSink

width, height = int(sys.argv[1]), int(sys.argv[2])
pixels = np.zeros((height, width, 3), np.uint8)
pixels[:] = (0, 0, 255)
pixels[:, width // 2 :] = (0, 255, 0)
with WindowSink("front door – ü") as window:
    window.poll()
    try:
        for index in range(3):
            window.write(Frame(pixels, "x", index, index / 30, 0.0), Detections.empty())
        print("shown", flush=True)
        while True:
            window.poll()
    except StopRequested:
        print("stopped", flush=True)
window.close()
window.poll()
print("closed", flush=True)
"""


def viewer(width: int = 640, height: int = 360) -> subprocess.Popen[str]:
    """Starts a process that shows a picture, half red, half green, until it is asked to stop."""
    child = subprocess.Popen(
        [sys.executable, "-c", VIEWER, str(width), str(height)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "shown\n", child.communicate()[1]
    return child


@linux_only
@pytest.mark.parametrize("how", ["q", "Escape", "shift+q", "close button"])
def test_keys_and_the_close_button_end_the_run(how: str, display: str) -> None:
    child = viewer()
    press_close_button(display, TITLE) if how == "close button" else press_until_gone(how, child, TITLE)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert output == "stopped\nclosed\n", errors
    assert errors == ""
    assert child.returncode == 0


@linux_only
def test_a_single_picture_stays_until_its_window_is_closed(display: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), np.full((360, 640, 3), 90, np.uint8))
    command = [
        sys.executable,
        str(ROOT / "run_stream.py"),
        "--source",
        "front-door=one.png",
        "--output",
        "window",
        "--no-self-check",
    ]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    press_until_gone("q", child, TITLE)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, errors
    assert output.startswith("1 frame in")


@linux_only
def test_other_keys_do_nothing(display: str) -> None:
    child = viewer()
    for key in ("a", "Return", "w", "Left"):
        press(key, TITLE)
    assert child.poll() is None
    press_until_gone("q", child, TITLE)
    assert child.communicate(timeout=PATIENCE_S)[0] == "stopped\nclosed\n"


@linux_only
@pytest.mark.parametrize(
    "display,size_wh,shown_wh",
    [
        ("1280x800", (640, 360), (640, 360)),
        ("1280x800", (3840, 2160), (1280, 720)),
        ("1280x800", (97, 65), (97, 65)),
        ("640x480", (1920, 1080), (640, 360)),
    ],
    indirect=["display"],
)
def test_the_picture_is_on_the_screen_and_fits_it(
    size_wh: tuple[int, int], shown_wh: tuple[int, int], display: str, tmp_path: Path
) -> None:
    child = viewer(*size_wh)

    def red_and_green() -> tuple[int, int]:
        screen = screenshot(tmp_path / "screen.png")
        red, green = (screen == (0, 0, 255)).all(axis=2), (screen == (0, 255, 0)).all(axis=2)
        return int(red.sum()), int(green.sum())

    half = shown_wh[0] * shown_wh[1] / 2
    assert until(lambda: min(red_and_green()) > 0.95 * half), red_and_green()
    assert max(red_and_green()) < 1.05 * half
    press_until_gone("q", child, TITLE)
    assert child.communicate(timeout=PATIENCE_S)[0] == "stopped\nclosed\n"


@linux_only
def test_a_display_that_answers_is_no_problem(display: str) -> None:
    assert display_problem() is None


@linux_only
@pytest.mark.parametrize(
    "environment,words",
    [
        ({}, "there is no display (DISPLAY isn't set)"),
        ({"DISPLAY": ":4242"}, "the display :4242 doesn't answer"),
        ({"DISPLAY": "nonsense"}, "the display nonsense doesn't answer"),
        ({"DISPLAY": ":4242", "QT_QPA_PLATFORM": "offscreen"}, "QT_QPA_PLATFORM=offscreen"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "there is no display"),
    ],
)
def test_a_machine_without_a_display_gets_a_clear_word_and_no_abort(environment: dict[str, str], words: str) -> None:
    if not cv2.currentUIFramework().startswith("QT"):
        pytest.skip("another window library than Qt")
    code = """
        from streamer.common.errors import SinkError
        from streamer.sinks import default_output, open_sink
        from streamer.sources.base import SourceInfo
        print(default_output())
        try:
            open_sink("window", SourceInfo("x", "x"), labels=[])
        except SinkError as error:
            print(error)
    """
    clean = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, cwd=ROOT, env=clean | environment, timeout=PATIENCE_S,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    chosen, refused = run.stdout.splitlines()
    assert chosen.startswith(("('out.mp4',", '("out.mp4",'))
    assert words in chosen
    assert words in refused
    assert refused.startswith("can't open a window: ")
    assert refused.endswith("or choose another --output")


def test_an_opencv_without_windows_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(SinkError, match="pip install opencv-python, or choose another --output"):
        WindowSink("x")


@pytest.mark.parametrize(
    "size_wh,room_wh,fitted_wh",
    [
        ((640, 360), (1280, 720), (640, 360)),
        ((3840, 2160), (1280, 720), (1280, 720)),
        ((1080, 1920), (1280, 720), (405, 720)),
        ((10_000, 2), (1280, 720), (1280, 1)),
    ],
)
def test_sizes_are_fitted(size_wh: tuple[int, int], room_wh: tuple[int, int], fitted_wh: tuple[int, int]) -> None:
    assert fitted(size_wh, room_wh) == fitted_wh


@pytest.mark.parametrize(
    "module",
    [
        "frames.yuv",
        "sources.video",
        "sources.image_files",
        "sources.http.opening",
        "sinks.video.encoder",
        "sinks.mosaic.tiles",
    ],
)
def test_opencv_is_imported_before_pyav(module: str) -> None:
    """Else OpenCV's Qt gets PyAV's libxcb-shm beside its own libxcb, and opening a window never returns."""
    code = f"import sys, streamer.{module}, av; print([name for name in sys.modules if name in ('av', 'cv2')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "['cv2', 'av']"
