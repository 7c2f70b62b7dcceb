"""The live page in headless Chromium for ``benchmarks.live_page``: when which picture is shown, and where boxes are."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from benchmarks.page_camera import CODE_ROWS, SIZE_WH, person_xyxy
from streamer.common.errors import StreamerError
from tests.rtsp.code import number_and_ms, read_code

_PATIENCE_MS = 60_000
_CLOCK_TRIES = 20
_NEAR = 60  # of the boxes' colour, in the sum of three channels
_ROW_SHARE = 0.6
_SEE = """async ([rows, columns]) => {
  const player = document.querySelector("live-player");
  window.seen = [];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 60];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let last = "";
  const see = (source, width, height, at) => {
    if (!width) return;
    context.drawImage(source, 0, height * 5 / 6, width, height / 6, 0, 0, 640, 60);
    const pixels = context.getImageData(0, 0, 640, 60).data;
    let bits = "";
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        bits += +(pixels[((row * 15 + 7) * 640 + column * 32 + 16) * 4 + 1] > 128);
      }
    }
    if (bits !== last) window.seen.push([performance.timeOrigin + at, bits]);
    last = bits;
  };
  const frame = (_now, { expectedDisplayTime }) => {
    see(player.video, player.video.videoWidth, player.video.videoHeight, expectedDisplayTime);
    player.video.requestVideoFrameCallback(frame);
  };
  const poll = () => {
    see(player.image, player.image.naturalWidth, player.image.naturalHeight, performance.now());
    requestAnimationFrame(poll);
  };
  if (player.mode === "mjpeg") poll();
  else player.video.requestVideoFrameCallback(frame);
}"""


@dataclass(frozen=True)
class Shown:
    """A picture in the page.

    Attributes:
        number: the picture's.
        at_s: when it is on the screen, by `time.monotonic`; of motion JPEG when the page could draw it.
    """

    number: int
    at_s: float


@dataclass(frozen=True)
class BoxOffset:
    """A box and its picture in one screenshot.

    Attributes:
        number: the picture's.
        off_px: by how much the box's middle is to the right of the person's, in pixels of the picture.
    """

    number: int
    off_px: float


class Tab:
    """The page of one stream, in one mode."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._behind_s = self._clock()

    def shown(self, seconds: float) -> list[Shown]:
        """Returns the pictures of the next seconds, in the order in which they were shown."""
        self._page.evaluate("seen.length = 0")
        time.sleep(seconds)
        seen = self._page.evaluate("seen")
        codes = [(at_ms, number_and_ms([int(bit) for bit in bits])) for at_ms, bits in seen]
        return [Shown(code[0], at_ms / 1000 - self._behind_s) for at_ms, code in codes if code is not None]

    def boxes(self, count: int) -> list[BoxOffset]:
        """Takes screenshots; returns the offset of the box in each that shows one.

        Raises:
            StreamerError: if none does.
        """
        box = self._page.evaluate(
            "(() => { const { x, y, width, height } = document.querySelector('live-player').getBoundingClientRect();"
            " return { x, y, width, height }; })()"
        )
        colour = self._page.evaluate(
            "import('/assets/classes.js').then(({ colourOf }) => { const c = document.createElement('canvas')"
            ".getContext('2d'); c.fillStyle = colourOf(0); c.fillRect(0, 0, 1, 1);"
            " return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3); })"
        )
        shots = [self._page.screenshot(clip=box) for _ in range(count)]
        found = [offset for shot in shots if (offset := _offset(shot, colour)) is not None]
        if not found:
            raise StreamerError("no screenshot shows a picture with a box")
        return found

    def _clock(self) -> float:
        """Returns the page's clock minus `time.monotonic`, in seconds."""
        found = []
        for _ in range(_CLOCK_TRIES):
            before_s = time.monotonic()
            now_ms = self._page.evaluate("performance.timeOrigin + performance.now()")
            after_s = time.monotonic()
            found.append((after_s - before_s, now_ms / 1000 - (before_s + after_s) / 2))
        return min(found)[1]


@contextmanager
def watched(address: str, name: str, mode: str) -> Iterator[Tab]:
    """Opens the page of a stream in a browser of its own, until the block ends.

    Args:
        address: the page's.
        name: the stream's.
        mode: ``mse``, ``webrtc`` or ``mjpeg``.

    Raises:
        StreamerError: if there is no browser, or it shows no picture in that mode.
    """
    from playwright.sync_api import Error, sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise StreamerError("the live page is measured in Chromium: install the package chromium")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            context = browser.new_context(bypass_csp=True, viewport={"width": 1280, "height": 1000})
            preferences = json.dumps({"mode": mode, "boxes": True, "theme": "light", "language": "en"})
            context.add_init_script(f"localStorage.setItem('nanodet-streamer', {preferences!r})")
            page = context.new_page()
            page.goto(f"{address}/#/stream/{name}")
            has_picture = f"(() => {{ const p = document.querySelector('live-player'); return p?.mode === {mode!r} && "
            has_picture += "(p.video.videoWidth > 0 || p.image.naturalWidth > 0); })()"
            page.wait_for_function(has_picture, timeout=_PATIENCE_MS)
            page.evaluate(_SEE, [4, 20])
            yield Tab(page)
        except Error as error:
            raise StreamerError(f"the page shows no picture by {mode}: {error.message.splitlines()[0]}") from error
        finally:
            browser.close()


def _offset(shot: bytes, colour: list[int]) -> BoxOffset | None:
    """Returns where the box is beside the person; None where the number can't be read or there is no box."""
    image = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    height = round(image.shape[1] * SIZE_WH[1] / SIZE_WH[0])
    top = max(0, (image.shape[0] - height) // 2)
    picture = np.asarray(image[top : top + height], np.uint8)
    code = read_code(picture)
    if code is None:
        return None
    scale = picture.shape[1] / SIZE_WH[0]
    left, upper, right, lower = (side * scale for side in person_xyxy(code.number))
    rows = slice(round(upper + (lower - upper) * 0.35), round(upper + (lower - upper) * 0.75))
    distance = np.abs(picture[rows].astype(int) - np.array(colour[::-1])).sum(axis=2)
    columns = np.flatnonzero((distance < _NEAR).mean(axis=0) > _ROW_SHARE)
    if not len(columns) or columns[-1] - columns[0] < (right - left) / 2:
        return None
    return BoxOffset(code.number, float((columns[0] + columns[-1]) / 2 - (left + right) / 2) / scale)


assert SIZE_WH[1] == CODE_ROWS * 6, "the code is the lowest sixth"
