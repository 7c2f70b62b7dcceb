"""``python -m tests.lose_gpu FOLDER SECONDS LOSE_AFTER SOURCE...``: a run on two GPUs, of which the second fails.

A kernel that writes to an invalid address loses the GPU's context, which nothing brings back: hence a process of its
own. The last line printed is JSON: the exit status, the failure, and each source's longest time without a new frame.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from streamer.app import run as app
from streamer.app.config import read_config
from streamer.common.errors import StreamerError
from streamer.cuda.gpu import Gpu
from streamer.runtime.pipeline import Pipeline

_PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry crash()
{
    .reg .u64 %address;
    .reg .u32 %value;
    mov.u64 %address, 16;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}
\0"""


def lose(index: int) -> None:
    """Loses a GPU's context, as a kernel that crashes does."""
    import pycuda.driver as drv

    gpu = Gpu(index)
    with contextlib.suppress(Exception), gpu.active():
        crash = drv.module_from_buffer(_PTX).get_function("crash")
        crash(block=(1, 1, 1), grid=(1, 1))
        drv.Context.synchronize()
        raise AssertionError("the kernel was to crash")


class Watch:
    """Loses GPU 1 in time, and notes each source's longest time without a new frame."""

    def __init__(self, lose_after_s: float) -> None:
        self.lose_after_s, self.began_s = lose_after_s, time.perf_counter()
        self.is_lost = False
        self.longest_s: dict[str, float] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def __call__(self, pipeline: Pipeline) -> None:
        now_s = time.perf_counter()
        for stream in pipeline.streams:
            processed, at_s = self._last.get(stream.name, (0, now_s))
            if stream.stats.processed == processed:
                self.longest_s[stream.name] = max(self.longest_s.get(stream.name, 0.0), now_s - at_s)
            else:
                at_s = now_s
            self._last[stream.name] = (stream.stats.processed, at_s)
        if not self.is_lost and now_s - self.began_s > self.lose_after_s:
            self.is_lost = True
            lose(1)


def main(folder: str, seconds: str, lose_after: str, *sources: str) -> int:
    """Runs the sources at their own pace."""
    options: dict[str, Any] = {
        "source": [f"s{number}={uri}" for number, uri in enumerate(sources)],
        "output": [f"{folder}/{{source}}.jsonl"],
        "device": "cuda:0,cuda:1",
        "engine": "torch",
        "model": "nanodet-g_416_float",
        "pace": "source",
        "decode": "gpu",
        "duration": float(seconds),
        "report": f"{folder}/report.json",
    }
    watch, error = Watch(float(lose_after)), ""
    status = 0
    try:
        app.run(read_config(None, options), watch)
    except StreamerError as failed:
        status, error = failed.exit_code, str(failed)
    report = json.loads(Path(folder, "report.json").read_text())
    found = {"status": status, "error": error, "longest_s": watch.longest_s, "report": report}
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    import os

    main(*sys.argv[1:])
    os._exit(0)  # what belongs to the lost GPU can't be freed
