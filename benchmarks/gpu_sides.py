"""Two engines on one GPU, one in FP16 and one in INT8, measured in turns; and the rows of their comparison."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from benchmarks.gpu_roofline import Cost, Rates
from streamer.cuda.engine import CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.kernels import Kernels
from streamer.cuda.slot import CudaSlot
from streamer.cuda.staging import StagedFrame, StagingPool
from streamer.detector.cuda import load_engine
from streamer.frames.frame import Frame
from streamer.frames.yuv_matrix import Matrix
from streamer.models.file import ModelFile
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor

CONF, IOU = 0.4, 0.6
BATCH = 32
ROUNDS = 5
HEAD = ("what", "wanted", "FP16", "INT8", "ratio", "bound")
Unit = Literal["ms", "/s", "s", "MB"]
_POOL = 64


class Two(NamedTuple):
    """A figure of each side."""

    fp16: float
    int8: float


@dataclass(frozen=True)
class Goal:
    """A goal for INT8: a limit, a ratio to FP16, or both; the least for rates, the most for times and sizes."""

    limit: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Row:
    """One figure of both sides.

    Attributes:
        what: what is measured.
        unit: of the figures.
        figures: FP16's, which may be missing, and INT8's.
        goal: what is wanted.
        bound: in words.
    """

    what: str
    unit: Unit
    figures: tuple[float | None, float]
    goal: Goal = Goal()
    bound: str = ""

    @property
    def ratio(self) -> float | None:
        """INT8's figure to FP16's."""
        fp16, int8 = self.figures
        return int8 / fp16 if fp16 else None

    @property
    def is_met(self) -> bool | None:
        """Whether what is wanted is reached; None where nothing is, or its other side is missing."""
        pairs = ((self.figures[1], self.goal.limit), (self.ratio, self.goal.ratio))
        wanted = [(measured, limit) for measured, limit in pairs if measured is not None and limit is not None]
        if not wanted:
            return None
        return all(measured >= limit if self.unit == "/s" else measured <= limit for measured, limit in wanted)

    def cells(self) -> tuple[str, ...]:
        """Returns the cells of `HEAD`."""
        sign = ">=" if self.unit == "/s" else "<="
        limit, ratio = self.goal.limit, self.goal.ratio
        wanted = [f"{sign} {shown(limit, self.unit)}"] if limit is not None else []
        wanted += [f"{sign} {ratio:g} x FP16"] if ratio is not None else []
        met = {None: "", True: ": reached", False: ": missed"}[self.is_met]
        fp16 = "" if self.figures[0] is None else shown(self.figures[0], self.unit)
        measured = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.what, ", ".join(wanted) + met, fp16, shown(self.figures[1], self.unit), measured, self.bound

    def as_json(self) -> dict[str, Any]:
        """Returns the row for the JSON file; bytes where the unit is MB."""
        fp16, int8 = self.figures
        return {
            "what": self.what, "unit": self.unit, "wanted": vars(self.goal), "fp16": fp16, "int8": int8,
            "ratio": self.ratio, "met": self.is_met, "bound": self.bound,
        }  # fmt: skip


def shown(figure: float, unit: Unit) -> str:
    """Returns a figure as text; bytes as MB."""
    if unit == "MB":
        return f"{figure / 1e6:.1f} MB"
    return f"{figure:.0f} /s" if unit == "/s" else f"{figure:.3f} ms" if unit == "ms" else f"{figure:.2f} s"


class PlainYuv:
    """Planar YUV 4:2:0 made from a BGR picture, without a decoder.

    Attributes:
        y: (H, W) uint8 luma.
        u: (H/2, W/2) uint8 blue difference.
        v: the same shape, red difference.
        matrix: BT.601.
        full_range: False.
        size_wh: width and height in pixels.
    """

    def __init__(self, bgr: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        height, width = bgr.shape[:2]
        planes = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8).reshape(-1)
        pixels, quarter = width * height, width * height // 4
        self.y = planes[:pixels].reshape(height, width)
        self.u = planes[pixels : pixels + quarter].reshape(height // 2, width // 2)
        self.v = planes[pixels + quarter :].reshape(height // 2, width // 2)
        self.matrix, self.full_range = Matrix.BT601, False
        self.size_wh = (width, height)

    def to_bgr(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Returns the picture as (H, W, 3) uint8 BGR."""
        planes = np.concatenate([self.y.ravel(), self.u.ravel(), self.v.ravel()])
        return np.asarray(cv2.cvtColor(planes.reshape(-1, self.size_wh[0]), cv2.COLOR_YUV2BGR_I420), np.uint8)


class Side:
    """One engine with its model.

    Attributes:
        label: ``FP16`` or ``INT8``.
        model: its file.
        cost: what its network computes and moves.
        engine: the engine.
        kernels: for its input and output.
        figures: for the JSON file.
    """

    def __init__(self, label: str, name: str, model: ModelFile, gpu: Gpu, cost: Cost) -> None:
        """Opens the engine `name`."""
        self.label, self.model, self.cost = label, model, cost
        self._gpu = gpu
        self.engine: CudaEngine = load_engine(name, model, gpu, "auto", BATCH)
        self.kernels = Kernels(gpu, self.engine, Postprocessor(model.spec, CONF, IOU))
        self._pool = StagingPool(gpu, _POOL)
        self.figures: dict[str, Any] = {
            "model": model.path.stem, "engine": name, "precision": self.engine.precision, "gpu": gpu.name,
        }  # fmt: skip

    def stage(self, frame: Frame) -> StagedFrame:
        """Returns a frame in page-locked memory."""
        staged = self._pool.stage(frame, Letterbox.for_model(frame, self.model.spec))
        assert staged is not None, "the pool is far larger than what the benchmark holds"
        return staged

    def slots(self, count: int, batch: int = 1) -> list[CudaSlot]:
        """Returns new slots; the caller closes them."""
        return [CudaSlot(self._gpu, self.engine, self.kernels, (batch,)) for _ in range(count)]

    def close(self) -> None:
        """Frees everything."""
        self._pool.close()
        self.kernels.close()
        with self._gpu.active():
            self.engine.close()


class Bench:
    """Both sides of one network, the GPU's rates, and what is measured.

    Attributes:
        name: the INT8 file's, without its ending.
        gpu: the GPU.
        rates: its rates.
        sides: FP16, INT8.
        bgr: a frame as BGR.
        yuv: the same as planes.
        smoke: whether a few repeats of everything are enough.
        rows: so far.
    """

    def __init__(
        self,
        gpu: Gpu,
        rates: Rates,
        sides: tuple[Side, Side],
        picture: np.ndarray[Any, np.dtype[np.uint8]],
        smoke: bool,
    ) -> None:
        self.name = sides[1].model.path.stem
        self.gpu, self.rates, self.sides, self.smoke = gpu, rates, sides, smoke
        self.bgr = Frame(picture, "bench", 0, 0.0, 0.0)
        planes: Any = PlainYuv(picture)
        self.yuv = Frame(planes, "bench", 0, 0.0, 0.0)
        self.rows: list[Row] = []

    def repeats(self, full: int) -> int:
        """Returns how often to repeat."""
        return max(3, full // 100) if self.smoke else full

    def in_turns(self, measure: Callable[[Side], float]) -> Two:
        """Measures both sides in turns, `ROUNDS` times, and returns the medians."""
        taken: dict[str, list[float]] = {side.label: [] for side in self.sides}
        for _ in range(1 if self.smoke else ROUNDS):
            for side in self.sides:
                taken[side.label].append(measure(side))
        return Two(*(median(figures) for figures in taken.values()))

    def note(self, row: Row) -> None:
        """Adds a row and prints it at once."""
        self.rows.append(row)
        print(f"{self.name}: {' | '.join(row.cells())}", file=sys.stderr, flush=True)
