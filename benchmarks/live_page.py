"""``python -m benchmarks.live_page``: what viewers cost, how late pictures are in a browser, where their boxes are.

One simulated RTSP camera on loopback, 1280x720, its pictures encoded beforehand and sent when they are due, in its own
process. Lag is from the moment at which the camera sends a picture to that at which headless Chromium shows it, read
from the pixels; Chromium decodes and draws on the same cores. Boxes are compared with pixels of the same screenshot.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.page_camera import DueCamera
from benchmarks.page_cost import Boxes, Lag, ViewerCost, measure_boxes, measure_lag, measure_viewers
from benchmarks.page_peer import measure_hls
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError

FPS, BOX_FPS = 30, 15
DETECT_EVERY = 6
COUNTS = (1, 10)
MOST_TIMES = 1.3
WANTED_MS = {"mse": 400.0, "mjpeg": 250.0, "webrtc": 300.0}
WANTED_PICTURES = 1.0
_NAMES = {"mse": "fMP4", "mjpeg": "MJPEG", "webrtc": "WebRTC"}
_PARTS = ("viewers", "lag", "boxes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; returns the exit status: 0 done, 1 failed. Missing what is wanted is no failure."""
    options = _parser().parse_args(arguments)
    if options.smoke:
        options.warm_up, options.seconds, options.rounds, options.screenshots = 1, 2, 1, 8
    machine, described = machine_line(), describe_machine()
    figures: dict[str, Any] = {"machine": described}
    texts: dict[str, str] = {}
    try:
        with DueCamera(FPS) as camera:
            if "viewers" in options.parts:
                viewers = measure_viewers(
                    camera, COUNTS, options.warm_up, options.seconds, options.rounds, DETECT_EVERY
                )  # fmt: skip
                figures["viewers"], texts["viewers"] = [asdict(each) for each in viewers], report_viewers(viewers)
            if "lag" in options.parts:
                lags = measure_lag(camera, options.modes, options.warm_up, options.seconds, DETECT_EVERY)
                hls_s = measure_hls(camera, 2 if options.smoke else 10)
                figures["lag"], figures["hls_s"] = [asdict(each) for each in lags], hls_s
                texts["lag"] = report_lag(lags, hls_s)
        if "boxes" in options.parts:
            modes = [mode for mode in options.modes if mode != "mjpeg"]  # whose boxes are in the picture
            with DueCamera(BOX_FPS) as camera:
                boxes = measure_boxes(camera, modes, options.warm_up, options.screenshots)
            figures["boxes"], texts["boxes"] = [asdict(each) for each in boxes], report_boxes(boxes)
    except (StreamerError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n\n".join([*texts.values(), machine]))
    write_results(
        options, figures, {f"benchmarks.live_page {name}": f"{text}\n\n{machine}." for name, text in texts.items()}
    )
    return 0


def report_viewers(found: Sequence[ViewerCost]) -> str:
    """Returns the table and what was wanted."""
    none = next(each.median for each in found if not each.viewers)
    rows = [
        [
            "none" if not each.viewers else _NAMES[each.kind], str(each.viewers), f"{each.median:.0f}",
            f"{min(each.ms_a_s):.0f} to {max(each.ms_a_s):.0f}", f"{each.median / none:.2f}",
        ]
        for each in found
    ]  # fmt: skip
    most = next((each.median / none for each in found if (each.kind, each.viewers) == ("mse", COUNTS[-1])), None)
    lines = [
        f"The whole program, which detects {FPS // DETECT_EVERY} of {FPS} pictures a second, with viewers that read and"
        " don't decode, in another process. Motion JPEG is encoded once for all, at most 15 a second.",
        markdown_table(("watch by", "viewers", "CPU ms/s", "of all rounds", "times none"), rows),
    ]
    if most is not None:
        reached = "reached" if most <= MOST_TIMES else "missed"
        lines.append(f"{COUNTS[-1]} viewers of fMP4: {most:.2f} times none, wanted {MOST_TIMES}: {reached}.")
    return "\n\n".join(lines)


def report_lag(found: Sequence[Lag], hls_s: Sequence[float] | None) -> str:
    """Returns the table, the bound, the rival and what was wanted; `hls_s` is as of `measure_hls`."""
    peer = (
        "ffmpeg isn't installed" if hls_s is None else f"at least {median(hls_s) * 1e3:.0f} ms ({len(hls_s)} segments)"
    )
    rows = []
    for each in found:
        p95 = each.percentile_ms(95)
        rows.append(
            [
                _NAMES[each.mode], str(len(each.ages_s)), f"{each.percentile_ms(50):.0f}", f"{p95:.0f}",
                f"{WANTED_MS[each.mode]:.0f}", "reached" if p95 <= WANTED_MS[each.mode] else "missed",
            ]
        )  # fmt: skip
    head = ("plays by", "pictures", "p50 ms", "p95 ms", "wanted p95", "")
    return "\n\n".join(
        [
            f"From the camera's sending to the screen, {FPS} pictures a second.",
            markdown_table(head, rows),
            f"Bound: FFmpeg's parser gives a picture when the next one begins, {1000 / FPS:.0f} ms; the browser shows "
            "it with its next frame, up to 17 ms. Motion JPEG shows processed frames, 15 a second: up to 67 ms more. "
            f"Rival: HLS by `ffmpeg -c copy` of the same camera, whose key frames are 2 s apart: {peer}, as a segment "
            "is offered once it is whole.",
        ]
    )


def report_boxes(found: Sequence[Boxes]) -> str:
    """Returns how far boxes are from their pictures, and what was wanted."""
    rows = [
        [
            _NAMES[each.mode], str(len(each.off_pictures)), f"{median(each.off_pictures):+.2f}",
            f"{each.p95:.2f}", f"{max(map(abs, each.off_pictures)):.2f}",
            "reached" if each.p95 <= WANTED_PICTURES else "missed",
        ]
        for each in found
    ]  # fmt: skip
    head = ("plays by", "screenshots", "median, pictures behind", "p95 of distance", "most", "")
    return "\n\n".join(
        [
            f"Boxes that the page draws beside what is under them in the same screenshot, {BOX_FPS} pictures a second, "
            f"each detected; wanted within {WANTED_PICTURES:g} picture.",
            markdown_table(head, rows),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = results_parser("benchmarks.live_page", __doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="PART", help="default: all")
    parser.add_argument("--modes", nargs="+", choices=list(_NAMES), default=list(_NAMES), help="default: all")
    parser.add_argument("--warm-up", type=positive, default=8, help="seconds before each is measured (default: 8)")
    parser.add_argument("--seconds", type=positive, default=30, help="of each measurement (default: 30)")
    parser.add_argument("--rounds", type=positive, default=3, help="of each number of viewers (default: 3)")
    parser.add_argument("--screenshots", type=positive, default=100, help="of each mode (default: 100)")
    parser.add_argument("--smoke", action="store_true", help="seconds only, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
