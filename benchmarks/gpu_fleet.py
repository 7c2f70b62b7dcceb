"""``python -m benchmarks.gpu_fleet CLIP``: how many real-time streams one GPU runs, from NVDEC to JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np

from benchmarks.clips import repeat_clip
from benchmarks.fleet_watch import NotedLines
from benchmarks.gpu_nvdec import decoder_rate
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores
from streamer.common.errors import StreamerError
from streamer.detector import open_detector
from streamer.detector.base import Detector
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sources import SourceOptions, open_source
from streamer.sources.base import FrameConsumer, PushSource, Source, SourceWrapper
from streamer.sources.workers import DecoderPool, default_process_count

WANTED_STREAMS, WANTED_P95_MS = 60, 100.0
_WARM_UP_S = 3.0
_DECODERS = 8


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


def hold(
    clip: Path, detector: Detector, streams: int, seconds: float, folder: Path, gpu: int | None, processes: int
) -> Held:
    """Runs `streams` streams of `clip` in real time, decoded by `processes` processes."""
    with DecoderPool(processes) if processes else nullcontext() as decoding:
        open_one = partial(open_source, wait=False) if decoding is None else decoding.open
        return _hold(clip, detector, streams, seconds, folder, gpu, processes, open_one)


def _hold(
    clip: Path,
    detector: Detector,
    streams: int,
    seconds: float,
    folder: Path,
    gpu: int | None,
    processes: int,
    open_one: Callable[..., Source],
) -> Held:
    plans, sinks = [], []
    fps = clip_fps(clip)
    options = SourceOptions(gpu=gpu, gpu_only=gpu is not None)
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_one(str(clip), name=f"s{number}", options=options)) for number in range(streams)
        ]
        for number, source in enumerate(opened):
            source.wait_ready()
            output = str(folder / f"{streams}-{number}.jsonl")
            sinks.append(stack.enter_context(NotedLines(Path(output), detector.labels, live=False)))
            wait_s = number / streams / fps
            late = LatePushStart(source, wait_s) if isinstance(source, PushSource) else LateStart(source, wait_s)
            plans.append(StreamSpec(late, [(output, sinks[-1])], paced=True))
        stack.pop_all()
    pipeline = Pipeline(plans, detector, overlay=False)
    marks: list[tuple[float, int, float]] = []

    def watch() -> None:
        for at_s in (_WARM_UP_S, seconds):
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
    stages_ms = pipeline.report().stages_ms
    p50, p95, p99, worst = (float(p) for p in np.percentile(latencies, (50, 95, 99, 100)))
    return Held(
        streams, processes, fps, len(latencies) / (to_s - from_s), after - before, before, p50, p95, p99, worst,
        max(float(np.percentile(of_stream, 95)) for of_stream in of_streams if of_stream),
        {stage: times["p99"] for stage, times in stages_ms.items() if not stage.startswith("write ")}
        | {"write": max(times["p99"] for stage, times in stages_ms.items() if stage.startswith("write "))},
        (cpu_to_s - cpu_from_s) / (to_s - from_s),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    options = _parser().parse_args(arguments)
    gpu = None if options.decode == "cpu" else 0
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            open_detector(
                options.model, engine=options.engine, device=options.device, batch="auto", streams=max(options.streams)
            ) as detector,
        ):
            clip = Path(folder, "long.mp4")
            repeat_clip(options.clip, clip, options.repeat)
            alone = decoder_rate(clip, _DECODERS).fps if gpu is not None else float("nan")
            held = []
            for streams in options.streams:
                processes = options.processes
                if processes is None:
                    processes = default_process_count(streams, available_cores()) if gpu is not None else 0
                held.append(hold(clip, detector, streams, options.seconds, Path(folder), gpu, processes))
                print(held[-1], file=sys.stderr, flush=True)
            info = detector.info
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{info.device}, {info.name} {info.precision}, {info.model}, batches of {detector.batch}")
    print(table(held, alone))
    if options.json:
        content = {"device": info.device, "batch": detector.batch, "decoders_fps": alone}
        options.json.write_text(json.dumps({**content, "held": [asdict(each) for each in held]}, indent=1) + "\n")
    return 0


def table(held: Sequence[Held], decoders_fps: float) -> str:
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
    good = [each.streams for each in held if not each.dropped and each.p95_ms < WANTED_P95_MS]
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"Held with no drops and p95 under {WANTED_P95_MS:.0f} ms: {max(good, default=0)} streams; wanted"
        f" {WANTED_STREAMS}, or the decoder's limit: {decoders_fps:.0f} frames a second with {_DECODERS} decoders and"
        f" nothing else, {decoders_fps / fps:.0f} streams."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_fleet", description=__doc__)
    parser.add_argument("clip", type=Path, help="a video that NVDEC decodes")
    parser.add_argument("--model", default="nanodet-g_416_float", metavar="NAME|FILE")
    parser.add_argument("--engine", default="auto", metavar="NAME")
    parser.add_argument("--device", default="auto", metavar="NAME")
    parser.add_argument("--decode", choices=("gpu", "cpu"), default="gpu", help="the decoder")
    parser.add_argument("--streams", type=int, nargs="+", default=[15, 30, 60], metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help=f"for each, of which {_WARM_UP_S:g} to warm up")
    parser.add_argument("--processes", type=int, metavar="N", help="decoding processes; default: as a run chooses")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how often to repeat the clip")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
