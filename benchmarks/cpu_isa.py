"""``python -m benchmarks.cpu_isa``: what INT8 brings on each instruction set of this processor.

OpenVINO's oneDNN uses no newer instructions than ``ONEDNN_MAX_CPU_ISA`` says, read once a process; so each set is
measured in processes of its own, in turns. ONNX Runtime has no such setting and always uses all that the processor has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from statistics import median

from benchmarks.machine import machine_line
from benchmarks.options import positive
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import open_detector
from streamer.sources import open_source

PAIR = ("nanodet-g_416_float", "nanodet-g_416")
INSTRUCTION_SETS = ("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "DEFAULT")
_NAMES = {"DEFAULT": "all of this processor"}
_WARM_UP = 5

Key = tuple[str, str, int, str]
"""Engine, instruction set, threads, model."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    options = _parser().parse_args(arguments)
    if options.measure:
        engine, model, threads, frames = json.loads(options.measure)
        print(measure(engine, model, threads, frames))
        return 0
    runs = [("openvino", isa) for isa in INSTRUCTION_SETS] + [("onnxruntime", "DEFAULT")]
    found: dict[Key, list[float]] = {}
    try:
        for _ in range(options.rounds):
            for engine, isa in runs:
                for threads in options.threads:
                    for model in PAIR:
                        taken_ms = _in_process(engine, isa, threads, model, options.frames)
                        found.setdefault((engine, isa, threads, model), []).append(taken_ms)
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    medians = {key: median(values) for key, values in found.items()}
    print(table(medians, options.threads))
    print(f"\nMedian ms of the network for one frame of the packaged clip, {options.rounds} turns. {machine_line()}.")
    return 0


def measure(engine: str, model: str, threads: int, frames: int) -> float:
    """Returns the median ms that an engine takes for a frame of the packaged clip, one at a time."""
    taken = []
    with (
        open_detector(
            model, engine=engine, device="cpu", precision="f32", depth=1, threads=threads, self_check=False
        ) as detector,
        open_source("sample") as source,
    ):
        for frame in islice(source, frames + _WARM_UP):
            detector.submit(frame)
            taken.append(detector.collect()[2].inference_ms)
    return median(taken[_WARM_UP:])


def table(medians: dict[Key, float], threads: Sequence[int]) -> str:
    """Returns the table: a row for each engine and instruction set."""
    rows = []
    for engine, isa in dict.fromkeys(key[:2] for key in medians):
        row = [f"{engine}, {_NAMES.get(isa, isa)}"]
        for count in threads:
            float_ms, int8_ms = (medians[engine, isa, count, model] for model in PAIR)
            row += [f"{float_ms:.1f}", f"{int8_ms:.1f}", f"{float_ms / int8_ms:.2f}"]
        rows.append(row)
    head = ["engine, instructions"]
    for count in threads:
        head += [f"FP32 ms, {count} threads", f"INT8 ms, {count}", "times"]
    return markdown_table(head, rows)


def _in_process(engine: str, isa: str, threads: int, model: str, frames: int) -> float:
    """Measures in a process that may use these instructions."""
    what = json.dumps([engine, model, threads, frames])
    command = [sys.executable, "-m", "benchmarks.cpu_isa", "--measure", what]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    taken = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or f"status {done.returncode}").splitlines()
        raise StreamerError(f"{engine} with {isa} failed after {time.perf_counter() - taken:.0f} s: {lines[-1]}")
    return float(done.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_isa", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--frames", type=positive, default=60, help="to measure in each process (default: 60)")
    parser.add_argument("--rounds", type=positive, default=3, help="turns (default: 3)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
