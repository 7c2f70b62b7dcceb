"""Trackers beside each other: HOTA, IDF1, ID switches and CPU time a frame, also with frames missing.

The packaged clip is detected once; each tracker then follows what was found in all frames, with 30 % of them dropped,
with every third detected, and at 5 frames a second. Its true boxes are in ``tests/data/sample_tracks.json``: one box
was drawn by hand for each object, and the clip's camera move, which is known, gives it in every frame.

    python -m benchmarks.tracking              # the packaged clip
    python -m benchmarks.tracking --frames 60  # a short run
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import machine_line
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sources import open_source
from streamer.tracking.options import TRACKERS
from streamer.tracking.tracker import Tracker

_TRUTH = Path(__file__).parent.parent / "tests" / "data" / "sample_tracks.json"
_FPS = 30
_CONF = 0.4

Found = list[tuple[Frame, Detections]]
Row = tuple[int, float, float, float, float]  # id, left, top, right, bottom


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="of the clip (default: 300)")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args(arguments)
    truth = json.loads(_TRUTH.read_text())
    try:
        found = detect(options.model, options.frames)
        rows = [
            [f"{name}, {what}", *measure(name, [found[index] for index in chosen], truth)]
            for what, chosen in choices(len(found)).items()
            for name in TRACKERS
        ]
    except (StreamerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{machine_line()}\n\n{len(found)} frames, conf {_CONF}, model {options.model}\n")
    print(markdown_table(["tracker, frames", "HOTA", "IDF1", "ID switches", "ids", "CPU us a frame"], rows))
    return 0


def choices(frames: int) -> dict[str, list[int]]:
    """Returns which frames are followed, by what is said of them."""
    is_dropped = np.random.default_rng(0).random(frames) < 0.3
    return {
        "all": list(range(frames)),
        "30 % dropped": [index for index in range(frames) if not is_dropped[index]],
        "every third": list(range(0, frames, 3)),
        "5 a second": list(range(0, frames, _FPS // 5)),
    }


def detect(model: str, frames: int) -> Found:
    """Returns the first frames of the packaged clip and all that a tracker needs of them."""
    with open_detector(model, conf=Tracker(conf=_CONF).lowest_conf) as detector, open_source("sample") as source:
        return list(detector.stream(itertools.islice(source, frames)))


def measure(name: str, found: Found, truth: dict[str, object]) -> list[str]:
    """Returns a row of the table: what a tracker makes of these frames."""
    from trackers.eval import evaluate_mot_sequence

    labels, boxes = truth["labels"], truth["frames"]
    assert isinstance(labels, dict) and isinstance(boxes, list)
    tracker, wanted = Tracker(name, conf=_CONF), set(labels.values())
    theirs: list[list[Row]] = []
    took_s = 0.0
    for frame, detections in found:
        began_s = time.process_time()
        tracked = tracker.update(frame, detections)
        took_s += time.process_time() - began_s
        theirs.append([(one.track_id, *one.box_xyxy) for one in tracked if one.track_id and one.label in wanted])
    with tempfile.TemporaryDirectory() as folder:
        true, tracks = Path(folder, "true.txt"), Path(folder, "tracks.txt")
        write_mot(true, [[tuple(row) for row in boxes[frame.index]] for frame, _ in found])
        write_mot(tracks, theirs)
        result = evaluate_mot_sequence(true, tracks, ["HOTA", "Identity", "CLEAR"])
    assert result.HOTA is not None and result.Identity is not None and result.CLEAR is not None
    ids = {row[0] for rows in theirs for row in rows}
    figures = [f"{result.HOTA.HOTA * 100:.1f}", f"{result.Identity.IDF1 * 100:.1f}", str(result.CLEAR.IDSW)]
    return [*figures, f"{len(ids)} of {len(labels)}", f"{took_s / len(found) * 1e6:.0f}"]


def write_mot(path: Path, frames: Sequence[Sequence[Row]]) -> None:
    """Writes boxes in the form of the MOT challenge, frames from 1 on."""
    lines = [
        f"{number},{of},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},1,1,1\n"
        for number, rows in enumerate(frames, 1)
        for of, left, top, right, bottom in rows
    ]
    path.write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main())
