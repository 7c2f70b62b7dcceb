"""``python -m benchmarks.gpu_fleet CLIP``: how many real-time streams GPUs run, from NVDEC to JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.clips import repeat_clip
from benchmarks.fleet_watch import NotedLines
from benchmarks.gpu_nvdec import decoder_rate
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, StreamerError
from streamer.detector import open_detectors
from streamer.detector.base import Detector
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sources import SourceOptions, open_source
from streamer.sources.base import FrameConsumer, PushSource, Source, SourceWrapper
from streamer.sources.gpu_decoder import decoding_gpus
from streamer.sources.spec import SourceSpec
from streamer.sources.workers import DecoderPool, default_process_count

WANTED_STREAMS, WANTED_P95_MS = {1: 140, 2: 240}, 50.0
"""Streams by the number of GPUs, and the time until 95 % of the lines are written."""

_DECODERS = 8
_READY_S = 600.0
_barrier: Any = None  # of the processes of one measurement


def nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Held:
    """The result of one number of streams.

    Attributes:
        streams: how many, each at `fps`.
        processes: decoding processes; with 0 the detecting process decodes.
        fps: frames a second of one stream.
        delivered_fps: frames a second that reached their JSON lines, of all streams.
        dropped: frames that didn't, after the warm-up.
        dropped_before: frames that didn't, in the warm-up.
        p50_ms, p95_ms, p99_ms, worst_ms: from a frame's due time to the end of its line, after the warm-up.
        worst_stream_p95_ms: the highest of all streams.
        stages_p99_ms: of each stage; for writing a line, the highest of all streams.
        cores: processor cores used by the detecting process.
    """

    streams: int
    processes: int
    fps: float
    delivered_fps: float
    dropped: int
    dropped_before: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    worst_ms: float
    worst_stream_p95_ms: float
    stages_p99_ms: dict[str, float]
    cores: float


class LateStart(SourceWrapper):
    """A source that starts later than the others, as cameras aren't in step."""

    def __init__(self, source: Source, wait_s: float) -> None:
        super().__init__(source)
        self._wait_s = wait_s

    def __iter__(self) -> Iterator[Frame]:
        time.sleep(self._wait_s)
        yield from self._source


class LatePushStart(SourceWrapper, PushSource):
    """The same for a push source."""

    def __init__(self, source: PushSource, wait_s: float) -> None:
        super().__init__(source)
        self.max_unacknowledged = source.max_unacknowledged
        self._push_source, self._wait_s = source, wait_s

    def start(self, consumer: FrameConsumer, *, paced: bool) -> None:
        timer = threading.Timer(self._wait_s, lambda: self._push_source.start(consumer, paced=paced))
        timer.daemon = True
        timer.start()

    def acknowledge(self) -> None:
        self._push_source.acknowledge()


def clip_fps(clip: Path) -> float:
    """Returns a clip's rate by its time stamps: a file's metadata may be wrong."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        return float((len(stamps) - 1) / ((max(stamps) - min(stamps)) * (stream.time_base or 1)))


@dataclass(frozen=True)
class Shared:
    """What all runs of this program are given.

    Attributes:
        clip: what every stream plays.
        folder: for the lines.
        seconds: of each run.
        warm_up_s: of these, not counted.
        is_ready: waits until all processes are, so that they measure the same seconds.
    """

    clip: Path
    folder: Path
    seconds: float
    warm_up_s: float
    is_ready: Callable[[], object] = nothing


def hold(
    shared: Shared, detectors: Sequence[Detector], streams: int, gpus: Sequence[int], processes: int, first: int = 0
) -> Held:
    """Runs `streams` streams in real time, in turn on `gpus`, decoded by `processes`; numbered from `first`."""
    with DecoderPool(processes) if processes else nullcontext() as decoding:
        open_one = partial(open_source, wait=False) if decoding is None else partial(_open_in, decoding)
        return _hold(shared, detectors, streams, gpus, processes, open_one, first)


def _open_in(decoding: DecoderPool, uri: str, *, name: str, options: SourceOptions) -> Source:
    return decoding.open(SourceSpec.parse(uri, name=name), options)


def _hold(
    shared: Shared,
    detectors: Sequence[Detector],
    streams: int,
    gpus: Sequence[int],
    processes: int,
    open_one: Callable[..., Source],
    first: int,
) -> Held:
    plans, sinks = [], []
    clip, folder, seconds = shared.clip, shared.folder, shared.seconds
    fps = clip_fps(clip)
    with ExitStack() as stack:
        opened = []
        for number in range(first, first + streams):
            gpu = gpus[number % len(gpus)] if gpus else None
            options = SourceOptions(gpu=gpu, gpu_only=gpu is not None)
            opened.append((gpu, stack.enter_context(open_one(str(clip), name=f"s{number}", options=options))))
        for number, (gpu, source) in enumerate(opened, first):
            source.wait_ready()
            output = str(folder / f"{streams}-{number}.jsonl")
            sinks.append(stack.enter_context(NotedLines(Path(output), detectors[0].labels, live=False)))
            wait_s = (number - first) / streams / fps
            late = LatePushStart(source, wait_s) if isinstance(source, PushSource) else LateStart(source, wait_s)
            plans.append(StreamSpec(late, [(output, sinks[-1])], paced=True, gpu=gpu))
        stack.pop_all()
    shared.is_ready()
    pipeline = Pipeline(plans, detectors, overlay=False)
    marks: list[tuple[float, int, float]] = []

    def watch() -> None:
        for at_s in (shared.warm_up_s, seconds):
            time.sleep(max(0.0, began_s + at_s - time.perf_counter()))
            dropped = sum(stream.dropped for stream in pipeline.streams)
            marks.append((time.perf_counter(), dropped, time.process_time()))

    watcher = threading.Thread(target=watch)
    gc.freeze()  # as a run does
    began_s = time.perf_counter()
    watcher.start()
    pipeline.run(seconds + 0.5)
    gc.unfreeze()
    watcher.join()
    (from_s, before, cpu_from_s), (to_s, after, cpu_to_s) = marks
    of_streams = [[one.latency_ms for one in sink.got if from_s <= one.at_s < to_s] for sink in sinks]
    latencies = np.array([ms for of_stream in of_streams for ms in of_stream])
    if not len(latencies):
        raise StreamerError(f"none of {streams} streams wrote a line in {to_s - from_s:.0f} s: is the machine busy?")
    stages_ms = pipeline.report().stages_ms
    p50, p95, p99, worst = (float(p) for p in np.percentile(latencies, (50, 95, 99, 100)))
    return Held(
        streams, processes, fps, len(latencies) / (to_s - from_s), after - before, before, p50, p95, p99, worst,
        max(float(np.percentile(of_stream, 95)) for of_stream in of_streams if of_stream),
        {stage: times["p99"] for stage, times in stages_ms.items() if not stage.startswith("write ")}
        | {"write": max(times["p99"] for stage, times in stages_ms.items() if stage.startswith("write "))},
        (cpu_to_s - cpu_from_s) / (to_s - from_s),
    )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What one of several processes runs.

    Attributes:
        device: its GPUs, or one, or the CPU, as in ``--device``.
        gpus: numbers of those that decode; none where a CPU does.
        streams: how many it has in each measurement.
        first: number of its first stream in each.
    """

    device: str
    gpus: tuple[int, ...]
    streams: tuple[int, ...]
    first: tuple[int, ...]


def parts_of(device: str, gpus: Sequence[int], streams: Sequence[int], runs: int) -> list[Part]:
    """Divides GPUs and streams between processes.

    Raises:
        ConfigError: there are fewer streams than processes.
    """
    if min(streams) < runs:
        raise ConfigError(f"--streams wants at least one for each of {runs} processes, got {min(streams)}")
    parts = []
    for run in range(runs):
        own = tuple(gpus[run::runs])
        shares = [[count * at // runs for count in streams] for at in (run, run + 1)]
        counts = tuple(end - begin for begin, end in zip(*shares, strict=True))
        parts.append(Part(",".join(f"cuda:{gpu}" for gpu in own) or device, own, counts, tuple(shares[0])))
    return parts


def together(parts: Sequence[Held]) -> Held:
    """Returns the figures of processes that ran at once: sums, and of times the worst process's."""
    sums = ("streams", "processes", "delivered_fps", "dropped", "dropped_before", "cores")
    times = ("p50_ms", "p95_ms", "p99_ms", "worst_ms", "worst_stream_p95_ms")
    worst = {name: max(getattr(part, name) for part in parts) for name in times}
    stages = {stage: max(part.stages_p99_ms.get(stage, 0.0) for part in parts) for stage in parts[0].stages_p99_ms}
    return Held(
        **{name: sum(getattr(part, name) for part in parts) for name in sums},
        **worst, stages_p99_ms=stages, fps=parts[0].fps,
    )  # fmt: skip


def measure(options: argparse.Namespace, part: Part, shared: Shared) -> tuple[str, list[Held]]:
    """Measures each number of streams; returns what detects, in words, and the figures."""
    held = []
    with ExitStack() as stack:
        detectors = open_detectors(
            options.model, engine=options.engine, device=part.device, batch=options.batch, streams=max(part.streams)
        )
        for detector in detectors:
            stack.enter_context(detector)
        for streams, first in zip(part.streams, part.first, strict=True):
            processes = options.processes
            if processes is None:
                gpus = len(part.gpus)
                processes = default_process_count(streams, available_cores(), gpus) if gpus else 0
            held.append(hold(shared, detectors, streams, part.gpus, processes, first))
            print(held[-1], file=sys.stderr, flush=True)
        info = detectors[0].info
        said = f"{info.device}, {info.name} {info.precision}, {info.model}, batches of {detectors[0].batch}"
    return said, held


def _set_barrier(barrier: Any) -> None:
    """Runs first in each process."""
    global _barrier
    _barrier = barrier


def _measure_in_step(options: argparse.Namespace, part: Part, shared: Shared) -> tuple[str, list[Held]]:
    assert _barrier is not None
    try:
        return measure(options, part, replace(shared, is_ready=partial(_barrier.wait, _READY_S)))
    except BaseException:
        _barrier.abort()  # the other processes wait there
        raise


def measure_in_processes(options: argparse.Namespace, parts: Sequence[Part], shared: Shared) -> tuple[str, list[Held]]:
    """Measures in a process for each part, all at the same time."""
    context = multiprocessing.get_context("spawn")  # a fork can't use CUDA
    barrier = context.Barrier(len(parts))
    with ProcessPoolExecutor(len(parts), context, _set_barrier, (barrier,)) as pool:
        futures = [pool.submit(_measure_in_step, options, part, shared) for part in parts]
        for future in futures:
            if isinstance(error := future.exception(), StreamerError):
                raise error  # rather than another process's broken barrier
        found = [future.result() for future in futures]
    return found[0][0], [together(held) for held in zip(*(held for _, held in found), strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    options = _parser().parse_args(arguments)
    try:
        gpus = decoding_gpus(options.decode, device=options.device, engine=options.engine)
        parts = parts_of(options.device, gpus, options.streams, options.runs)
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder, "long.mp4")
            repeat_clip(options.clip, clip, options.repeat)
            alone = decoder_rate(clip, _DECODERS * len(gpus), gpus).fps if gpus else float("nan")
            shared = Shared(clip, Path(folder), options.seconds, options.warm_up)
            if len(parts) == 1:
                said, held = measure(options, parts[0], shared)
            else:
                said, held = measure_in_processes(options, parts, shared)
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.device}: {said}; {options.runs} detecting process{'es' * (options.runs > 1)}")
    print(table(held, alone, max(1, len(gpus))))
    if options.json:
        content = {"device": said, "gpus": len(gpus), "runs": options.runs, "decoders_fps": alone}
        options.json.write_text(json.dumps({**content, "held": [asdict(each) for each in held]}, indent=1) + "\n")
    return 0


def table(held: Sequence[Held], decoders_fps: float, gpus: int) -> str:
    """Returns the figures and the decoder's limit in streams as a table."""
    rows = [
        (
            str(each.streams),
            str(each.processes),
            f"{each.delivered_fps:.0f} of {each.streams * each.fps:.0f}",
            str(each.dropped),
            f"{each.p50_ms:.1f}",
            f"{each.p95_ms:.1f}",
            f"{each.p99_ms:.1f}",
            f"{each.worst_ms:.0f}",
            f"{each.worst_stream_p95_ms:.1f}",
            f"{each.cores:.1f}",
        )
        for each in held
    ]
    head = (
        "streams", "processes", "frames a second", "dropped", "p50 ms", "p95 ms", "p99 ms", "worst ms",
        "worst stream's p95 ms", "cores",
    )  # fmt: skip
    fps = held[0].fps
    wanted = WANTED_STREAMS.get(gpus, WANTED_STREAMS[1] * gpus)
    good = [each.streams for each in held if not each.dropped and each.p95_ms < WANTED_P95_MS]
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"Held with no drops and p95 under {WANTED_P95_MS:.0f} ms: {max(good, default=0)} streams; wanted"
        f" {wanted}, or the decoders' limit: {decoders_fps:.0f} frames a second with {_DECODERS * gpus} decoders and"
        f" nothing else, {decoders_fps / fps:.0f} streams."
    )


def batch_size(text: str) -> int | str:
    """Reads ``auto`` or a number."""
    return text if text == "auto" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_fleet", description=__doc__)
    parser.add_argument("clip", type=Path, help="a video that NVDEC decodes")
    parser.add_argument("--model", default="nanodet-g_416_float", metavar="NAME|FILE")
    parser.add_argument("--engine", default="auto", metavar="NAME")
    parser.add_argument("--device", default="auto", metavar="NAME", help="as the program's: cuda:0,cuda:1 are two GPUs")
    parser.add_argument("--decode", choices=("gpu", "cpu"), default="gpu", help="the decoder")
    parser.add_argument("--streams", type=int, nargs="+", default=[15, 30, 60], metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of streams")
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="SECONDS", help="of these, not counted")
    parser.add_argument("--batch", type=batch_size, default="auto", metavar="N|auto", help="frames of one inference")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="processes that share the GPUs and streams")
    parser.add_argument("--processes", type=int, metavar="N", help="decoding processes; default: as a run chooses")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how often to repeat the clip")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
