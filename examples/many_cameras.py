"""Many sources, one detector: python examples/many_cameras.py front=rtsp://camera/1 yard=rtsp://camera/2

Each source has its own queue, counters and output; one that fails ends alone. A third is added while the run goes on.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from streamer import Pipeline, StreamSpec, open_detector, open_sink, open_source


def main(arguments: list[str]) -> None:
    """Writes JSON lines of each source into a folder and prints the counters."""
    folder = Path(tempfile.mkdtemp())

    def stream(argument: str) -> StreamSpec:
        name, _, uri = argument.partition("=")
        source = open_source(uri, name=name)
        sink = open_sink(f"{folder}/{name}.jsonl", source.info, labels=detector.labels)
        return StreamSpec(source, [(f"{name}.jsonl", sink)])

    with open_detector("nanodet-g_416", batch="auto", streams=len(arguments)) as detector:
        pipeline = Pipeline([stream(argument) for argument in arguments], detector)
        with pipeline.expecting():  # the run doesn't end before the third source has come
            late = threading.Timer(1.0, lambda: pipeline.add(stream("late=sample")))
            late.start()
            runner = threading.Thread(target=pipeline.run)
            runner.start()
            late.join()
        runner.join()
    for source in pipeline.report().sources:
        print(f"{source.name}: {source.frames_processed} frames, {source.frames_dropped} dropped")
    print(folder)


if __name__ == "__main__":
    main(sys.argv[1:] or ["a=sample", "b=sample"])
