"""``python -m benchmarks.zoo``: what INT8 costs in accuracy and gains in time, model by model, engine by engine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.machine import machine_line
from benchmarks.options import positive
from benchmarks.table import markdown_table, write_section
from calibration.accuracy import coco_accuracy
from calibration.dataset import list_images, read_frame, read_samples
from calibration.evaluate import EVALUATION_CONF, detect_all
from calibration.labels import Sample
from streamer.common.errors import StreamerError
from streamer.detector import open_detector
from streamer.engines import installed_engines, open_engine
from streamer.engines.base import Engine
from streamer.models.file import ModelFile, load_model
from streamer.models.letterbox import Letterbox
from streamer.models.spec import ModelSpec

_WARM_UP = 5


@dataclass(frozen=True)
class Row:
    """One model on one engine at one precision.

    Attributes:
        model: its file's name.
        engine: what ran it.
        precision: what it was really computed in.
        ap: COCO AP x 100; None where it wasn't measured.
        size_mb: of the file.
        latency_ms: median of one picture, by threads used.
    """

    model: str
    engine: str
    precision: str
    ap: float | None
    size_mb: float
    latency_ms: dict[int, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    options = _parser().parse_args(arguments)
    try:
        rows = [row for path in options.models for row in measure(path, options)]
        machine = machine_line()
        text = f"{table(rows, options.threads)}\n\nOne run, {options.rounds} turns of each. Machine: {machine}."
        print(text)
        if options.markdown:
            write_section(options.markdown, "benchmarks.zoo", text)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
        if options.plot:
            plot(rows, max(options.threads), options.plot)
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure(path: Path, options: argparse.Namespace) -> list[Row]:
    """Measures one model file on every installed CPU engine, at every precision it has there.

    Latencies of all its configurations are taken in turns over different pictures, so that whatever else the machine
    does slows all of them alike.

    Raises:
        StreamerError: if the model can't be run.
    """
    spec = ModelSpec.from_yaml(options.model_config) if options.model_config else None
    model = load_model(path, spec)
    if options.labels is None:
        samples = [Sample.of(file, []) for file in list_images(options.images)]
    else:
        samples = read_samples(options.images, options.labels, model.spec.labels)
    wanted = [
        (engine, precision)
        for engine, missing in installed_engines().items()
        if missing is None and engine in ("openvino", "onnxruntime")
        for precision in (("auto",) if model.quantized or engine != "openvino" else ("f32", "auto"))
    ]
    accuracy: dict[tuple[str, str], float | None] = dict.fromkeys(wanted)
    used = {}
    for engine, precision in wanted:
        with open_detector(
            path, model_config=options.model_config, engine=engine, precision=precision, conf=EVALUATION_CONF
        ) as detector:
            used[engine, precision] = detector.info.precision
            if options.labels is None:
                continue
            samples, found = detect_all(detector, samples, options.images)
            accuracy[engine, precision] = coco_accuracy(samples, found, detector.labels).AP
    frames = [read_frame(sample.image, index) for index, sample in enumerate(samples[:16])]
    times: dict[tuple[str, str], dict[int, float]] = {choice: {} for choice in wanted}
    for threads in options.threads:
        runners = {
            (engine, precision): open_engine(engine, model, slots=1, precision=precision, threads=threads)
            for engine, precision in wanted
        }
        samples_ms: dict[tuple[str, str], list[float]] = {choice: [] for choice in wanted}
        for turn in range(_WARM_UP + options.rounds):
            frame = frames[turn % len(frames)]
            letterbox = Letterbox.for_model(frame, model.spec)
            for choice, runner in runners.items():
                letterbox.apply(frame, runner.input(0))
                elapsed_ms = _timed(runner)
                if turn >= _WARM_UP:
                    samples_ms[choice].append(elapsed_ms)
        for choice, runner in runners.items():
            with closing(runner):
                times[choice][threads] = median(samples_ms[choice])
    return [_row(model, choice, used[choice], accuracy[choice], times[choice]) for choice in wanted]


def _timed(runner: Engine) -> float:
    began = time.perf_counter()
    runner.start(0)
    runner.wait(0)
    return (time.perf_counter() - began) * 1e3


def _row(model: ModelFile, choice: tuple[str, str], used: str, ap: float | None, latency_ms: dict[int, float]) -> Row:
    return Row(model.path.stem, choice[0], used, ap, model.path.stat().st_size / 1e6, latency_ms)


def table(rows: Sequence[Row], threads: Sequence[int]) -> str:
    """Returns the rows as a Markdown table."""
    head = ["model", "engine", "computed in", "AP", "MB", *(f"ms, {n} thread{'s' * (n > 1)}" for n in threads)]
    cells = [
        [
            r.model,
            r.engine,
            r.precision,
            "-" if r.ap is None else f"{r.ap:.2f}",
            f"{r.size_mb:.2f}",
            *(f"{r.latency_ms[n]:.2f}" for n in threads),
        ]
        for r in rows
    ]
    return markdown_table(head, cells)


def plot(rows: Sequence[Row], threads: int, path: Path) -> None:
    """Draws accuracy over latency, a point a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    colours = {"f32": "#4c72b0", "bf16": "#55a868", "int8": "#dd8452"}
    markers = {"openvino": "o", "onnxruntime": "s"}
    figure, axes = pyplot.subplots(figsize=(8.5, 5), constrained_layout=True)
    for row in rows:
        if row.ap is None:
            continue
        point = (row.latency_ms[threads], row.ap)
        axes.scatter(*point, color=colours.get(row.precision, "black"), marker=markers[row.engine], s=55, zorder=3)
        axes.annotate(row.model.removesuffix("_int8"), point, xytext=(6, 4), textcoords="offset points", fontsize=8)
    for precision, colour in colours.items():
        axes.scatter([], [], color=colour, label=precision)
    for engine, marker in markers.items():
        axes.scatter([], [], color="grey", marker=marker, label=engine)
    axes.set_xscale("log")
    slowest = max(row.latency_ms[threads] for row in rows)
    axes.set_xlim(right=1.35 * slowest)  # room for the last label
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 4, 5, 6, 8)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel(f"median latency of one picture, ms ({threads} threads, log scale)")
    axes.set_ylabel("COCO AP x 100 (64 val2017 pictures)")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx", help="float and INT8 files")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures that nothing was chosen on")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="their YOLO labels; without, only speed is measured")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="YAML description of foreign ONNX files")
    parser.add_argument("--threads", type=positive, nargs="+", default=[1, 2], help="cores to use, each in turn (1 2)")
    parser.add_argument("--rounds", type=positive, default=100, help="timed pictures of each (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table into a page, between its marks")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw accuracy over latency")
    return parser


if __name__ == "__main__":
    sys.exit(main())
