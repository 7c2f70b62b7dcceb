"""The int8 engine's programs on a CPU: the kernels' own source, compiled by g++."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.engines.int8.lowering import lower
from streamer.engines.int8.packing import pack
from streamer.engines.int8.program import Launch, Memory, ProgramBuilder, source_of
from streamer.engines.int8.schedule import Step, schedule
from streamer.engines.int8.tiles import Shape, Tile
from streamer.models.file import ModelFile
from tests.host_kernels import compile_kernels
from tests.qdq_graphs import run_whole


class HostProgram:
    """A model as the int8 engine runs it, with its memory in NumPy arrays."""

    def __init__(self, model: ModelFile, folder: Path, *, batch: int = 1, tile: Tile | None = None) -> None:
        """Prepares everything; convolutions that `tile` can compute use it."""
        network = lower(model)
        self.schedule = schedule(network)
        self._folder, self._tile = folder, tile
        packed = [pack(step) for step in self.schedule.steps]
        self._kept = [{name: aligned(array) for name, array in one.arrays.items()} for one in packed]
        width, height = model.spec.input_size_wh
        self.size = self.schedule.input_format.size
        self.input = aligned(np.zeros(batch * height * width * 4 * self.size, np.uint8))
        self.output = aligned(np.full((batch, network.points, network.channels), np.nan, np.float16))
        self.tensors = aligned(np.zeros(max(1, batch * self.schedule.nbytes), np.uint8))
        self._shape = (batch, height, width, 4)
        memory = Memory(
            self.input.ctypes.data, self.output.ctypes.data, self.tensors.ctypes.data,
            [{name: array.ctypes.data for name, array in one.items()} for one in self._kept],
        )  # fmt: skip
        self.launches = ProgramBuilder(network, self.schedule, packed, batch, memory).launches(self._choose)

    def _choose(self, shape: Shape) -> Tile:
        fits = shape.unit == 16 and not shape.half
        if self._tile is not None and fits and not (self._tile.patch and shape.kernel_width == 1):
            return self._tile
        return min(shape.tiles, key=lambda tile: tile.rows * tile.columns * tile.threads)

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Computes (batch, 3, H, W) float32 and returns the network's output as float32."""
        self.set_input(images)
        for launch in self.launches:
            self.launch(launch)
        return self.output.astype(np.float32)

    def set_input(self, images: npt.NDArray[np.float32]) -> None:
        """Stores (batch, 3, H, W) float32 as the preprocessing kernel does."""
        fmt = self.schedule.input_format
        pixels = self.input.view(np.int8 if fmt.is_int8 else np.float16).reshape(self._shape)
        values = images.transpose(0, 2, 3, 1)
        if fmt.is_int8:
            values = np.clip(np.rint(values / np.float32(fmt.scale)) + fmt.zero_point, -128, 127)
        pixels[..., :3] = values

    def tensor(self, step: Step, new: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Returns a copy of a step's result, (batch, H, W, channels), after replacing it by `new`."""
        tensor = step.result
        assert tensor is not None and tensor.group.offset is not None
        group, batch = tensor.group, self._shape[0]
        start = group.offset * batch
        whole = self.tensors[start : start + batch * group.height * group.width * group.pitch * group.size]
        pixels = whole.view(np.int8 if group.size == 1 else np.float16)
        pixels = pixels.reshape(batch, group.height, group.width, group.pitch)
        if new is not None:
            pixels[..., tensor.start + tensor.places] = new
        return np.array(pixels[..., tensor.start + tensor.places])

    def launch(self, launch: Launch) -> None:
        """Runs one kernel."""
        source, macros = source_of(launch)
        kernel = launch.kernel if isinstance(launch.kernel, str) else source
        function = getattr(compile_kernels(self._folder, f"{source}_host", macros), f"host_{kernel}")
        function(ctypes.c_void_p(launch.parameters.ctypes.data), *launch.grid, launch.threads)


@dataclass(frozen=True)
class StepError:
    """How one step's result differs from ONNX Runtime's on the same inputs.

    Attributes:
        step: it.
        most: levels of an int8 result, or the difference of a float16 one over the largest value.
        share: of an int8 result's values that differ.
    """

    step: Step
    most: float
    share: float


def step_errors(program: HostProgram, model: ModelFile, images: npt.NDArray[np.float32]) -> list[StepError]:
    """Runs every step on the inputs that ONNX Runtime has there; the last ones' results stay in the output."""
    program.set_input(images)
    makers = {name for node in model.proto.graph.node for name in node.output}
    steps = [launch.step for launch in program.launches if launch.step.result is not None]
    names = sorted({step.node.tensor for step in steps} & makers)
    values = run_whole(model.proto, images, names) if names else {}
    errors = []
    for launch in program.launches:
        program.launch(launch)
        step = launch.step
        if step.result is None or step.node.tensor not in values:
            continue
        found = program.tensor(step)
        value = values[step.node.tensor].transpose(0, 2, 3, 1)
        if step.format.is_int8:
            levels = np.rint(value / np.float32(step.format.scale)) + step.format.zero_point
            wanted = np.clip(levels, -128, 127).astype(np.int8)
            off = np.abs(found.astype(np.int16) - wanted)
            errors.append(StepError(step, float(off.max()), float((off > 0).mean())))
        else:
            wanted = value.astype(np.float16)
            off = np.abs(found.astype(np.float32) - value)
            errors.append(StepError(step, float(off.max() / max(1.0, np.abs(value).max())), 0.0))
        program.tensor(step, wanted)
    return errors


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copies an array to memory aligned to 256 bytes, as the GPU's is."""
    memory = np.zeros(array.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
