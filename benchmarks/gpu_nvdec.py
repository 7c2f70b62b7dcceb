"""``python -m benchmarks.gpu_nvdec CLIP``: a video through NVDEC to JSON lines, and NVDEC's own rate."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.clips import repeat_clip
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.common.queues import OverflowPolicy
from streamer.detector.cuda import CudaDetector, open_cuda_detector
from streamer.engines.gpu_engines import GPU_ENGINES
from streamer.models.file import load_model
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sinks import open_sink
from streamer.sources import SourceOptions, SourceSpec, open_source
from streamer.sources.workers import DecoderPool

WANTED_SHARE = 0.9


@dataclass(frozen=True)
class Rate:
    """Frames a second: from the first frames on, and with opening the files and decoders counted."""

    fps: float
    with_opening_fps: float


def decoder_rate(clip: Path, decoders: int, gpus: Sequence[int] = (0,)) -> Rate:
    """Returns the rate of NVDEC alone: `decoders` in parallel, in turn on `gpus`, each the whole clip, discarded."""
    import PyNvVideoCodec as nvc

    counts = [0] * decoders
    opened = threading.Barrier(decoders + 1)

    def decode(number: int) -> None:
        demuxer = nvc.CreateDemuxer(filename=str(clip))
        gpu = gpus[number % len(gpus)]
        decoder = nvc.CreateDecoder(gpuid=gpu, codec=demuxer.GetNvCodecId(), usedevicememory=True)
        packets = iter(demuxer)
        while not counts[number]:
            counts[number] += len(decoder.Decode(next(packets)))
        opened.wait()
        for packet in packets:
            counts[number] += len(decoder.Decode(packet))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(decoders)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    opened.wait()
    opened_s, before = time.perf_counter(), sum(counts)
    for thread in threads:
        thread.join()
    ended_s = time.perf_counter()
    return Rate((sum(counts) - before) / (ended_s - opened_s), sum(counts) / (ended_s - began_s))


def pipeline_rate(clip: Path, detector: CudaDetector, folder: Path, sources: int, processes: int) -> Rate:
    """Returns the rate of the whole pipeline, from files to JSON lines.

    Args:
        clip: what every source reads.
        detector: stays the caller's.
        folder: where the lines go.
        sources: how many there are.
        processes: that decode, 0 for this one; they have started before the time begins.
    """
    options = SourceOptions(gpu=0, gpu_only=True)
    with DecoderPool(processes) if processes else nullcontext() as decoding:
        open_one = (
            partial(open_source, options=options, wait=False)
            if decoding is None
            else partial(decoding.open, options=options)
        )
        for number in range(processes):
            with open_one(SourceSpec.parse(str(clip), name=f"warm{number}")) as warm:
                warm.wait_ready()
        began_s = time.perf_counter()
        opened = [open_one(SourceSpec.parse(str(clip), name=f"nvdec{number}")) for number in range(sources)]
        plans = []
        for number, source in enumerate(opened):
            source.wait_ready()
            output = folder / f"{number}.jsonl"
            output.unlink(missing_ok=True)
            sink = open_sink(str(output), source.info, labels=detector.labels)
            plans.append(StreamSpec(source, [(str(output), sink)], OverflowPolicy.BLOCK))
        report = Pipeline(plans, detector, overlay=False).run()
        frames = sum(source.frames_processed for source in report.sources)
        return Rate(report.fps, frames / (time.perf_counter() - began_s))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_nvdec", description=__doc__)
    parser.add_argument("clip", type=Path, help="a video that NVDEC decodes")
    parser.add_argument("--model", default="nanodet-g_416_float", metavar="NAME|FILE")
    parser.add_argument("--engine", choices=("auto", *GPU_ENGINES), default="auto")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[0, 1], metavar="N", help="decoding processes; 0 for none"
    )
    parser.add_argument("--repeat", type=int, default=12, metavar="N", help="how often to repeat the clip")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to measure, for medians")
    options = parser.parse_args(arguments)
    rows = []
    try:
        path, spec = resolve_model(options.model)
        model = load_model(path, spec)
        with open_cuda_detector(
            model, Postprocessor(model.spec), engine=options.engine, device="auto", precision="auto", depth=None,
            batch="auto", streams=max(options.sources),
        ) as detector, tempfile.TemporaryDirectory() as folder:  # fmt: skip
            clip = Path(folder, "long.mp4")
            repeat_clip(options.clip, clip, options.repeat)
            for count in options.sources:
                decoder_rate(options.clip, count)
                alone: list[Rate] = []
                whole: dict[int, list[Rate]] = {processes: [] for processes in options.processes}
                for _ in range(options.rounds):
                    alone.append(decoder_rate(clip, count))
                    for processes, got in whole.items():
                        got.append(pipeline_rate(clip, detector, Path(folder), count, processes))
                        print(f"{count} sources, {processes} processes: {got[-1]}, decoders alone {alone[-1]}",
                              file=sys.stderr, flush=True)  # fmt: skip
                rows += [_row(count, processes, got, alone) for processes, got in whole.items()]
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"batches of {detector.batch}; {options.rounds} rounds in turn, medians")
    print(markdown_table(("what", "wanted share", "measured", "decoders alone", "share", "share with opening"), rows))
    return 0


def _row(sources: int, processes: int, whole: Sequence[Rate], alone: Sequence[Rate]) -> tuple[str, ...]:
    where = f"in {processes} processes" if processes else "in this process"
    ours, theirs = median(rate.fps for rate in whole), median(rate.fps for rate in alone)
    opening = median(r.with_opening_fps for r in whole) / median(r.with_opening_fps for r in alone)
    return (
        f"{sources} x NVDEC {where} to JSON lines", f">= {WANTED_SHARE}", f"{ours:.0f} fps", f"{theirs:.0f} fps",
        f"{ours / theirs:.2f}", f"{opening:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
