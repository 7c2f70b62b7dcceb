"""The window: on a real X server where one can be had, and the clear words where there is none."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from streamer.errors import SinkError
from streamer.sinks.display import display_problem
from streamer.sinks.window import WindowSink, _fitted

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 30.0
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="displays as Linux has them")

VIEWER = """
import sys, numpy as np
from streamer.detections import Detections
from streamer.frame import Frame
from streamer.sinks.base import StopRequested
from streamer.sinks.window import WindowSink

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


@pytest.fixture(params=["1280x800"])
def display(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh X server, in DISPLAY."""
    for tool, package in (("Xvfb", "xvfb"), ("xdotool", "xdotool"), ("import", "imagemagick")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (apt-get install {package})")
    if not cv2.currentUIFramework():
        pytest.skip("this OpenCV has no windows")
    reader, writer = os.pipe()
    # -noreset: without it the server starts anew, deaf for a moment, whenever its last client (xdotool) leaves.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", f"{request.param}x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as answers:
            number = answers.readline().strip()
        assert number, "Xvfb didn't start"
        monkeypatch.setenv("DISPLAY", f":{number}")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


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


def window_id() -> str:
    found = subprocess.run(
        ["xdotool", "search", "--onlyvisible", "--name", "front.door"],
        capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return found.stdout.split()[0]


def press(key: str) -> None:
    subprocess.run(["xdotool", "windowfocus", "--sync", window_id(), "key", key], check=True, timeout=PATIENCE_S)


def press_until_gone(key: str, child: subprocess.Popen[str]) -> None:
    """Presses a key as a person does whose first press came before the window had the focus: again."""

    def is_gone() -> bool:
        if child.poll() is None:
            try:
                press(key)
            except subprocess.CalledProcessError:
                pass  # it went while xdotool looked
        return child.poll() is not None

    assert until(is_gone)


def press_close_button(display: str) -> None:
    """Does what a window manager does when the close button is pressed: it sends WM_DELETE_WINDOW (ICCCM 4.2.8.1)."""

    class ClientMessage(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("serial", ctypes.c_ulong),
            ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p),
            ("window", ctypes.c_ulong),
            ("message_type", ctypes.c_ulong),
            ("format", ctypes.c_int),
            ("data", ctypes.c_long * 5),
            ("room_of_the_union", ctypes.c_long * 24),
        )

    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    protocols = x11.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    delete = x11.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    window = int(window_id())
    data = (ctypes.c_long * 5)(delete, 0, 0, 0, 0)
    event = ClientMessage(type=33, window=window, message_type=protocols, format=32, data=data)
    assert x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    x11.XSync(connection, 0)
    x11.XCloseDisplay(connection)


def screenshot(path: Path) -> npt.NDArray[np.uint8]:
    subprocess.run(["import", "-window", "root", str(path)], check=True, timeout=PATIENCE_S)
    return np.asarray(cv2.imread(str(path)), np.uint8)


def until(condition: Callable[[], bool]) -> bool:
    """Waits for a condition; returns whether it came true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


@linux_only
@pytest.mark.parametrize("how", ["q", "Escape", "shift+q", "close button"])
def test_keys_and_the_close_button_end_the_run(how: str, display: str) -> None:
    child = viewer()
    press_close_button(display) if how == "close button" else press_until_gone(how, child)
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
    press_until_gone("q", child)
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, errors
    assert output.startswith("1 frames")


@linux_only
def test_other_keys_do_nothing(display: str) -> None:
    child = viewer()
    for key in ("a", "Return", "w", "Left"):
        press(key)
    assert child.poll() is None
    press_until_gone("q", child)
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
    press_until_gone("q", child)
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
        from streamer.errors import SinkError
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
    assert _fitted(size_wh, room_wh) == fitted_wh
