"""The little of Xlib that OpenCV's windows leave to be done on Linux, through ctypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import lru_cache

_MAP_NOTIFY, _STRUCTURE_NOTIFY_MASK = 19, 1 << 17  # Xlib's X.h
_CARDINAL_32 = 32
_FRAME_DEPTH = 3  # window managers put windows into frames of their own


class _MapEvent(ctypes.Structure):
    """XMapEvent of Xlib.h, as large as the XEvent union."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("event", ctypes.c_ulong),
        ("window", ctypes.c_ulong),
        ("override_redirect", ctypes.c_int),
        ("rest_of_the_union", ctypes.c_long * 24),
    )


_ErrorHandler = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ignore_errors = _ErrorHandler(lambda _display, _error: 0)


class X11Display:
    """A connection to an X server, open for the life of the process. Main thread only.

    It stays open because a bare X server (Xvfb) starts anew when its last client leaves, and would take the window
    that is opened next down with it.

    Attributes:
        screen_wh: the screen's width and height in pixels.
    """

    def __init__(self, name: str) -> None:
        """Connects as the GUI library will, authorisation included.

        Raises:
            OSError: if there is no Xlib, or no server that lets us in.
        """
        self._x11 = x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        x11.XDefaultRootWindow.restype = x11.XInternAtom.restype = ctypes.c_ulong
        x11.XSetErrorHandler.restype = ctypes.c_void_p
        x11.XSetErrorHandler.argtypes = [ctypes.c_void_p]
        self._display = ctypes.c_void_p(x11.XOpenDisplay(os.fsencode(name)))
        if not self._display:
            raise OSError(f"no X server answers at {name}")
        screen = x11.XDefaultScreen(self._display)
        self.screen_wh = (x11.XDisplayWidth(self._display, screen), x11.XDisplayHeight(self._display, screen))

    def tell_own_windows_mapped(self) -> None:
        """Tells this process's windows that they are on the screen, as the server did when they appeared.

        The Qt inside OpenCV's wheels now and then loses that event (one window in five under Xvfb), and then never
        paints into the window. Hearing it twice does no harm.
        """
        before = self._x11.XSetErrorHandler(_ignore_errors)  # windows of others may go while they are looked at
        try:
            pid_atom = self._x11.XInternAtom(self._display, b"_NET_WM_PID", 0)
            for window in self._windows(self._x11.XDefaultRootWindow(self._display), _FRAME_DEPTH):
                if self._cardinal(window, pid_atom) == os.getpid():
                    event = _MapEvent(type=_MAP_NOTIFY, event=window, window=window)
                    destination, mask = ctypes.c_ulong(window), ctypes.c_long(_STRUCTURE_NOTIFY_MASK)
                    self._x11.XSendEvent(self._display, destination, 0, mask, ctypes.byref(event))
            self._x11.XSync(self._display, 0)
        finally:
            self._x11.XSetErrorHandler(before)

    def _windows(self, parent: int, depth: int) -> Iterator[int]:
        ignored, count = ctypes.c_ulong(), ctypes.c_uint()
        children = ctypes.POINTER(ctypes.c_ulong)()
        self._x11.XQueryTree(
            self._display,
            ctypes.c_ulong(parent),
            ctypes.byref(ignored),
            ctypes.byref(ignored),
            ctypes.byref(children),
            ctypes.byref(count),
        )
        found = children[: count.value] if children else []
        if children:
            self._x11.XFree(children)
        for window in found:
            yield window
            if depth > 1:
                yield from self._windows(window, depth - 1)

    def _cardinal(self, window: int, atom: int) -> int | None:
        kind, form = ctypes.c_ulong(), ctypes.c_int()
        count, left = ctypes.c_ulong(), ctypes.c_ulong()
        value = ctypes.POINTER(ctypes.c_ulong)()
        self._x11.XGetWindowProperty(
            self._display,
            ctypes.c_ulong(window),
            ctypes.c_ulong(atom),
            ctypes.c_long(0),
            ctypes.c_long(1),
            0,
            ctypes.c_ulong(0),  # AnyPropertyType
            ctypes.byref(kind),
            ctypes.byref(form),
            ctypes.byref(count),
            ctypes.byref(left),
            ctypes.byref(value),
        )
        if not value:
            return None
        number = value[0] if form.value == _CARDINAL_32 and count.value else None
        self._x11.XFree(value)
        return number


@lru_cache(maxsize=4)
def x11_display(name: str) -> X11Display | None:
    """Returns the connection to the X server of that name, or None if it doesn't answer."""
    try:
        return X11Display(name)
    except OSError:
        return None
