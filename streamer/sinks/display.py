"""Whether a window can be opened here: asked before the GUI library is, since that one ends the process without one."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

import cv2

_NO_GUI = "this OpenCV has no windows: pip uninstall opencv-python-headless, then pip install opencv-python"


def display_problem() -> str | None:
    """Returns why no window can be opened, in one phrase with the fix, or None if one can."""
    framework = cv2.currentUIFramework()
    if not framework:
        return _NO_GUI
    if sys.platform != "linux":
        return None
    return _linux_problem(framework)


def _linux_problem(framework: str) -> str | None:
    platforms = _qt_platforms() if framework.startswith("QT") else set()
    chosen = os.environ.get("QT_QPA_PLATFORM", "").split(":")[0]
    if chosen and platforms and chosen not in platforms:
        return f"QT_QPA_PLATFORM={chosen}, but OpenCV's windows know only {', '.join(sorted(platforms))}: unset it"
    if os.environ.get("WAYLAND_DISPLAY") and (not platforms or "wayland" in platforms):
        return None
    display = os.environ.get("DISPLAY")
    if not display:
        return "there is no display (DISPLAY isn't set): run it on a desktop, or over ssh -X"
    if not _x11_answers(display):
        return f"the display {display} doesn't answer: check DISPLAY, and xauth where you changed user"
    if platforms == {"xcb"}:
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")  # keeps Qt from looking for Wayland first and warning
    return None


def _qt_platforms() -> set[str]:
    """Returns the window systems that the Qt inside OpenCV's wheel knows; empty for an OpenCV built otherwise."""
    folder = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"
    return {file.name.removeprefix("libq").split(".")[0] for file in folder.glob("libq*.so")}


@lru_cache(maxsize=4)
def _x11_answers(display: str) -> bool:
    """Opens a connection to the X server as the GUI library will, authorisation included.

    The connection stays open for the life of the process: a bare X server (Xvfb) starts anew when its last client
    leaves, and would take the window that is opened next down with it.
    """
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    return bool(x11.XOpenDisplay(os.fsencode(display)))
