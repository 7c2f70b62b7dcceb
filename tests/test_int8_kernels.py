"""The int8 engine's kernels, compiled for the CPU, against ONNX Runtime on the same inputs, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamer.engines.int8.tiles import Shape, Tile
from tests.int8_host import HostProgram, StepError, step_errors
from tests.qdq_graphs import CLASSES, QdqGraph, run_whole

SIZE_WH = (44, 36)
MOST_DIFFERENT = 0.002
"""Share of a layer's values that may differ by a level: ONNX Runtime's sums are rounded, and quotients here."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For compiled kernels."""
    return tmp_path_factory.mktemp("int8")


def pictures(batch: int = 1, size_wh: tuple[int, int] = SIZE_WH, seed: int = 3) -> npt.NDArray[np.float32]:
    """Noise in the range of normalised pictures."""
    return np.random.default_rng(seed).uniform(-2, 2, (batch, 3, *size_wh[::-1])).astype(np.float32)


def check(graph: QdqGraph, folder: Path, *, batch: int = 1, tile: Tile | None = None) -> list[StepError]:
    """Checks every step on ONNX Runtime's inputs, and the output of the whole."""
    model, images = graph.model(), pictures(batch, graph.size_wh)
    program = HostProgram(model, folder, batch=batch, tile=tile)
    errors = step_errors(program, model, images)
    for error in errors:
        int8 = error.step.format.is_int8
        assert error.most <= (1 if int8 else 0.002), error
        assert error.share <= MOST_DIFFERENT, error
    expected = run_whole(model.proto, images, ["output"])["output"]
    found = program.output.astype(np.float32)
    assert np.abs(found - expected)[..., :CLASSES].max() < 0.002
    assert np.abs(found - expected)[..., CLASSES:].max() < 0.02
    return errors


def layer(inputs: int, outputs: int, kernel: int, stride: int, **options: object) -> QdqGraph:
    """A convolution between a first one and the output."""
    graph = QdqGraph(SIZE_WH)
    first = graph.convolution(graph.pair("images", 0.02), 3, inputs, stride=2)
    graph.output(graph.convolution(first, inputs, outputs, kernel, stride=stride, **options), outputs)  # type: ignore[arg-type]
    return graph


def shapes_of(graph: QdqGraph, folder: Path) -> list[Shape]:
    """The convolutions' shapes."""
    return [one.shape for one in HostProgram(graph.model(), folder).launches if one.shape is not None]


def every_tile() -> list[tuple[str, tuple[int, int, int, int], Tile]]:
    """Each tile once, with a layer that it computes."""
    found: dict[tuple[Tile, int], tuple[str, tuple[int, int, int, int], Tile]] = {}
    for what in ((32, 48, 3, 1), (16, 16, 3, 1), (64, 32, 3, 2), (128, 128, 3, 1), (32, 40, 5, 1), (128, 64, 1, 1)):
        for rows in (1000, 6000, 90000):
            inputs, outputs, kernel, stride = what
            units, columns = inputs // 16, -(-outputs // 16) * 16
            shape = Shape(
                rows,
                columns,
                kernel * kernel * inputs,
                False,
                16,
                units,
                kernel,
                kernel,
                stride,
                18 // stride,
                22 // stride,
            )
            for tile in shape.tiles:
                found.setdefault((tile, units if tile.patch else 0), (f"{tile}-{inputs}", what, tile))
    return list(found.values())


@pytest.mark.parametrize(("what", "tile"), [pytest.param(*rest, id=name) for name, *rest in every_tile()])
def test_every_tile_computes_the_same(what: tuple[int, int, int, int], tile: Tile, folder: Path) -> None:
    model = layer(*what).model()
    program = HostProgram(model, folder, tile=tile, force=True)
    assert tile in [launch.kernel for launch in program.launches]
    errors = step_errors(program, model, pictures())
    assert max(error.most for error in errors) <= 1
    assert max(error.share for error in errors) <= MOST_DIFFERENT
