"""``python -m benchmarks.soak``: half an hour at full speed; latency, memory and descriptors plotted."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.process import Holdings, holdings
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sinks import open_sink
from streamer.sources import open_source
from tests.rtsp.camera import Camera
from tests.rtsp.code import CodeSink

_ROWS = 10
_SETTLED = 0.1  # of the run, before memory is held against


@dataclass(frozen=True)
class Sample:
    """One stretch of the run: when it ended, ages of the pictures shown in it, rates, and what the process held."""

    at_s: float
    p50_s: float
    p95_s: float
    shown_fps: float
    dropped: int
    held: Holdings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed."""
    options = _parser().parse_args(arguments)
    minutes, every_s = (0.2, 1.0) if options.smoke else (options.minutes, options.every)
    try:
        samples = run(minutes * 60, every_s, options.fps)
    except (StreamerError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = report(samples, options.fps, every_s)
    print(text)
    figures = {"machine": describe_machine(), "samples": [asdict(sample) for sample in samples]}
    write_results(options, figures, {"benchmarks.soak": text})
    if options.plot:
        plot(samples, options.plot)
    return 0


def run(seconds: float, every_s: float, fps: int) -> list[Sample]:
    """Runs camera to video file and JSON lines for so long, and samples it every `every_s` seconds.

    Raises:
        StreamerError: if the run fails.
    """
    samples: list[Sample] = []
    sink = CodeSink()
    began_s = time.monotonic()

    def on_poll(pipeline: Pipeline) -> None:
        now_s = time.monotonic() - began_s
        if now_s < (len(samples) + 1) * every_s:
            return
        shown = list(sink.shown)
        del sink.shown[: len(shown)]
        ages = [age_s for _, _, age_s in shown] or [float("nan")]
        p50, p95 = np.percentile(ages, (50, 95))
        span_s = now_s - (samples[-1].at_s if samples else 0.0)
        dropped = pipeline.streams[0].dropped
        samples.append(Sample(now_s, float(p50), float(p95), len(shown) / span_s, dropped, holdings()))

    with (
        tempfile.TemporaryDirectory() as folder,
        Camera((640, 360), fps, key_interval=fps) as camera,
        open_detector(DEFAULT_MODEL, device="cpu", depth=1) as detector,
    ):
        source = open_source(camera.direct_url)
        outputs = [str(Path(folder, name)) for name in ("out.mp4", "out.jsonl")]
        sinks = [(uri, open_sink(uri, source.info, labels=detector.labels)) for uri in outputs]
        Pipeline([StreamSpec(source, [("codes", sink), *sinks])], detector, on_poll=on_poll).run(seconds)
    return samples


def report(samples: Sequence[Sample], fps: int, every_s: float) -> str:
    """Returns a table of the run's tenths, its growth, and the machine."""
    step = max(1, len(samples) // _ROWS)
    cells = [
        [
            f"{sample.at_s / 60:.1f}",
            f"{sample.shown_fps:.1f}",
            f"{sample.p50_s * 1e3:.0f}",
            f"{sample.p95_s * 1e3:.0f}",
            f"{sample.held.resident_bytes / 2**20:.1f}",
            str(sample.held.threads),
            str(sample.held.descriptors),
        ]
        for sample in samples[step - 1 :: step]
    ]
    head = ["minute", "shown a second", "age p50 ms", "age p95 ms", "resident MiB", "threads", "descriptors"]
    first, last = samples[int(len(samples) * _SETTLED)], samples[-1]
    growth = last.held.resident_bytes / first.held.resident_bytes - 1
    minutes = np.array([sample.at_s / 60 for sample in samples])
    trend = float(np.polyfit(minutes, [sample.p95_s * 1e3 for sample in samples], 1)[0])
    machine = machine_line()
    return "\n\n".join(
        [
            f"RTSP camera, H.264 640x360 at {fps} a second (more than these cores can do, the server being one more "
            f"process on them), packaged model, to H.264 video and JSON lines; every figure is of {every_s:g} s. "
            f"Machine: {machine}.",
            markdown_table(head, cells),
            f"From a tenth of the run to its end: memory {growth:+.2%}, "
            f"descriptors {last.held.descriptors - first.held.descriptors:+d}, "
            f"threads {last.held.threads - first.held.threads:+d}; "
            f"trend of p95 {trend:+.2f} ms a minute; {last.dropped:,} pictures dropped, all of them counted.",
        ]
    )


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Draws age, rate, memory and descriptors over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    minutes = [sample.at_s / 60 for sample in samples]
    figure, axes = pyplot.subplots(4, 1, figsize=(8.5, 8), sharex=True, constrained_layout=True)
    axes[0].plot(minutes, [sample.p95_s * 1e3 for sample in samples], label="p95", color="#dd8452")
    axes[0].plot(minutes, [sample.p50_s * 1e3 for sample in samples], label="p50", color="#4c72b0")
    axes[0].set_ylabel("age of the shown\npicture, ms")
    axes[0].legend(fontsize=8)
    axes[1].plot(minutes, [sample.shown_fps for sample in samples], color="#4c72b0")
    axes[1].set_ylabel("shown a second")
    axes[2].plot(minutes, [sample.held.resident_bytes / 2**20 for sample in samples], color="#55a868")
    axes[2].set_ylabel("resident, MiB")
    axes[3].plot(minutes, [sample.held.descriptors for sample in samples], label="descriptors", color="#4c72b0")
    axes[3].plot(minutes, [sample.held.threads for sample in samples], label="threads", color="#dd8452")
    axes[3].legend(fontsize=8)
    axes[3].set_xlabel("minutes")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = results_parser("benchmarks.soak", __doc__)
    parser.add_argument("--minutes", type=positive, default=30, help="how long (30)")
    parser.add_argument("--every", type=positive, default=10, metavar="SECONDS", help="between samples (10)")
    parser.add_argument("--fps", type=positive, default=200, help="what the camera sends a second (200)")
    parser.add_argument("--smoke", action="store_true", help="seconds only, to see that everything runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw age, rate, memory and descriptors")
    return parser


if __name__ == "__main__":
    sys.exit(main())
