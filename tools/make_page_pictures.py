"""Makes the pictures of docs/live-page.md from the packaged clip: python -m tools.make_page_pictures

Needs the package playwright, and Chromium; --chromium names another than /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import av
import numpy as np

FOLDER = Path(__file__).parent.parent / "docs" / "images"
_ROOT = FOLDER.parent.parent
SAMPLE = _ROOT / "streamer" / "data" / "sample.mp4"
_QUALITY = 82
_LOOPS = 60
_START_S = 300.0
_WAIT_MS = 300_000
_SHOWN = """() => { const players = [...document.querySelectorAll("live-player")];
  return players.every((each) => each.presented) && players.some((each) => each.presented.boxes.length); }"""


def _write_clip(path: Path) -> None:
    """Writes the packaged clip several times in a row, without encoding."""
    with av.open(str(SAMPLE)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        length = max((packet.pts or 0) + (packet.duration or 0) for packet in packets)
        for loop in range(_LOOPS):
            for packet in packets:
                later = length * (loop > 0)
                packet.pts, packet.dts = (packet.pts or 0) + later, (packet.dts or 0) + later
                packet.stream = copy
                out.mux(packet)


@contextmanager
def _page(folder: Path, clip: Path) -> Iterator[str]:
    """Runs the program with a page; yields its address."""
    sources = [f"{name}={clip}" for name in ("door", "yard")]
    kept = ["--record", "{source}.mp4", "--segment", "20s", "--clips", "clips", "--clip-on", "cat"]
    command = [sys.executable, "-m", "streamer", *sources, "--max-fps", "5", "--pace", "source", *kept]
    log = folder / "log.txt"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "-o", "http://127.0.0.1:0", "--no-progress"],
            cwd=folder,
            stderr=said,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        try:
            deadline_s = time.monotonic() + _START_S
            while not (found := re.search(r"live page: (http://\S+)", log.read_text())):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"the program doesn't serve a page: {log.read_text()}")
                time.sleep(0.1)
            yield found[1].rstrip("/")
        finally:
            process.terminate()
            process.wait()


def _take(browser: Any, url: str, name: str, size_wh: tuple[int, int], theme: Literal["light", "dark"]) -> None:
    width, height = size_wh
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme, locale="en-GB")
    page.set_default_timeout(_WAIT_MS)
    page.goto(url)
    if "recorded" in url:
        page.locator(".clip img").first.wait_for()
        page.wait_for_function("() => [...document.querySelectorAll('.clip img')].every((each) => each.complete)")
    else:
        page.wait_for_function(_SHOWN)
    picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None, "Chromium gives PNG"
    path = FOLDER / f"{name}.jpg"
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    print(path.name, path.stat().st_size // 1000, "kB")
    page.close()


def main() -> int:
    """Writes the pictures; returns the exit status."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description="Makes the pictures of docs/live-page.md.")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser")
    chromium = parser.parse_args().chromium
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        _write_clip(clip)
        with _page(folder, clip) as url, sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
            browser = playwright.chromium.launch(executable_path=chromium, args=[*flags, "--disable-sync"])
            _take(browser, f"{url}/#/", "page_grid", (1280, 800), "dark")
            _take(browser, f"{url}/#/stream/door", "page_stream", (1280, 900), "light")
            _take(browser, f"{url}/#/stream/door", "page_phone", (360, 740), "dark")
            _take(browser, f"{url}/#/recorded", "page_recorded", (1280, 700), "light")
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
