"""An output of your own in the threaded pipeline: prints a line when the number of people changes."""

from __future__ import annotations

import sys

from streamer import Detections, Frame, Pipeline, Sink, StreamSpec, open_detector, open_source


class PeopleCounter(Sink):
    """Prints when the number of people in view changes. It draws nothing, so the pipeline doesn't draw either."""

    needs_pixels = False

    def __init__(self) -> None:
        self._last = -1

    def write(self, frame: Frame, detections: Detections) -> None:
        people = len(detections.filter(classes="person"))
        if people != self._last:
            print(f"{frame.pts_s:7.2f} s: {people} people")
            self._last = people

    def close(self) -> None:
        print("done")


def main(uri: str) -> None:
    """Runs one source into the counter."""
    with open_detector("nanodet-g_416") as detector:
        source = open_source(uri)
        report = Pipeline([StreamSpec(source, [("people", PeopleCounter())])], detector).run()
    print(report.summary())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
