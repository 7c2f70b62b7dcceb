"""``python -m benchmarks.gpu``: FP16 and INT8 side by side on one GPU, each figure with its bound, in one run.

FP16 is the torch engine with a network's float file, INT8 the int8 engine with its quantised file. Both are measured in
turns, so that a change of clocks is in both; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu_roofline import Rates, costs_of, measure_rates, with_launches
from benchmarks.gpu_sides import CONF, HEAD, IOU, Bench, Row, Side
from benchmarks.gpu_stages import ENGINES, batch, footprints, growth, latency, network, peers, starts, throughput
from benchmarks.gpu_start import caches_in
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.cuda.gpu import Gpu
from streamer.detector.cuda import open_cuda_detector
from streamer.models.file import load_model
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model

SIZE_WH = (1920, 1080)
DEFAULT_PAIR = ("nanodet-g_416_float", "nanodet-g_416")
_SIMPLE: dict[str, Callable[[Bench], None]] = {
    "network": network,
    "latency": latency,
    "throughput": throughput,
    "batch": batch,
}
_DEFAULT_STAGES = ("start", "memory", *_SIMPLE, "growth")
_STAGES = (*_DEFAULT_STAGES, "peers")
_SMOKE_STAGES = ("memory", *_SIMPLE, "growth")
_WARM_STARTS = 2


def picture_of(path: Path | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns a 1080p picture: from a file, or synthetic."""
    if path is None:
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (27, 48, 3), np.uint8)
        return np.asarray(cv2.resize(small, SIZE_WH, interpolation=cv2.INTER_CUBIC), np.uint8)
    image = cv2.imread(str(path))
    if image is None:
        raise StreamerError(f"can't read the picture {str(path)!r}")
    return np.asarray(cv2.resize(image, SIZE_WH), np.uint8)


def run_pair(names: Sequence[str], rates: Rates, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs the chosen stages for a float file and its quantised one; prints their table and returns all figures.

    Where the starts are measured, all else uses the caches that the first starts filled, below `folder`.
    """
    began_at_s = time.perf_counter()
    models = [load_model(*resolve_model(name)) for name in names]
    paths = [model.path for model in models]
    costs = list(costs_of(models[1]))
    rows: list[Row] = []
    figures: list[dict[str, Any]] = [{}, {}]

    def keep(found: tuple[list[Row], Sequence[Mapping[str, Any]]]) -> None:
        for row in found[0]:
            rows.append(row)
            print(f"{paths[1].stem}: {' | '.join(row.cells())}", file=sys.stderr, flush=True)
        for place, more in enumerate(found[1]):
            figures[place] |= more

    with ExitStack() as stack:
        if "start" in options.stages:
            filled = [folder / engine for engine in ENGINES]
            keep(starts(paths, filled, 1 if options.smoke else _WARM_STARTS))
            for one in filled:
                shutil.copytree(one, folder / "both", dirs_exist_ok=True)
            stack.enter_context(caches_in(folder / "both"))
        if "memory" in options.stages:
            keep(footprints(paths))
            costs[0] = with_launches(costs[0], figures[0]["memory"]["launches"])
        if {*_SIMPLE, "growth", "peers"} & set(options.stages):
            gpu = stack.enter_context(Gpu(0))
            sides = []
            for label, name, model, cost in zip(("FP16", "INT8"), ENGINES, models, costs, strict=True):
                sides.append(Side(label, name, model, gpu, cost))
                stack.callback(sides[-1].close)
            bench = Bench(gpu, rates, (sides[0], sides[1]), picture_of(options.picture), options.smoke)
            for stage in (stage for stage in _SIMPLE if stage in options.stages):
                _SIMPLE[stage](bench)
            if {"growth", "peers"} & set(options.stages):
                _with_detector(bench, options.stages)
            rows += bench.rows
            figures = [side.figures | more for side, more in zip(sides, figures, strict=True)]
    print(f"\n{paths[0].stem} (FP16) and {paths[1].stem} (INT8):\n")
    print(markdown_table(HEAD, [row.cells() for row in rows]), flush=True)
    return {
        "names": list(names),
        "rows": [row.as_json() for row in rows],
        "models": [more | {"cost": asdict(cost)} for more, cost in zip(figures, costs, strict=True)],
        "took_s": time.perf_counter() - began_at_s,
    }


def _with_detector(bench: Bench, stages: Sequence[str]) -> None:
    """Runs the stages that need a whole detector."""
    model = bench.sides[1].model
    with open_cuda_detector(
        model, Postprocessor(model.spec, CONF, IOU), engine=ENGINES[1], device="auto", precision="auto", depth=None
    ) as detector:
        if "growth" in stages:
            growth(bench, detector)
        if "peers" in stages:
            peers(bench, detector)


def rates_line(gpu: str, rates: Rates) -> str:
    """Returns a GPU's rates in words."""
    tera = 1e12
    return (
        f"{gpu}: host to device {rates.copy_bytes_s / 1e9:.1f} GB/s,"
        f" device memory {rates.device_bytes_s / 1e9:.0f} GB/s (read and written bytes),"
        f" tensor cores at the highest clock {rates.float16_ops_s / tera:.0f} FP16 and"
        f" {rates.int8_ops_s / tera:.0f} INT8 TOP/s; an empty kernel in a graph takes {rates.kernel_ms * 1e3:.2f} us,"
        f" one that may start early {rates.overlapped_kernel_ms * 1e3:.2f} us"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints a table for each pair of files, and writes all figures where `--json` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("FLOAT", "INT8"),
        help=f"names or files of a network as it is and quantised, repeatable; default: {' '.join(DEFAULT_PAIR)}",
    )  # fmt: skip
    parser.add_argument("--stages", nargs="+", choices=_STAGES, help="default: all but peers; with --smoke not start")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="the picture of all frames; default: synthetic")
    parser.add_argument("--smoke", action="store_true", help="a few repeats of everything, to check that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    options.stages = options.stages or (_SMOKE_STAGES if options.smoke else _DEFAULT_STAGES)
    try:
        with Gpu(0) as gpu:
            rates = measure_rates(gpu, 5 if options.smoke else 20)
            print(rates_line(gpu.name, rates), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            pairs = [
                run_pair(names, rates, options, Path(folder) / str(place))
                for place, names in enumerate(options.pair or [DEFAULT_PAIR])
            ]
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        content = asdict(rates) | {"pairs": pairs, "models": [one for pair in pairs for one in pair["models"]]}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
