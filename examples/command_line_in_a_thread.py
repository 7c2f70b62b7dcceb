"""The whole program inside another: python examples/command_line_in_a_thread.py rtsp://camera/1

It records and writes JSON lines on a thread, until this program ends it; the outputs are finished properly.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from tempfile import mkdtemp

from streamer.app.cli import main
from streamer.common.interrupt import Interrupt


def record(uri: str, seconds: float) -> None:
    """Records a source for some seconds."""
    folder = Path(mkdtemp())
    interrupt = Interrupt()
    outputs = ["--output", f"{folder}/boxes.mp4", "--output", f"{folder}/boxes.jsonl"]
    arguments = [uri, "--pace", "source", "--timestamp", "local", *outputs]
    recorder = threading.Thread(target=main, args=(arguments, interrupt))
    recorder.start()
    time.sleep(seconds)
    interrupt.stop()
    recorder.join()
    print(*(f"{path.name}: {path.stat().st_size} bytes" for path in sorted(folder.iterdir())), sep="\n")


if __name__ == "__main__":
    record(sys.argv[1] if len(sys.argv) > 1 else "sample", 8.0)
