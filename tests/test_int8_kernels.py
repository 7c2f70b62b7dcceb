"""The int8 engine's kernels, compiled for the CPU, against ONNX Runtime on the same inputs, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamer.engines.int8 import parameters
from streamer.engines.int8.network import Combination, Convolution, Copy, Stem
from streamer.engines.int8.schedule import Step
from streamer.engines.int8.tiles import Shape, Tile
from tests.host_kernels import compile_kernels
from tests.int8_host import HostProgram, StepError, step_errors
from tests.qdq_graphs import CLASSES, QdqGraph, pictures, run_whole

SIZE_WH = (44, 36)
MOST_DIFFERENT = 0.002
"""Share of a layer's values that may differ by a level: ONNX Runtime rounds its sums, and the kernels quotients."""


def check(graph: QdqGraph, kernel_folder: Path, *, batch: int = 1) -> list[StepError]:
    """Checks every step on ONNX Runtime's inputs, and the output of the last ones."""
    model, images = graph.model(), pictures(batch, graph.size_wh)
    program = HostProgram(model, kernel_folder, batch=batch)
    errors = step_errors(program, model, images)
    assert len(errors) == sum(step.result is not None for step in program.schedule.steps)
    for error in errors:
        assert error.most <= (1 if error.step.format.is_int8 else 0.002), error
        assert error.share <= (MOST_DIFFERENT if is_exact(error.step) else 0.04), error
    expected = run_whole(model.proto, images, ["output"])["output"]
    found = program.output.astype(np.float32)
    assert np.abs(found - expected)[..., :CLASSES].max() < 0.002
    assert np.abs(found - expected)[..., CLASSES:].max() < 0.02
    return errors


def is_exact(step: Step) -> bool:
    """Whether few values can lie between two levels: not in sums of sixteenths, and not behind float16."""
    enlarges = isinstance(step.node, Combination) and any(one.taps is not None for one in step.node.operands)
    return not enlarges and all(source.format.is_int8 for source in step.sources)


def nodes_of(errors: list[StepError], kind: type) -> int:
    """How many steps have a node of this kind."""
    return sum(isinstance(error.step.node, kind) for error in errors)


def layer(inputs: int, outputs: int, kernel: int, stride: int) -> QdqGraph:
    """A convolution between a first one and the output."""
    graph = QdqGraph(SIZE_WH)
    first = graph.convolution(graph.pair("images", 0.02), 3, inputs, stride=2)
    graph.output(graph.convolution(first, inputs, outputs, kernel, stride=stride), outputs)
    return graph


def every_tile() -> list[tuple[str, tuple[int, int, int, int], Tile]]:
    """Each tile once, with a layer that it computes."""
    found: dict[tuple[Tile, int], tuple[str, tuple[int, int, int, int], Tile]] = {}
    for what in ((32, 48, 3, 1), (16, 16, 3, 1), (64, 32, 3, 2), (128, 128, 3, 1), (32, 40, 5, 1), (128, 64, 1, 1)):
        inputs, outputs, kernel, stride = what
        for rows in (1000, 6000, 90000):
            units, columns = inputs // 16, -(-outputs // 16) * 16
            size = (18 // stride, 22 // stride)
            shape = Shape(rows, columns, kernel**2 * inputs, False, 16, units, kernel, kernel, stride, *size)
            for tile in shape.tiles:
                found.setdefault((tile, units if tile.patch else 0), (f"{tile}-{inputs}", what, tile))
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("what", "tile"), [pytest.param(*rest, id=name) for name, *rest in every_tile()])
def test_every_tile_computes_the_same(what: tuple[int, int, int, int], tile: Tile, kernel_folder: Path) -> None:
    model = layer(*what).model()
    program = HostProgram(model, kernel_folder, tile=tile)
    assert tile in [launch.kernel for launch in program.launches]
    errors = step_errors(program, model, pictures(1, SIZE_WH))
    assert max(error.most for error in errors) <= 1
    assert max(error.share for error in errors) <= MOST_DIFFERENT


def test_structs_have_the_fields_of_the_sources(kernel_folder: Path) -> None:
    macros = Tile(64, 32, 128, 3, 2, 1, 4).macros(Shape(1, 16, 128, False, 16, 8, 1, 1, 1, 1, 1))
    sizes = {
        ("between_host", "window"): parameters.WINDOW,
        ("between_host", "combination"): parameters.COMBINATION,
        ("between_host", "copy"): parameters.COPY,
        ("convolution_host", "convolution"): parameters.CONVOLUTION,
        ("stem_host", "stem"): parameters.STEM,
    }
    for (source, name), dtype in sizes.items():
        options = macros if source == "convolution_host" else {"PLAIN": 1} if source == "stem_host" else {}
        library = compile_kernels(kernel_folder, source, options)
        assert getattr(library, f"size_of_{name}")() == dtype.itemsize, name


@pytest.mark.parametrize("zero_point", [0, -128, 5, None])
def test_zero_points_and_borders(zero_point: int | None, kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH, zero_point=zero_point)
    tensor = graph.convolution(graph.pair("images", 0.03), 3, 24, stride=2, scale=0.05)
    tensor = graph.convolution(tensor, 24, 40, 3, stride=2, scale=0.05)
    tensor = graph.convolution(tensor, 40, 40, 3, group=40, scale=0.05)
    tensor = graph.convolution(tensor, 40, 40, 5, group=40, stride=2, scale=0.05)
    graph.output(graph.convolution(tensor, 40, 20, 5, scale=0.05), 20)
    check(graph, kernel_folder, batch=2)


@pytest.mark.parametrize("activation", ["LeakyRelu", "Relu", "Clip", ""])
def test_activations(activation: str, kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH)
    tensor = graph.convolution(graph.pair("images", 0.02), 3, 16, stride=2, activation=activation)
    tensor = graph.convolution(tensor, 16, 16, group=16, activation=activation)
    graph.output(graph.convolution(tensor, 16, 32, 1, activation=activation), 32)
    check(graph, kernel_folder)


@pytest.mark.parametrize("width", [24, 32, 58])
@pytest.mark.parametrize("zero_point", [0, 3])
def test_a_shuffled_block(width: int, zero_point: int, kernel_folder: Path) -> None:
    """ShuffleNetV2's blocks: halves that pass by, depthwise kernels, and channels that take turns."""
    graph = QdqGraph(SIZE_WH, zero_point=zero_point)
    tensor = graph.convolution(graph.pair("images", 0.02), 3, 24, stride=2)
    tensor = graph.node("MaxPool", [tensor], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    left = graph.convolution(graph.convolution(tensor, 24, 24, group=24, activation=""), 24, width, 1)
    right = graph.convolution(graph.convolution(tensor, 24, width, 1), width, width, group=width, activation="")
    size = (9, 11)
    tensor = graph.shuffled([left, graph.convolution(right, width, width, 1)], 2 * width, size)
    for _ in range(2):
        passing, taken = graph.halves(tensor, width)
        taken = graph.convolution(graph.convolution(taken, width, width, 1), width, width, group=width, activation="")
        tensor = graph.shuffled([passing, graph.convolution(taken, width, width, 1)], 2 * width, size)
    graph.output(tensor, 2 * width)
    errors = check(graph, kernel_folder, batch=2)
    assert nodes_of(errors, Stem) == 1
    assert nodes_of(errors, Copy) == 0
    shuffled = [one for one in errors if isinstance(one.step.node, Convolution) and one.step.node.partner is not None]
    assert len(shuffled) == 3


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("is_same", [True, False])
def test_a_feature_pyramid(mode: str, is_same: bool, kernel_folder: Path) -> None:
    """Enlarging, sums and concatenations, of tensors with one scale and with different ones."""
    graph = QdqGraph(SIZE_WH)
    scales = [0.0313] * 5 if is_same else [0.0313, 0.0397, 0.0451, 0.0507, 0.0611]
    first = graph.convolution(graph.pair("images", 0.02), 3, 32, stride=2, scale=scales[0])
    second = graph.convolution(first, 32, 32, stride=2, scale=scales[1])
    enlarged = graph.pair(graph.resized(second, mode), scales[2])
    total = graph.pair(graph.node("Add", [first, enlarged]), scales[3])
    both = graph.node("Concat", [total, enlarged], axis=1)
    if not is_same:
        both = graph.pair(both, scales[4])
    graph.output(graph.convolution(both, 64, 16, 1), 16)
    graph.output(second, 32)
    errors = check(graph, kernel_folder, batch=3)
    assert nodes_of(errors, Combination) >= 2


def test_layers_in_float(kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH)
    tensor = graph.convolution(graph.pair("images", 0.02), 3, 32, stride=2, scale=0)
    tensor = graph.convolution(tensor, 32, 24, 3, quantised=False, scale=0)
    tensor = graph.convolution(tensor, 24, 24, 3, group=24, quantised=False, scale=0)
    tensor = graph.convolution(graph.pair(tensor, 0.03), 24, 24, 3, stride=2)
    tensor = graph.convolution(tensor, 24, 40, 3, quantised=False)
    graph.output(tensor, 40)
    errors = check(graph, kernel_folder)
    assert {error.step.format.is_int8 for error in errors} == {True, False}


def test_a_float_picture(kernel_folder: Path) -> None:
    graph = QdqGraph(SIZE_WH)
    tensor = graph.convolution("images", 3, 24, stride=2, quantised=False)
    graph.output(graph.convolution(tensor, 24, 32), 32)
    check(graph, kernel_folder)


def test_groups_and_copies(kernel_folder: Path) -> None:
    """What no network of NanoDet has: groups of several channels, and channels in any order."""
    graph = QdqGraph(SIZE_WH)
    tensor = graph.convolution(graph.pair("images", 0.02), 3, 24, stride=2)
    tensor = graph.convolution(tensor, 24, 24, 3, group=4)
    parts = [graph.sliced(tensor, first, first + 6) for first in (18, 0, 12, 6)]
    tensor = graph.shuffled(parts, 24, (18, 22), groups=4)
    graph.output(graph.convolution(tensor, 24, 24, 7, group=24), 24)
    errors = check(graph, kernel_folder)
    assert nodes_of(errors, Copy) == 1
