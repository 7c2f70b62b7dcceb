"""Chromium, and the program with a live page in a process of its own, for the tests of what a person sees."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2  # noqa: F401 - before PyAV
import av
import pytest

from streamer import open_source
from tests.fakes import wait_for
from tests.rtsp.film import CLOCK_HZ, CODECS

CHROMIUM = Path("/usr/bin/chromium")
WAIT_MS = 300_000
SIZE_WH, FPS = (640, 360), 10
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_ROOT = Path(__file__).parent.parent

needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or not CHROMIUM.exists(),
    reason=f"needs the package playwright, and Chromium at {CHROMIUM}",
)


@dataclass
class Program:
    """A run of the program with a live page.

    Attributes:
        url: of the page, without a slash at its end.
        process: the program's.
    """

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def program(folder: Path, *arguments: str) -> Iterator[Program]:
    """Runs the program in a folder, with a page on a free port; waits until it detects."""
    command = [sys.executable, "-m", "streamer", *arguments, "-o", "http://127.0.0.1:0", "--no-progress"]
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": path}
        )
        try:
            found: list[str] = []

            def is_served() -> bool:
                said.seek(0)
                text = said.read().decode(errors="replace")
                assert process.poll() is None, text
                found.extend(re.findall(r"live page: (http://\S+)", text))
                return bool(found) and "precision" in text  # of the engine: frames are detected from now on

            wait_for(is_served, WAIT_MS / 1000)
            yield Program(found[0].rstrip("/"), process)
        finally:
            process.terminate()
            process.wait(60)


@dataclass
class Seen:
    """What a page's browser complained of, and where it went.

    Attributes:
        problems: messages of the console, errors of scripts.
        urls: of all requests.
        messages: of WebSockets, as text.
    """

    problems: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        """Notes what happens on a page of Playwright from now on."""
        page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("websocket", self._watch_socket)

    def _watch_socket(self, socket: Any) -> None:
        self.urls.append(socket.url)
        socket.on("framereceived", lambda data: isinstance(data, str) and self.messages.append(data))

    def assert_well(self, url: str) -> None:
        """Fails if the browser complained, or asked another host."""
        assert not self.problems, self.problems
        own = url.split("//")[1]
        foreign = [each for each in self.urls if not re.match(rf"(http|ws)://{re.escape(own)}/|(blob|data):", each)]
        assert not foreign, foreign


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[tuple[Any, Seen]]:
    """Opens a page in a fresh profile; its time-outs are generous."""
    context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(WAIT_MS)
    page, seen = context.new_page(), Seen()
    seen.watch(page)
    try:
        page.goto(url, timeout=WAIT_MS)
        yield page, seen
    finally:
        context.close()


def sample_footage(seconds: float = 4.0) -> list[bytes]:
    """Returns the packaged clip's beginning as a camera's coded pictures: small, a key frame each second."""
    encoder = CODECS["h264"].open_encoder(SIZE_WH, FPS, FPS)
    packets = []
    with open_source("sample") as source:
        for frame in source:
            if frame.pts_s >= seconds:
                break
            if frame.index % (30 // FPS):
                continue
            picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24").reformat(
                *SIZE_WH, format="yuv420p", threads=1
            )
            picture.pts = frame.index // (30 // FPS) * (CLOCK_HZ // FPS)
            picture.time_base = Fraction(1, CLOCK_HZ)
            packets += encoder.encode(picture)
    return [bytes(packet) for packet in [*packets, *encoder.encode(None)]]
