"""``python -m benchmarks.recovery``: a camera that is killed, frozen and restarted 200 times, and what that leaves."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.process import Holdings, holdings
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sources import SourceOptions, open_source
from tests.rtsp.camera import Camera
from tests.rtsp.code import CodeSink

_STALL_S = 1.0
_HANG_S = 20.0
_WARM_UP = 10  # cycles before memory is held against
_SAMPLES = 10
_WANTED_GROWTH = 0.02
_WANTED_S = 2.0
_LONG_S = 70.0
_WANTED_AFTER_LONG_S = 10.0
_FAULTS = ("killed", "frozen")


@dataclass(frozen=True)
class Cycle:
    """One fault: its kind, how long the camera was away after the loss was noticed, and how long it took to return.

    `noticed_s` runs from the fault to the source's own word, `recovered_s` from the camera's return to the first
    picture shown that was drawn after it.
    """

    fault: str
    away_s: float
    noticed_s: float
    recovered_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed or a recovery hung."""
    options = _parser().parse_args(arguments)
    try:
        cycles, held, ends = run(6 if options.smoke else options.cycles, long_outages=not options.smoke)
    except (StreamerError, RuntimeError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = report(cycles, held, ends)
    print(text)
    figures = {
        "machine": describe_machine(),
        "cycles": [asdict(cycle) for cycle in cycles],
        "held": {number: asdict(held_then) for number, held_then in held.items()},
    }
    write_results(options, figures, {"benchmarks.recovery": text})
    return 0


def run(count: int, *, long_outages: bool) -> tuple[list[Cycle], dict[int, Holdings], tuple[Holdings, Holdings]]:
    """Runs the pipeline through `count` short outages, and then two long ones if wanted.

    Returns:
        The cycles; what the process held after some of them, by number; what it held before the source was opened and
        after the run.

    Raises:
        TimeoutError: if a recovery hangs.
        StreamerError: if the run fails.
    """
    dice = random.Random(1)
    sink, failed = CodeSink(), []
    cycles: list[Cycle] = []
    held: dict[int, Holdings] = {}
    with (
        Camera((640, 360), 30, key_interval=15) as camera,
        open_detector(DEFAULT_MODEL, device="cpu", depth=1) as found,
    ):
        before = holdings()
        options = SourceOptions(stall_timeout_s=_STALL_S)
        source = open_source(camera.direct_url, options=options)
        pipeline = Pipeline([StreamSpec(source, [("codes", sink)])], found)

        def body() -> None:
            try:
                pipeline.run()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            for number in range(1, count + 1):
                _wait(lambda: len(sink.shown) > 15, failed)
                fault, away_s = dice.choice(_FAULTS), dice.uniform(0.0, 1.5)
                cycles.append(_cycle(camera, sink, lambda: source.lost_s is not None, fault, away_s, failed))
                sink.shown.clear()
                if number == min(_WARM_UP, count // 2) or number % max(1, count // _SAMPLES) == 0:
                    _wait(lambda: len(sink.shown) > 15, failed)
                    held[number] = holdings()
                    sink.shown.clear()
            for fault in _FAULTS if long_outages else ():
                _wait(lambda: len(sink.shown) > 15, failed)
                cycles.append(_cycle(camera, sink, lambda: source.lost_s is not None, fault, _LONG_S, failed))
                sink.shown.clear()
        finally:
            pipeline.stop()
            thread.join(_HANG_S)
        _wait(lambda: not any(t.name.startswith("read ") for t in threading.enumerate()), [])
        return cycles, held, (before, holdings())


def _cycle(
    camera: Camera,
    sink: CodeSink,
    is_lost: Callable[[], bool],
    fault: str,
    away_s: float,
    failed: list[BaseException],
) -> Cycle:
    began_s = time.monotonic()
    if fault == "killed":
        camera.kill()
    else:
        camera.freeze()
    _wait(is_lost, failed)
    noticed_s = time.monotonic() - began_s
    time.sleep(away_s)
    if fault == "killed":
        camera.start()
    else:
        camera.thaw()
    back_s = time.monotonic()
    _wait(lambda: any(at_s - age_s > back_s for at_s, _, age_s in sink.shown[-3:]), failed)
    shown_s = next(at_s for at_s, _, age_s in sink.shown if at_s - age_s > back_s)
    return Cycle(fault, away_s, noticed_s, shown_s - back_s)


def _wait(condition: Callable[[], bool], failed: list[BaseException]) -> None:
    """Waits for `condition`.

    Raises:
        TimeoutError: if it doesn't hold in time.
        StreamerError: if the run failed meanwhile.
    """
    deadline_s = time.monotonic() + _HANG_S
    while not condition():
        if failed:
            raise StreamerError(f"the run failed: {failed[0]}")
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"nothing happened for {_HANG_S:g} s: a recovery hangs")
        time.sleep(0.002)


def report(cycles: Sequence[Cycle], held: dict[int, Holdings], ends: tuple[Holdings, Holdings]) -> str:
    """Returns the tables, what was wanted, and the machine."""
    rows = []
    for fault, is_long in itertools.product(_FAULTS, (False, True)):
        of_kind = [cycle for cycle in cycles if cycle.fault == fault and (cycle.away_s == _LONG_S) is is_long]
        if of_kind:
            noticed = np.percentile([cycle.noticed_s for cycle in of_kind], (50, 100))
            recovered = np.percentile([cycle.recovered_s for cycle in of_kind], (50, 95, 100))
            figures = [f"{value:.2f}" for value in (*noticed, *recovered)]
            rows.append([f"{fault}, away {_LONG_S:g} s" if is_long else fault, str(len(of_kind)), *figures])
    head = ["camera", "times", "noticed p50 s", "worst s", "back p50 s", "p95 s", "worst s"]
    first, last = next(iter(held.values())), list(held.values())[-1]
    growth = last.resident_bytes / first.resident_bytes - 1
    resources = [
        [f"{number}", f"{now.resident_bytes / 2**20:.1f}", str(now.threads), str(now.descriptors)]
        for number, now in held.items()
    ]
    before, after = ends
    in_time = sum(c.recovered_s <= (_WANTED_AFTER_LONG_S if c.away_s == _LONG_S else _WANTED_S) for c in cycles)
    machine = machine_line()
    return "\n\n".join(
        [
            f"{len(cycles)} faults of an RTSP camera (simulated, H.264 640x360 at 30 a second, two key frames "
            f"each) in one run with the packaged model; the stall time-out is {_STALL_S:g} s, the camera stays "
            f"away for up to 1.5 s more. Machine: {machine}.",
            markdown_table(head, rows),
            f"{len(cycles)} of {len(cycles)} recovered, none hung; {in_time} within the time wanted: "
            f"{_WANTED_S:g} s, and {_WANTED_AFTER_LONG_S:g} s after more than a minute.",
            markdown_table(["after cycle", "resident MiB", "threads", "descriptors"], resources),
            f"Memory {growth:+.2%} from the first row to the last, wanted at most {_WANTED_GROWTH:+.0%}. Threads and "
            f"descriptors before the source was opened: {before.threads} and {before.descriptors}, after the run: "
            f"{after.threads} and {after.descriptors}.",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = results_parser("benchmarks.recovery", __doc__)
    parser.add_argument("--cycles", type=positive, default=200, help="faults, one after the other (200)")
    parser.add_argument("--smoke", action="store_true", help="six of them, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
