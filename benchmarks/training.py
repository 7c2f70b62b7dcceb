"""``python -m benchmarks.training``: pictures a second of the training loop beside the original trainer's.

Both loops train the same network from the same weights on the same pictures, in turns, with upstream's recipe and
augmentation. Beside them: what the network alone takes for forward, backward and step on one batch that the device
holds, without a loss, which no loop can beat; and each side's batches without a training.

This project's loop holds decoded pictures in memory, upstream's decodes each every time. The first epoch, in which
this one decodes too, is a figure of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks import training_upstream as upstream
from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.table import markdown_table
from benchmarks.training_clock import StepClock, Window
from benchmarks.training_pictures import draw_pictures
from benchmarks.training_upstream_loss import upstream_loss
from calibration.dataset import read_samples
from calibration.labels import Sample
from calibration.run_folder.folder import RunFolder
from calibration.training.job import Job
from calibration.training.loader import Loader
from calibration.training.loop import Training
from calibration.training.losses import detection_loss
from calibration.training.network import TrainingNetwork
from calibration.training.optimiser import make_optimiser
from calibration.training.process import Process, joined_process
from calibration.training.recipe import Recipe, upstream_recipe
from calibration.training.truth import Truth
from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, StreamerError
from streamer.models.spec import ModelSpec, spec_for

UPSTREAM = "upstream's loop"
_STEPS = 10**9  # of a run that the clock ends
_TOLERANCE = 1e-3
_DRAWN_BATCHES = 10


@dataclass(frozen=True)
class Bench:
    """What all rounds have in common.

    Attributes:
        spec: of the network.
        samples: pictures and labels.
        recipe: upstream's, with the wanted batch.
        process: the device.
        folder: for what a run writes.
        weights: that every round begins with.
        workers: of upstream's loader, processes.
        warmup: steps before the timed ones: all pictures are seen once.
        steps: timed.
    """

    spec: ModelSpec
    samples: Sequence[Sample]
    recipe: Recipe
    process: Process
    folder: Path
    weights: dict[str, Tensor]
    workers: int
    warmup: int
    steps: int

    def network(self) -> TrainingNetwork:
        """Returns a network with the first weights."""
        network = TrainingNetwork(self.spec)
        network.load_state_dict(self.weights)
        return network

    def clock(self) -> StepClock:
        """Returns a clock for one round."""
        return StepClock(self.recipe.batch, self.warmup, self.steps, self.process.device)


@dataclass(frozen=True)
class Variant:
    """A way in which this project's loop computes."""

    precision: str
    compiles: bool

    @property
    def name(self) -> str:
        """In the table."""
        return f"this loop, {self.precision}{', compiled' if self.compiles else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed."""
    options = _options(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder, joined_process(options.device) as process:
            bench = _bench(options, Path(folder), process)
            difference = loss_difference(bench)
            if difference > _TOLERANCE:
                raise ConfigError(f"the two losses differ by {difference:.1%} on one batch, so this compares nothing")
            variants = [
                Variant(precision, compiles)
                for precision in options.precision or (["f32", "bf16"] if process.has_bf16 else ["f32"])
                for compiles in ([False, True] if options.compile else [False])
            ]
            windows = measure(bench, variants, options.rounds)
            bounds = {variant.name: network_alone(bench, variant) for variant in variants}
            loaders = {UPSTREAM: upstream_loader_alone(bench), "this loop": loader_alone(bench)}
            text = report(bench, windows, bounds, loaders, difference)
            print(text)
            figures = {
                "machine": describe_machine() | {"torch": torch.__version__, "device": process.describe()},
                "loss difference": difference,
                "rounds": {name: [asdict(window) for window in each] for name, each in windows.items()},
                "network alone, images/s": bounds,
                "loader alone, images/s": loaders,
            }
            write_results(options, figures, {"benchmarks.training": text})
    except StreamerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(bench: Bench, variants: Sequence[Variant], rounds: int) -> dict[str, list[Window]]:
    """Returns the timed steps of every loop by name, and of each one's first epoch, measured in turns."""
    found: dict[str, list[Window]] = {}
    for number in range(1, rounds + 1):
        loops: dict[str, Callable[[], StepClock]] = {UPSTREAM: lambda: _run_upstream(bench)}
        loops |= {variant.name: lambda variant=variant: _run_ours(bench, variant) for variant in variants}  # type: ignore[misc]
        for name, loop in loops.items():
            gc.collect()
            clock = loop()
            found.setdefault(name, []).append(clock.warm)
            if name != UPSTREAM:
                found.setdefault(f"{name}, first epoch", []).append(clock.cold)
            print(f"round {number}, {name}: {clock.warm.images_per_s:.1f} images/s", file=sys.stderr)
    return found


def _run_upstream(bench: Bench) -> StepClock:
    clock = bench.clock()
    with _float32_matmul("highest"):
        upstream.train(bench.network(), bench.samples, bench.recipe, bench.process.device, bench.workers, clock)
    return clock


def _run_ours(bench: Bench, variant: Variant) -> StepClock:
    clock = bench.clock()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, _float32_matmul("highest"):
        training = Training(_job(bench, variant, Path(folder)), bench.process, bench.network(), None)
        clock.count_waits(lambda: training.waited_s)
        training.run(clock)
    return clock


def _job(bench: Bench, variant: Variant, folder: Path) -> Job:
    return Job(
        bench.spec, replace(bench.recipe, steps=_STEPS, epochs=None, validations=1), bench.samples, (), folder,
        RunFolder(folder), precision="bf16" if variant.precision == "bf16" else "f32", compiles=variant.compiles,
    )  # fmt: skip


def network_alone(bench: Bench, variant: Variant) -> float:
    """Returns pictures a second of forward, backward and step on one batch on the device, without a loss."""
    device, (width, height) = bench.process.device, bench.spec.input_size_wh
    network = bench.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(network, replace(bench.recipe, lr=1e-9))
    images = torch.rand(bench.recipe.batch, 3, height, width, device=device).contiguous(
        memory_format=torch.channels_last
    )
    model: nn.Module = torch.compile(network) if variant.compiles else network  # type: ignore[assignment]

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.precision == "bf16"):
            output = model(images)
        total = output.main.sum() if output.auxiliary is None else output.main.sum() + output.auxiliary.sum()
        torch.autograd.backward(total)
        optimiser.step()

    with _float32_matmul("high" if device.type == "cuda" else "highest"):
        return _rate(step, device, min(5, bench.steps), bench.steps, bench.recipe.batch)


def loader_alone(bench: Bench) -> float:
    """Returns pictures a second of this project's batches, the pictures decoded already."""
    recipe = bench.recipe
    with Loader(bench.samples, bench.spec, recipe.augmentation, recipe.batch) as loader:
        return _rate(lambda: next(loader), torch.device("cpu"), bench.warmup, bench.steps, recipe.batch)


def upstream_loader_alone(bench: Bench) -> float:
    """Returns pictures a second of upstream's batches."""
    is_pinned = bench.process.device.type == "cuda"
    source = upstream.batches(bench.samples, bench.spec, bench.recipe.batch, bench.workers, is_pinned=is_pinned)
    # what the workers have made ahead by the start mustn't count
    return _rate(lambda: next(source), torch.device("cpu"), 2 * bench.workers, bench.steps, bench.recipe.batch)


def _rate(step: Callable[[], object], device: torch.device, warmup: int, steps: int, images: int) -> float:
    for _ in range(warmup):
        step()
    _wait_for(device)
    began_s = time.perf_counter()
    for _ in range(steps):
        step()
    _wait_for(device)
    return steps * images / (time.perf_counter() - began_s)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _float32_matmul(precision: str) -> Iterator[None]:
    """Sets the precision of matrix products on a GPU, which is the process's; a loop may set its own within."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def loss_difference(bench: Bench) -> float:
    """Returns the relative difference of the two losses of one batch, of the same predictions."""
    device, spec = bench.process.device, bench.spec
    pictures = upstream.Pictures(bench.samples, spec)
    images, labels = upstream.as_lists(list(islice((pictures[index] for index in range(len(pictures))), 8)))
    batch = upstream.stacked(images, device)
    truth = Truth.pad(
        [torch.from_numpy(each.boxes) for each in labels], [torch.from_numpy(each.classes) for each in labels]
    )
    with torch.no_grad():
        predictions = bench.network().to(device)(batch)
        ours = detection_loss(predictions, truth.to(device), spec).total
        theirs, _ = upstream_loss(predictions, labels, spec, (batch.shape[2], batch.shape[3]))
    return abs(float(ours) / float(theirs) - 1)


def report(
    bench: Bench,
    windows: dict[str, list[Window]],
    bounds: dict[str, float],
    loaders: dict[str, float],
    difference: float,
) -> str:
    """Returns the table, with the ratio of each loop to upstream's below it."""
    width, height = bench.spec.input_size_wh
    rows = [[name, *_cells(each)] for name, each in windows.items()]
    rows += [
        [f"bound of {name}: the network alone", f"{rate:.1f}", "", "", "", "", ""] for name, rate in bounds.items()
    ]
    rows += [[f"batches alone, of {name}", f"{rate:.1f}", "", "", "", "", ""] for name, rate in loaders.items()]
    head = ["", "images/s", "min to max", "CPU ms/image", "waits for data", "GPU memory, GiB", "others' cores"]
    lines = [
        f"{bench.spec.name}, {width}x{height}, batch {bench.recipe.batch}, {bench.steps} steps after {bench.warmup} of"
        f" warm-up, {len(bench.samples)} pictures; upstream's {bench.workers} worker processes, here"
        f" {available_cores()} threads; medians of {len(windows[UPSTREAM])} rounds in turns. On"
        f" {bench.process.describe()}; {machine_line()}, torch {torch.__version__}. The two losses of one batch differ"
        f" by {difference:.1e}.",
        "",
        markdown_table(head, rows),
        "",
    ]
    for name in bounds:
        ratio = _median(windows[name]) / _median(windows[UPSTREAM])
        first = _median(windows[f"{name}, first epoch"]) / _median(windows[UPSTREAM])
        lines.append(
            f"{name} / {UPSTREAM}: {ratio:.2f} (first epoch {first:.2f}), at"
            f" {_median(windows[name]) / bounds[name]:.0%} of its bound"
        )
    return "\n".join(lines)


def _median(windows: Sequence[Window]) -> float:
    return median(window.images_per_s for window in windows)


def _cells(windows: Sequence[Window]) -> list[str]:
    rates = [window.images_per_s for window in windows]
    memory = [window.memory_bytes / 2**30 for window in windows if window.memory_bytes is not None]
    others = [window.others_cores for window in windows if window.others_cores is not None]
    return [
        f"{median(rates):.1f}",
        f"{min(rates):.1f} to {max(rates):.1f}",
        f"{median(window.cpu_s / window.images * 1e3 for window in windows):.1f}",
        f"{median(window.waited_s / window.wall_s for window in windows):.1%}",
        f"{max(memory):.2f}" if memory else "-",
        f"{max(others):.1f}" if others else "-",
    ]


def _bench(options: argparse.Namespace, folder: Path, process: Process) -> Bench:
    spec = spec_for(options.model)
    if options.images is None:
        count = options.pictures or _DRAWN_BATCHES * options.batch
        samples = draw_pictures(folder, count, spec.num_classes)
    else:
        samples = read_samples(options.images, options.labels or options.images, spec.labels)
    if len(samples) < options.batch:
        raise ConfigError(f"{len(samples)} pictures don't fill a batch of {options.batch}: give more, or --batch")
    torch.manual_seed(0)
    weights = TrainingNetwork(spec).state_dict()
    recipe = replace(upstream_recipe(spec), batch=options.batch)
    workers = options.workers or min(upstream.WORKERS, available_cores())
    warmup = max(options.warmup, -(-len(samples) // options.batch))
    return Bench(spec, samples, recipe, process, folder, weights, workers, warmup, options.steps)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = results_parser("benchmarks.training", __doc__)
    parser.add_argument("--model", default="nanodet-g_416", help="(%(default)s)")
    parser.add_argument("--batch", type=positive, default=96, help="pictures a step (%(default)s)")
    parser.add_argument("--steps", type=positive, default=30, help="timed steps of a round (%(default)s)")
    parser.add_argument(
        "--warmup", type=positive, default=10, help="steps before them; an epoch at least (%(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="of each loop, in turns (%(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures (drawn ones, of 640x480)")
    parser.add_argument("--labels", type=Path, metavar="PATH", help="their labels (beside them)")
    parser.add_argument("--pictures", type=positive, help=f"how many to draw ({_DRAWN_BATCHES} batches)")
    parser.add_argument("--workers", type=positive, help=f"upstream's processes ({upstream.WORKERS}, or one a core)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument(
        "--precision", nargs="+", choices=("f32", "bf16"), help="of this loop (both where the device has both)"
    )
    parser.add_argument("--compile", action="store_true", help="measure this loop with torch.compile, too")
    parser.add_argument("--smoke", action="store_true", help="seconds: a tiny network for two steps")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.model, options.batch, options.steps, options.warmup = "nanodet-m-0.5x_64", 4, 2, 2
        options.rounds, options.pictures, options.workers = 1, 8, 1
        options.precision = options.precision or ["f32"]
    return options


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    sys.exit(main())
