"""Whether a window can be opened here: asked before the GUI library is, since that one ends the process without one."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path

import cv2

_ROOM_WH = (1280, 720)
_NO_GUI = "this OpenCV has no windows: pip uninstall opencv-python-headless, then pip install opencv-python"


def display_problem() -> str | None:
    """Returns why no window can be opened, in one phrase with the fix, or None if one can."""
    framework = cv2.currentUIFramework()
    if not framework:
        return _NO_GUI
    if sys.platform != "linux":
        return None
    return _linux_problem(framework)


def window_room_wh() -> tuple[int, int]:
    """Returns the width and height that a new window may have: 1280x720, or less on a screen known to be small."""
    display = os.environ.get("DISPLAY")
    screen_wh = _x11_screen_wh(display) if sys.platform == "linux" and display else None
    width, height = screen_wh or _ROOM_WH
    return min(_ROOM_WH[0], width), min(_ROOM_WH[1], height)


def quiet_qt() -> None:
    """Keeps the Qt inside OpenCV's wheel from warning of what it lacks: a Wayland plugin, and fonts, unused here."""
    fonts = os.environ.get("QT_QPA_FONTDIR")
    if fonts and not Path(fonts).is_dir():
        os.environ["QT_QPA_FONTDIR"] = str(Path(fonts).parent)
    if _qt_platforms() == {"xcb"}:
        os.environ.setdefault("QT_QPA_PLATFORM", "xcb")


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
    if _x11_screen_wh(display) is None:
        return f"the display {display} doesn't answer: check DISPLAY, and xauth where you changed user"
    return None


def _qt_platforms() -> set[str]:
    """Returns the window systems that the Qt inside OpenCV's wheel knows; empty for an OpenCV built otherwise."""
    folder = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"
    return {file.name.removeprefix("libq").split(".")[0] for file in folder.glob("libq*.so")}


@lru_cache(maxsize=4)
def _x11_screen_wh(display: str) -> tuple[int, int] | None:
    """Opens a connection to the X server as the GUI library will, authorisation included; returns its screen's size.

    The connection stays open for the life of the process: a bare X server (Xvfb) starts anew when its last client
    leaves, and would take the window that is opened next down with it.
    """
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return None
    x11.XOpenDisplay.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(x11.XOpenDisplay(os.fsencode(display)))
    if not connection:
        return None
    screen = x11.XDefaultScreen(connection)
    return x11.XDisplayWidth(connection, screen), x11.XDisplayHeight(connection, screen)
