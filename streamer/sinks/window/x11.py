"""The few Xlib calls that OpenCV's windows need on Linux, through ctypes.

Without `X11Display.resend_map_events` 3 of 10 windows on a bare X server (Xvfb, a kiosk without window manager) stay
blank: the Qt inside OpenCV's wheel misses the MapNotify event and never paints.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p
from functools import lru_cache

_MAP_NOTIFY, _STRUCTURE_NOTIFY_MASK = 19, 1 << 17  # Xlib's X.h
_ANY_PROPERTY_TYPE = 0
_MAX_DEPTH = 3  # window managers put windows into frames of their own

_ErrorHandler = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_ignore_errors = _ErrorHandler(lambda _display, _error: 0)
_SIGNATURES = {
    "XOpenDisplay": (c_void_p, [c_char_p]),
    "XDefaultRootWindow": (c_ulong, [c_void_p]),
    "XDefaultScreen": (c_int, [c_void_p]),
    "XDisplayWidth": (c_int, [c_void_p, c_int]),
    "XDisplayHeight": (c_int, [c_void_p, c_int]),
    "XInternAtom": (c_ulong, [c_void_p, c_char_p, c_int]),
    "XSetErrorHandler": (c_void_p, [c_void_p]),
    "XSendEvent": (c_int, [c_void_p, c_ulong, c_int, c_long, c_void_p]),
    "XSync": (c_int, [c_void_p, c_int]),
    "XFree": (c_int, [c_void_p]),
    "XQueryTree": (c_int, [c_void_p, c_ulong, c_void_p, c_void_p, c_void_p, c_void_p]),
    "XGetWindowProperty": (c_int, [c_void_p, c_ulong, c_ulong, c_long, c_long, c_int, c_ulong, *[c_void_p] * 5]),
}


class _MapEvent(ctypes.Structure):
    """XMapEvent of Xlib.h, padded to the size of the XEvent union."""

    _fields_ = (
        ("type", c_int),
        ("serial", c_ulong),
        ("send_event", c_int),
        ("display", c_void_p),
        ("event", c_ulong),
        ("window", c_ulong),
        ("override_redirect", c_int),
        ("padding", c_long * 24),
    )


class X11Display:
    """A connection to an X server, for the main thread.

    It is never closed: a bare X server resets when its last client leaves, closing windows that open meanwhile.

    Attributes:
        screen_wh: the screen's width and height in pixels.
    """

    def __init__(self, name: str) -> None:
        """Connects as the GUI library will, authorisation included.

        Raises:
            OSError: if there is no Xlib, or the server doesn't accept the connection.
        """
        self._x11 = ctypes.CDLL("libX11.so.6")
        for function, (result, arguments) in _SIGNATURES.items():
            getattr(self._x11, function).restype = result
            getattr(self._x11, function).argtypes = arguments
        self._display = self._x11.XOpenDisplay(os.fsencode(name))
        if not self._display:
            raise OSError(f"no X server answers at {name}")
        screen = self._x11.XDefaultScreen(self._display)
        self.screen_wh = (
            self._x11.XDisplayWidth(self._display, screen),
            self._x11.XDisplayHeight(self._display, screen),
        )

    def resend_map_events(self) -> None:
        """Sends MapNotify to this process's windows again; receiving it twice does no harm."""
        before = self._x11.XSetErrorHandler(_ignore_errors)  # other windows may close meanwhile
        try:
            pid_atom = self._x11.XInternAtom(self._display, b"_NET_WM_PID", 0)
            for window in self._windows(self._x11.XDefaultRootWindow(self._display), _MAX_DEPTH):
                if self._property(window, pid_atom) == os.getpid():
                    event = _MapEvent(type=_MAP_NOTIFY, event=window, window=window)
                    self._x11.XSendEvent(self._display, window, 0, _STRUCTURE_NOTIFY_MASK, byref(event))
            self._x11.XSync(self._display, 0)
        finally:
            self._x11.XSetErrorHandler(before)

    def _windows(self, parent: int, depth: int) -> Iterator[int]:
        unused, count, children = c_ulong(), c_uint(), POINTER(c_ulong)()
        self._x11.XQueryTree(self._display, parent, byref(unused), byref(unused), byref(children), byref(count))
        found = children[: count.value] if children else []
        if children:
            self._x11.XFree(children)
        for window in found:
            yield window
            if depth > 1:
                yield from self._windows(window, depth - 1)

    def _property(self, window: int, atom: int) -> int | None:
        """Returns a window's property of one 32-bit number, None if it has none."""
        kind, count, left, bits, value = c_ulong(), c_ulong(), c_ulong(), c_int(), POINTER(c_ulong)()
        found = byref(kind), byref(bits), byref(count), byref(left), byref(value)
        self._x11.XGetWindowProperty(self._display, window, atom, 0, 1, 0, _ANY_PROPERTY_TYPE, *found)
        if not value:
            return None
        number = value[0] if bits.value == 32 and count.value else None
        self._x11.XFree(value)
        return number


@lru_cache(maxsize=4)
def x11_display(name: str) -> X11Display | None:
    """Returns the connection to the X server `name`, None if it doesn't answer."""
    try:
        return X11Display(name)
    except OSError:
        return None
