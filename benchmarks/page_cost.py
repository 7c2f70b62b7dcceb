"""Part "viewers" of ``benchmarks.live_page``: what viewers of one stream cost the program, and lag in a browser."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import httpx
import numpy as np

from benchmarks.page_camera import STEP_PX, DueCamera, direction_of
from benchmarks.page_tab import BoxOffset, watched
from benchmarks.program import STREAMER, Program
from streamer.common.errors import StreamerError

NAME = "door"
_PATIENCE_S = 60.0


@dataclass
class ViewerCost:
    """What some viewers cost.

    Attributes:
        kind: how they watch: ``mse`` or ``mjpeg``.
        viewers: how many.
        ms_a_s: processor milliseconds of the program a second, round by round.
    """

    kind: str
    viewers: int
    ms_a_s: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of `ms_a_s`."""
        return median(self.ms_a_s)


@dataclass(frozen=True)
class Lag:
    """How old pictures are that the page shows.

    Attributes:
        mode: how it plays.
        ages_s: of each picture, from when the camera sent it to when it was shown.
    """

    mode: str
    ages_s: list[float]

    def percentile_ms(self, share: float) -> float:
        """Returns a percentile of the ages in milliseconds."""
        return float(np.percentile(self.ages_s, share)) * 1e3


@dataclass(frozen=True)
class Boxes:
    """By how many pictures boxes are off, positive where they are behind.

    Attributes:
        mode: how the page plays.
        off_pictures: in each screenshot.
    """

    mode: str
    off_pictures: list[float]

    @property
    def p95(self) -> float:
        """The 95th percentile of the distance, whatever its sign."""
        return float(np.percentile(np.abs(self.off_pictures), 95))


@contextmanager
def serving(camera: DueCamera, *, detect_every: int) -> Iterator[tuple[Program, str]]:
    """Runs the program with the camera on a live page; yields it and the page's address once it shows pictures.

    Raises:
        StreamerError: if it fails, or shows none within a minute.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [*STREAMER, "--source", f"{NAME}={camera.url}", "--output", address, "--no-progress"]
    with Program([*command, "--detect-every", str(detect_every)]) as program:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _has_picture(address):
            program.cost()
            if time.monotonic() > deadline_s:
                raise StreamerError(f"the page shows nothing: {program.said.strip()[-300:]}")
            time.sleep(0.1)
        yield program, address


def _has_picture(address: str) -> bool:
    try:
        return httpx.get(f"{address}/api/streams/{NAME}/snapshot.jpg", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def measure_viewers(
    camera: DueCamera, counts: Sequence[int], warm_up_s: float, seconds: float, rounds: int, detect_every: int
) -> list[ViewerCost]:
    """Runs the program once, and numbers of viewers in turns; see `ViewerCost`.

    Raises:
        StreamerError: if the program or the viewers fail.
    """
    found = [ViewerCost("mse", 0)]
    found += [ViewerCost(kind, count) for kind in ("mse", "mjpeg") for count in counts]
    with serving(camera, detect_every=detect_every) as (program, address):
        program.steady(warm_up_s, 0.1)
        for _ in range(rounds):
            for each in found:
                if not each.viewers:
                    each.ms_a_s.append(program.steady(0, seconds).ms_a_s)
                    continue
                command = [sys.executable, "-m", "benchmarks.page_viewers", address, NAME, str(each.viewers), each.kind]
                with Program(command) as viewers:
                    _await_watching(viewers)
                    each.ms_a_s.append(program.steady(0, seconds).ms_a_s)
                    viewers.cost()
    return found


def _await_watching(viewers: Program) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while "watching" not in viewers.said:
        viewers.cost()
        if time.monotonic() > deadline_s:
            raise StreamerError(f"the viewers get no picture: {viewers.said.strip()[-300:]}")
        time.sleep(0.05)
    time.sleep(1.0)  # the pictures since the last key frame


def measure_lag(
    camera: DueCamera, modes: Sequence[str], warm_up_s: float, seconds: float, detect_every: int
) -> list[Lag]:
    """Watches the page in each mode, one after another.

    Raises:
        StreamerError: if the program fails, or the page shows nothing.
    """
    found = []
    with serving(camera, detect_every=detect_every) as (_, address):
        for mode in modes:
            with watched(address, NAME, mode) as tab:
                time.sleep(warm_up_s)
                shown = tab.shown(seconds)
            if not shown:
                raise StreamerError(f"no picture that was shown by {mode} could be read")
            found.append(Lag(mode, [camera.age_s(each.number, each.at_s) for each in shown]))
    return found


def measure_boxes(camera: DueCamera, modes: Sequence[str], warm_up_s: float, count: int) -> list[Boxes]:
    """Takes screenshots of the page in each mode, every picture detected.

    Raises:
        StreamerError: if the program fails, or there are no boxes.
    """
    found = []
    with serving(camera, detect_every=1) as (_, address):
        for mode in modes:
            with watched(address, NAME, mode) as tab:
                time.sleep(warm_up_s)
                found.append(Boxes(mode, off_pictures(tab.boxes(count))))
    return found


def off_pictures(offsets: Sequence[BoxOffset]) -> list[float]:
    """Returns by how many pictures each box is behind its own, negative where it is ahead.

    The detector's box is to one side of the person by a constant: the middle between the medians of both directions.
    """
    to_the_right = [each.off_px for each in offsets if direction_of(each.number) > 0]
    to_the_left = [each.off_px for each in offsets if direction_of(each.number) < 0]
    medians = [median(side) for side in (to_the_right, to_the_left) if side]
    constant = sum(medians) / len(medians)
    return [(constant - each.off_px) * direction_of(each.number) / STEP_PX for each in offsets]
