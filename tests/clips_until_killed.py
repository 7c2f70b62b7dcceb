"""Writes clips of a film over and over into a folder until the process is killed: ``python -m ... FILM FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from streamer.common.queues import OverflowPolicy
from streamer.frames.detections import Detections
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.sink import ClipSink
from streamer.sinks.clips.timing import ClipTiming
from streamer.sinks.clips.trigger import LabelTrigger
from streamer.sinks.paths import OutputPaths
from streamer.sources import SourceOptions, open_source

KEPT = SourceOptions(kept_packets_s=70.0, overflow_policy=OverflowPolicy.BLOCK)
PERIOD, LENGTH = 90, 45  # frames from event to event, and of each


def main(film: str, folder: Path) -> None:
    """Has an object come every three seconds, larger and larger, so that pictures are replaced."""
    with ClipFolder(folder, paths=OutputPaths()) as opened:
        print("begun", flush=True)
        while True:
            with open_source(film, options=KEPT) as source, ClipSink(
                opened, source.info, labels=("cat",), trigger=LabelTrigger(("cat",), None, 2),
                timing=ClipTiming(0.5, 0.5, 1.5),
            ) as sink:  # fmt: skip
                for frame in source:
                    number = frame.index % PERIOD
                    box = np.array([[5, 5, 10 + number, 10 + number]], np.float32)[: number < LENGTH]
                    sink.write(frame, Detections(box, np.full(len(box), 0.9, np.float32), np.zeros(len(box), np.int64)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
