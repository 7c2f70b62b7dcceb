"""``python -m benchmarks.corrupt``: 1,000 damaged videos, pictures, models and YAML files, and what becomes of each."""

from __future__ import annotations

import argparse
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import av

from benchmarks.corrupt_cases import cases_a_round, kinds, make_originals
from benchmarks.corrupt_worker import ADDRESS_SPACE_BYTES, PEAK_BYTES, TIME_LIMIT_S, Result, Worker
from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores
from streamer.common.errors import StreamerError

GOOD = ("normal run", "counted skip", "clear error")
BAD = ("traceback", "unclear", "lost picture", "memory", "hang", "crash")
_CASES = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases; returns the exit status: 0 all fine, 1 a case ended badly or none could be run, 2 bad usage."""
    options = _parser().parse_args(arguments)
    count = cases_a_round() if options.smoke else options.cases
    cases = [*range(-len(kinds()), count)] if options.case is None else options.case
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="corrupt-") as folder:
            everything = run_cases(cases, Path(folder), options.keep)
    except (StreamerError, OSError, av.FFmpegError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wall_s = time.perf_counter() - began
    for result in everything:
        if result.case < 0 and result.outcome != "normal run":  # then the others would prove nothing
            print(f"error: a whole input is no normal run\n{_told(result)}", file=sys.stderr)
            return 1
    results = [result for result in everything if result.case >= 0 or options.case is not None]
    for result in results:
        if options.case is not None or result.outcome in BAD:
            print(_told(result), end="\n\n")
    text = report(results, wall_s)
    print(text)
    figures = {"machine": describe_machine(), "wall_s": wall_s, "cases": [asdict(result) for result in results]}
    write_results(options, figures, {"benchmarks.corrupt": text})
    return 1 if any(result.outcome in BAD for result in results) else 0


def run_cases(cases: Sequence[int], folder: Path, keep: Path | None = None) -> list[Result]:
    """Runs cases in worker processes, one for each core; a worker that dies or hangs is replaced.

    Args:
        cases: their numbers, see `corrupt_cases.case_of`; each decides its input alone.
        folder: an empty one to work in.
        keep: where to leave each case's folder, or None.

    Returns:
        A result for each case, by number.
    """
    originals = folder / "originals"
    originals.mkdir()
    make_originals(originals)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    results: list[Result] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with Worker(originals, folder / f"worker{number}") as worker:
                while not failures:
                    case = waiting.get_nowait()
                    results.append(worker.run(case))
                    if keep is not None:
                        shutil.copytree(worker.folder, keep / f"case{case}", dirs_exist_ok=True)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(min(available_cores(), len(cases)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as interrupt:
        failures.append(interrupt)  # the others end after the case at hand
        raise
    for failure in failures:
        raise failure
    return sorted(results, key=lambda result: result.case)


def report(results: Sequence[Result], wall_s: float) -> str:
    """Returns the table by kind of input and outcome, and the verdict."""
    shown = [*GOOD, *BAD]
    counts = Counter((result.group, result.name, result.outcome) for result in results)
    rows = []
    for kind in kinds():
        row = [counts[kind.group, kind.name, outcome] for outcome in shown]
        if any(row):
            rows.append([f"{kind.group}: {kind.name}", str(sum(row)), *(str(number) for number in row)])
    totals = Counter(result.outcome for result in results)
    rows.append(["all", str(len(results)), *(str(totals[outcome]) for outcome in shown)])
    table = markdown_table(["input", "cases", *shown], rows)
    fine = sum(totals[outcome] for outcome in GOOD)
    slowest = max(results, key=lambda result: result.seconds)
    largest = max(results, key=lambda result: result.peak_bytes)
    machine = machine_line()
    return (
        f"{table}\n\n"
        f"{fine} of {len(results)} fine, in {wall_s:.0f} s. The slowest case took {slowest.seconds:.1f} s (limit "
        f"{TIME_LIMIT_S} s), the largest {largest.peak_bytes / 2**20:.0f} MiB resident (limit "
        f"{PEAK_BYTES / 2**20:.0f} MiB, and {ADDRESS_SPACE_BYTES / 2**30:.0f} GiB of address space).\n\n"
        f"Machine: {machine}."
    )


def _told(result: Result) -> str:
    return (
        f"case {result.case}: {result.group}, {result.name}: {result.how}\n"
        f"nanodet-stream {' '.join(result.arguments)}\n"
        f"{result.outcome}: exit status {result.status}, {result.seconds:.1f} s, {result.peak_bytes / 2**20:.0f} MiB\n"
        f"{result.text.strip()}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = results_parser("benchmarks.corrupt", __doc__)
    parser.add_argument("--cases", type=positive, default=_CASES, help="run cases 0 to N-1 (%(default)s)")
    parser.add_argument("--case", type=int, action="append", metavar="N", help="run this case alone; repeatable")
    parser.add_argument("--smoke", action="store_true", help="seconds: one round of all kinds of input")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the inputs there, in a folder a case")
    return parser


if __name__ == "__main__":
    sys.exit(main())
