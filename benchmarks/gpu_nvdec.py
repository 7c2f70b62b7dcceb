"""``python -m benchmarks.gpu_nvdec CLIP``: a video through NVDEC to JSON lines, beside the decoder's own rate."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from benchmarks.clips import repeat_clip
from benchmarks.table import markdown_table
from streamer.detector.cuda import GPU_ENGINES, CudaDetector, open_cuda_detector
from streamer.errors import StreamerError
from streamer.model_file import load_model
from streamer.pipeline import Pipeline, StreamPlan
from streamer.policy import Policy
from streamer.sinks import open_sink
from streamer.sources import SourceOptions, open_source
from streamer.sources.processes import DecodingProcesses
from streamer.zoo import resolve_model

WANTED_SHARE = 0.9


def decoder_fps(clip: Path, decoders: int) -> float:
    """Returns frames a second of NVDEC alone, `decoders` of them side by side, each the whole clip; opening counts."""
    import PyNvVideoCodec as nvc

    counts = [0] * decoders

    def decode(number: int) -> None:
        demuxer = nvc.CreateDemuxer(filename=str(clip))
        decoder = nvc.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True)
        for packet in demuxer:
            counts[number] += len(decoder.Decode(packet))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(decoders)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def pipeline_fps(clip: Path, detector: CudaDetector, folder: Path, sources: int, processes: int) -> float:
    """Returns frames a second of the whole pipeline from the file to JSON lines; opening the sources counts.

    Args:
        clip: what every source reads.
        detector: stays the caller's.
        folder: where the lines go.
        sources: how many there are.
        processes: that decode, 0 for this one.
    """
    options = SourceOptions(gpu=0, gpu_only=True)
    with DecodingProcesses(processes) if processes else nullcontext() as decoding:
        if decoding is not None:  # a process begins once a run; a run's length is the benchmark's choice
            warm = [decoding.open(str(clip), name=f"warm{number}", options=options) for number in range(processes)]
            for source in warm:
                source.wait_ready()
                source.close()
        began = time.perf_counter()
        opened = [
            decoding.open(str(clip), name=f"nvdec{number}", options=options)
            if decoding is not None
            else open_source(str(clip), name=f"nvdec{number}", options=options, wait=False)
            for number in range(sources)
        ]
        plans = []
        for number, source in enumerate(opened):
            source.wait_ready()
            output = str(folder / f"{number}.jsonl")
            sink = open_sink(output, source.info, labels=detector.labels)
            plans.append(StreamPlan(source, [(output, sink)], Policy.EVERY_FRAME))
        report = Pipeline(plans, detector, overlay=False).run()
        return sum(source.frames_processed for source in report.sources) / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_nvdec", description=__doc__)
    parser.add_argument("clip", type=Path, help="a video that NVDEC decodes")
    parser.add_argument("--model", default="nanodet-g_416_float", metavar="NAME|FILE")
    parser.add_argument("--engine", choices=("auto", *GPU_ENGINES), default="auto")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1], metavar="N", help="that decode; 0 is none")
    parser.add_argument("--repeat", type=int, default=12, metavar="N", help="play the clip so many times over")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measure so often, and take the medians")
    options = parser.parse_args(arguments)
    rows = []
    try:
        path, spec = resolve_model(options.model)
        with open_cuda_detector(
            load_model(path, spec), engine=options.engine, device="auto", precision="auto", conf=0.4, iou=0.6,
            class_ids=None, depth=None, batch="auto", streams=max(options.sources),
        ) as detector, tempfile.TemporaryDirectory() as folder:  # fmt: skip
            clip = Path(folder, "long.mp4")
            repeat_clip(options.clip, clip, options.repeat)
            for count in options.sources:
                decoder_fps(options.clip, count)
                alone: list[float] = []
                whole: dict[int, list[float]] = {processes: [] for processes in options.processes}
                for _ in range(options.rounds):
                    alone.append(decoder_fps(clip, count))
                    for processes, got in whole.items():
                        got.append(pipeline_fps(clip, detector, Path(folder), count, processes))
                        print(f"{count} sources, {processes} processes: {got[-1]:.0f} fps, decoders alone"
                              f" {alone[-1]:.0f}", file=sys.stderr, flush=True)  # fmt: skip
                for processes, got in whole.items():
                    where = f"in {processes} processes" if processes else "in this process"
                    rows.append(
                        (f"{count} x NVDEC {where} to JSON lines", f">= {WANTED_SHARE}", f"{median(got):.0f} fps",
                         f"{median(alone):.0f} fps", f"{median(got) / median(alone):.2f}")
                    )  # fmt: skip
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"batches of {detector.batch}; {options.rounds} rounds in turn, medians; opening the files counts")
    print(markdown_table(("what", "wanted share", "measured", "decoders alone", "share"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
