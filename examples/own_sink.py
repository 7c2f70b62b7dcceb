"""An output of your own in the threaded pipeline: prints a line when the number of people changes."""

from __future__ import annotations

import sys

from streamer import Detections, Frame, Pipeline, Sink, StreamSpec, open_detector, open_source


class PeopleCounter(Sink):
    """Prints when the number of people in view changes. It draws nothing, so the pipeline doesn't draw either."""

    needs_pixels = False

    def __init__(self, person: int) -> None:
        self._person, self._last = person, -1

    def write(self, frame: Frame, detections: Detections) -> None:
        people = int((detections.class_ids == self._person).sum())
        if people != self._last:
            print(f"{frame.pts_s:7.2f} s: {people} people")
            self._last = people

    def close(self) -> None:
        print("done")


def main(uri: str) -> None:
    """Runs one source into the counter."""
    with open_detector("nanodet-g_416") as detector:
        source = open_source(uri)
        sink = PeopleCounter(detector.labels.index("person"))
        report = Pipeline([StreamSpec(source, [("people", sink)])], detector).run()
    print(report.summary())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
