"""A screen of our own, and the hands of a person in front of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

PATIENCE_S = 60.0


@contextmanager
def x_server(size: str) -> Iterator[str]:
    """Runs a fresh X server with a screen such as 1280x800; gives its name for DISPLAY."""
    for tool, package in (("Xvfb", "xvfb"), ("xdotool", "xdotool"), ("import", "imagemagick")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (apt-get install {package})")
    if not cv2.currentUIFramework():
        pytest.skip("this OpenCV has no windows")
    reader, writer = os.pipe()
    # -noreset: without it the server starts anew, deaf for a moment, whenever its last client (xdotool) leaves.
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", f"{size}x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as answers:
            number = answers.readline().strip()
        assert number, "Xvfb didn't start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


def window_ids(title: str) -> list[str]:
    """Returns the visible windows whose title matches a regular expression."""
    found = subprocess.run(
        ["xdotool", "search", "--onlyvisible", "--name", title], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return found.stdout.split()


def press(key: str, title: str) -> None:
    """Presses a key in the window with that title.

    Raises:
        subprocess.CalledProcessError: if it goes meanwhile.
        IndexError: if there is none.
    """
    window = window_ids(title)[0]
    subprocess.run(["xdotool", "windowfocus", "--sync", window, "key", key], check=True, timeout=PATIENCE_S)


def press_until_gone(key: str, child: subprocess.Popen[str], title: str) -> None:
    """Presses a key as a person does whose first press came before the window had the focus: again."""

    def is_gone() -> bool:
        if child.poll() is None:
            try:
                press(key, title)
            except (subprocess.CalledProcessError, IndexError):
                pass  # it went while xdotool looked, or isn't there yet
        return child.poll() is not None

    assert until(is_gone)


def press_close_button(display: str, title: str) -> None:
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
    window = int(window_ids(title)[0])
    data = (ctypes.c_long * 5)(delete, 0, 0, 0, 0)
    event = ClientMessage(type=33, window=window, message_type=protocols, format=32, data=data)
    assert x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    x11.XSync(connection, 0)
    x11.XCloseDisplay(connection)


def screenshot(path: Path) -> npt.NDArray[np.uint8]:
    """Returns what is on the screen, (H, W, 3) uint8 BGR; `path` is where it may be kept meanwhile."""
    subprocess.run(["import", "-window", "root", str(path)], check=True, timeout=PATIENCE_S)
    return np.asarray(cv2.imread(str(path)), np.uint8)


def until(condition: Callable[[], bool]) -> bool:
    """Waits for a condition; returns whether it came true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
