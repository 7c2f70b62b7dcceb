"""``python -m benchmarks.gpu_nvdec CLIP``: a video through NVDEC to JSON lines, beside the decoder's own rate."""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import markdown_table
from streamer.detector.cuda import GPU_ENGINES, CudaDetector, open_cuda_detector
from streamer.errors import StreamerError
from streamer.model_file import load_model
from streamer.pipeline import Pipeline, StreamPlan
from streamer.policy import Policy
from streamer.sinks import open_sink
from streamer.sources import SourceOptions, open_source
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


def pipeline_fps(clip: Path, detector: CudaDetector, folder: Path, sources: int) -> float:
    """Returns frames a second of the whole pipeline from the file to JSON lines; opening the sources counts."""
    began = time.perf_counter()
    plans = []
    for number in range(sources):
        source = open_source(str(clip), name=f"nvdec{number}", options=SourceOptions(gpu=0, gpu_only=True))
        output = str(folder / f"{number}.jsonl")
        plans.append(
            StreamPlan(source, [(output, open_sink(output, source.info, labels=detector.labels))], Policy.EVERY_FRAME)
        )
    report = Pipeline(plans, detector, overlay=False).run()
    return sum(source.frames_processed for source in report.sources) / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_nvdec", description=__doc__)
    parser.add_argument("clip", type=Path, help="a video that NVDEC decodes")
    parser.add_argument("--model", default="nanodet-g_416_float", metavar="NAME|FILE")
    parser.add_argument("--engine", choices=("auto", *GPU_ENGINES), default="auto")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 8], metavar="N")
    options = parser.parse_args(arguments)
    rows = []
    try:
        path, spec = resolve_model(options.model)
        with open_cuda_detector(
            load_model(path, spec), engine=options.engine, device="auto", precision="auto", conf=0.4, iou=0.6,
            class_ids=None, depth=None,
        ) as detector, tempfile.TemporaryDirectory() as folder:  # fmt: skip
            for count in options.sources:
                decoder_fps(options.clip, count)
                alone = decoder_fps(options.clip, count)
                whole = pipeline_fps(options.clip, detector, Path(folder), count)
                rows.append(
                    (f"{count} x NVDEC to JSON lines", f">= {WANTED_SHARE}", f"{whole:.0f} fps", f"{alone:.0f} fps",
                     f"{whole / alone:.2f}")
                )  # fmt: skip
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown_table(("what", "wanted share", "measured", "decoders alone", "share"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
