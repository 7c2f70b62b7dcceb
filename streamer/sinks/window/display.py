"""Whether a window can be opened: Qt aborts the process where it can't."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2

from streamer.sinks.window.x11 import X11Display, x11_display

_MAX_WH = (1280, 720)
_NO_GUI = "this OpenCV has no windows: pip uninstall opencv-python-headless, then pip install opencv-python"


def display_problem() -> str | None:
    """Returns why no window can be opened, in one phrase with the fix, or None if one can."""
    framework = cv2.currentUIFramework()
    if not framework:
        return _NO_GUI
    if sys.platform != "linux":
        return None
    return _linux_problem(framework)


def max_window_wh() -> tuple[int, int]:
    """Returns the maximum size of a new window: 1280x720, or the X server's screen if that is smaller."""
    x11 = _x11()
    width, height = x11.screen_wh if x11 else _MAX_WH
    return min(_MAX_WH[0], width), min(_MAX_WH[1], height)


def resend_map_events() -> None:
    """See `X11Display.resend_map_events`; does nothing without an X server."""
    x11 = _x11()
    if x11:
        x11.resend_map_events()


def quiet_qt() -> None:
    """Keeps the Qt inside OpenCV's wheel from warning about a missing Wayland plugin and missing fonts, both unused."""
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
    if x11_display(display) is None:
        return f"the display {display} doesn't answer: check DISPLAY, and xauth where you changed user"
    return None


def _x11() -> X11Display | None:
    name = os.environ.get("DISPLAY")
    return x11_display(name) if sys.platform == "linux" and name else None


def _qt_platforms() -> set[str]:
    """Returns the window systems that the Qt inside OpenCV's wheel supports; empty for an OpenCV built otherwise."""
    folder = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"
    return {file.name.removeprefix("libq").split(".")[0] for file in folder.glob("libq*.so")}
