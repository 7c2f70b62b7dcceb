"""Viewers without a browser for ``benchmarks.live_page``: they read what a browser is sent, and decode nothing.

``python -m benchmarks.page_viewers ADDRESS NAME COUNT KIND`` runs until it is ended.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import httpx
from websockets.sync.client import connect
from websockets.typing import Origin


def main(arguments: Sequence[str]) -> int:
    """Connects the viewers and reads until the process ends; prints "watching" once each has a picture."""
    address, name, count, kind = arguments
    ready = threading.Barrier(int(count) + 1)
    watch = {"mse": _by_socket, "mjpeg": _by_jpeg}[kind]
    for _ in range(int(count)):
        threading.Thread(target=watch, args=(address, name, ready), daemon=True).start()
    ready.wait()
    print("watching", flush=True)
    threading.Event().wait()
    return 0


def _by_socket(address: str, name: str, ready: threading.Barrier) -> None:
    url = f"{address.replace('http', 'ws', 1)}/api/streams/{name}/live?view=plain&codecs=avc1"
    with connect(url, origin=Origin(address), compression=None, max_size=None) as socket:
        is_ready = False
        for message in socket:
            if not is_ready and isinstance(message, bytes):
                is_ready = True
                ready.wait()


def _by_jpeg(address: str, name: str, ready: threading.Barrier) -> None:
    with httpx.stream("GET", f"{address}/api/streams/{name}/live.mjpg?fps=15", timeout=None) as answer:
        parts = answer.iter_raw()
        next(parts)
        ready.wait()
        for _ in parts:
            pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
