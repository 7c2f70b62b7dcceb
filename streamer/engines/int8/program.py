"""A schedule as kernel launches for one batch size and given addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.common.errors import UnavailableError
from streamer.engines.int8 import parameters as forms
from streamer.engines.int8.network import (
    FLOAT16,
    Activation,
    Combination,
    Convolution,
    Copy,
    Format,
    Network,
    Pool,
    Stem,
)
from streamer.engines.int8.packing import Packed, depthwise_channels, epilogue, is_plain
from streamer.engines.int8.parameters import divisor
from streamer.engines.int8.schedule import CHANNEL_STEP, Schedule, Source, Step
from streamer.engines.int8.tiles import Shape, Tile

BETWEEN_THREADS = 128
STEM_BLOCK, STEM_THREADS = 8, 128
_MOST_BYTES = (1 << 31) - 1  # kernels count in int32
_ENOUGH_THREADS, _MANY_THREADS = 16384, 65536
"""With fewer, kernels with more threads are used: for each pixel, not for four; for four channels, not for sixteen."""


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel to launch.

    Attributes:
        kernel: its name in ``between`` or ``stem``, or the tile of a convolution.
        shape: of the convolution.
        plain: of a stem: `is_plain`.
        parameters: its only argument.
        grid: blocks across and down.
        threads: of a block.
        shared: bytes of dynamic shared memory.
        step: what it computes.
    """

    kernel: str | Tile
    shape: Shape | None
    parameters: npt.NDArray[np.void]
    grid: tuple[int, int]
    threads: int
    shared: int
    step: Step
    plain: bool = False


@dataclass(frozen=True, eq=False)
class Memory:
    """Addresses on the device.

    Attributes:
        input: the network's input.
        output: the network's output.
        tensors: of all groups.
        constants: of each step, by name.
    """

    input: int
    output: int
    tensors: int
    constants: list[Mapping[str, int]]


class ProgramBuilder:
    """Makes the launches of every step.

    Raises:
        UnavailableError: a tensor of the whole batch is too large for the kernels.
    """

    def __init__(self, network: Network, schedule: Schedule, packed: list[Packed], batch: int, memory: Memory) -> None:
        self._network, self._schedule, self._packed = network, schedule, packed
        self._batch, self._memory = batch, memory
        if batch * schedule.most_bytes > _MOST_BYTES:
            raise UnavailableError(f"{network.name}: the int8 engine's tensors are too large for batches of {batch}")

    def launches(self, choose: Callable[[Shape], Tile]) -> list[Launch]:
        """Returns the launches in order; `choose` returns the tile for a convolution."""
        made: list[Launch] = []
        for index, step in enumerate(self._schedule.steps):
            node = step.node
            if isinstance(node, Copy):
                made += self._copies(index, step)
            elif isinstance(node, Combination):
                made.append(self._combination(index, step, node))
            elif isinstance(node, Stem):
                made.append(self._stem(index, step, node))
            elif isinstance(node, Convolution) and not node.depthwise:
                made.append(self._convolution(index, step, node, choose))
            else:
                made.append(self._window(index, step))
        return made

    def shapes(self) -> list[Shape]:
        """Returns each convolution's shape."""
        found: list[Shape] = []

        def note(shape: Shape) -> Tile:
            found.append(shape)
            return shape.tiles[0]

        self.launches(note)
        return found

    def _address(self, source: Source) -> int:
        group = source.group
        if group.offset is None:
            return self._memory.input
        return self._memory.tensors + group.offset * self._batch + source.start * group.size

    def _result(self, step: Step) -> tuple[int, int]:
        """Returns a result's address and the elements from pixel to pixel."""
        tensor = step.result
        assert tensor is not None and tensor.group.offset is not None
        start = tensor.start * tensor.group.size
        return self._memory.tensors + tensor.group.offset * self._batch + start, tensor.group.pitch

    def _convolution(self, index: int, step: Step, node: Convolution, choose: Callable[[Shape], Tile]) -> Launch:
        packed, at = self._packed[index], self._memory.constants[index]
        source, window = step.sources[0], node.window
        rows, weights = self._batch * node.height * node.width, packed.arrays["weights"]
        pitch = weights.shape[1] * source.format.size
        depth = window.height * window.width * packed.units * packed.unit
        shape = Shape(
            rows, len(weights), depth, not source.format.is_int8, packed.unit, packed.units,
            window.height, window.width, window.stride, node.height, node.width, _form(step, node),
            is_plain(node.activation, source.format, step.format),
        )  # fmt: skip
        tile = choose(shape)
        p = np.zeros((), forms.CONVOLUTION)
        _fill(
            p, input=self._address(source), weights=at["weights"], factors=at["factors"], offsets=at["offsets"],
            input_height=source.group.height, input_width=source.group.width,
            input_pitch=source.group.pitch * source.group.size, output_height=node.height, output_width=node.width,
            rows=rows, columns=len(weights), pitch=pitch, steps=-(-depth // tile.depth), kernel_height=window.height,
            kernel_width=window.width, stride=window.stride, pad_top=window.top, pad_left=window.left,
            units=packed.units, half=node.channels,
            fill=_word(source.format), by_area=divisor(node.height * node.width), by_width=divisor(node.width),
            by_units=divisor(packed.units), by_kernel_width=divisor(window.width),
        )  # fmt: skip
        p["epilogue"] = epilogue(node.activation, FLOAT16 if step.part is not None else step.format)
        if step.part is not None:
            part, network = step.part, self._network
            _fill(
                p, sigmoids=part.sigmoids, output_pitch=network.channels,
                output=self._memory.output + 2 * (part.row * network.channels + part.column),
                image_stride=network.points * network.channels,
                is_wide=not any(count % 4 for count in (network.channels, part.column, node.channels)),
            )  # fmt: skip
        else:
            p["output"], p["output_pitch"] = self._result(step)
            if node.partner is not None:
                partner, half = step.sources[1], node.channels // 2
                gap = -half % (16 // step.format.size)
                _fill(p, partner=self._address(partner), partner_pitch=partner.group.pitch, half=half, gap=gap)
        blocks = -(-rows // tile.rows)
        if tile.patch:
            of_picture = -(-node.height * node.width // tile.rows)
            blocks = self._batch * of_picture
            width = (node.width - 1) * window.stride + window.width
            _fill(
                p, blocks=of_picture, patch_width=width, patch_bytes=tile.patch_bytes(shape),
                by_blocks=divisor(of_picture), by_patch_width=divisor(width),
            )  # fmt: skip
        grid = (blocks, -(-len(weights) // tile.columns))
        return Launch(tile, shape, p, grid, tile.threads, tile.shared(shape), step)

    def _stem(self, index: int, step: Step, node: Stem) -> Launch:
        at, (source,), middle = self._memory.constants[index], step.sources, node.convolution
        window = middle.window
        p = np.zeros((), forms.STEM)
        middle_size = 2 * STEM_BLOCK
        pitch = -(-(middle_size * window.stride + window.width + 3) // 4) * 4
        down, across = (-(-size // STEM_BLOCK) for size in (node.height, node.width))
        _fill(
            p, input=self._address(source), **{name: at[name] for name in ("weights", "factors", "offsets")},
            input_height=source.group.height, input_width=source.group.width, middle_height=middle.height,
            middle_width=middle.width, output_height=node.height, output_width=node.width,
            kernel_height=window.height, kernel_width=window.width, stride=window.stride, pad_top=window.top,
            pad_left=window.left, blocks_down=down, words=-(-node.channels // CHANNEL_STEP) * CHANNEL_STEP // 4,
            tile_pitch=pitch, tile_height=middle_size * window.stride + window.height, fill=_word(source.format),
            by_quads=divisor(pitch // 4), by_kernel_width=divisor(window.width),
        )  # fmt: skip
        p["output"], p["output_pitch"] = self._result(step)
        p["epilogue"] = epilogue(middle.activation, step.format)
        plain = is_plain(middle.activation, source.format, step.format)
        return Launch("stem", None, p, (across, down * self._batch), STEM_THREADS, 0, step, plain)

    def _window(self, index: int, step: Step) -> Launch:
        """Returns a depthwise convolution's or a pooling's launch."""
        node, (source,), at = step.node, step.sources, self._memory.constants[index]
        assert isinstance(node, (Convolution, Pool))
        window = node.window
        channels = depthwise_channels(source)
        p = np.zeros((), forms.WINDOW)
        _fill(
            p, input=self._address(source), input_height=source.group.height, input_width=source.group.width,
            input_pitch=source.group.pitch, output_height=node.height, output_width=node.width,
            pixels=self._batch * node.height * node.width, channels=channels, kernel_height=window.height,
            kernel_width=window.width, stride=window.stride, pad_top=window.top, pad_left=window.left,
            input_form=_kind(source.format), form=_kind(step.format), fill=_word(source.format),
            by_parts=divisor(channels // 4), by_width=divisor(node.width), by_height=divisor(node.height),
        )  # fmt: skip
        p["output"], p["output_pitch"] = self._result(step)
        kernel, threads = "pool", int(p["pixels"]) * channels // 4
        if isinstance(node, Convolution):
            _fill(p, **{name: at[name] for name in ("weights", "factors", "offsets")})
            p["epilogue"] = epilogue(node.activation, step.format)
            kernel = f"depthwise{window.height}" if source.format.is_int8 else "depthwise_float16"
            quads = -(-node.width // 4)
            by_rows = self._batch * node.height * quads * channels // 4
            if source.format.is_int8 and window.stride == 1 and by_rows >= _ENOUGH_THREADS:
                kernel, threads = f"depthwise_row{window.height}", by_rows
                _fill(p, weights=at["row_weights"], by_width=divisor(quads))
        return _between(kernel, p, threads, step)

    def _combination(self, index: int, step: Step, node: Combination) -> Launch:
        at = self._memory.constants[index]
        p = np.zeros((), forms.COMBINATION)
        channels = max(depthwise_channels(source) for source in step.sources)
        for place, (operand, source) in enumerate(zip(node.operands, step.sources, strict=True)):
            o = p["operands"][place]
            _fill(
                o, address=self._address(source), form=_kind(source.format),
                pitch=source.group.pitch, height=source.group.height, width=source.group.width,
                scale=source.format.scale, zero_point=source.format.zero_point,
            )  # fmt: skip
            if operand.taps is not None:
                rows, columns, weights = (at[f"{name}{place}"] for name in ("rows", "columns", "taps"))
                quarters = source.format.is_int8 and not np.any((4 * operand.taps.weights) % 1)
                _fill(o, rows_at=rows, columns_at=columns, weights=weights, has_quarters=quarters)
            if operand.rounded is not None:
                scale = operand.rounded.scale
                _fill(o, rounded_scale=scale, rounded_steps=1 / scale, rounded_zero_point=operand.rounded.zero_point)
        _fill(
            p, count=len(node.operands), height=node.height, width=node.width, channels=channels,
            pixels=self._batch * node.height * node.width, form=_kind(step.format),
            steps=1 / (step.format.scale or 1.0), epilogue=_of_real(node.activation, step.format),
            by_parts=divisor(channels // 4), by_width=divisor(node.width), by_height=divisor(node.height),
        )  # fmt: skip
        p["output"], p["pitch"] = self._result(step)
        are_int8 = [source.format.is_int8 for source in step.sources] + [step.format.is_int8]
        resized = [index for index, operand in enumerate(node.operands) if operand.taps is not None]
        many = int(p["pixels"]) * channels // 16 >= _MANY_THREADS
        if (
            many
            and all(are_int8)
            and channels % 16 == 0
            and all(p["operands"][index]["has_quarters"] for index in resized)
        ):
            p["by_parts"] = divisor(channels // 16)
            return _between("combine_int8", p, int(p["pixels"]) * channels // 16, step)
        return _between("combine", p, int(p["pixels"]) * channels // 4, step)

    def _copies(self, index: int, step: Step) -> list[Launch]:
        made = []
        output, pitch = self._result(step)
        for place, source in enumerate(step.sources):
            p = np.zeros((), forms.COPY)
            count, pixels = len(source.places), self._batch * step.node.height * step.node.width
            _fill(
                p, input=self._address(source), output=output,
                channels=self._memory.constants[index][f"channels{place}"], count=count, pixels=pixels,
                input_pitch=source.group.pitch, output_pitch=pitch, size=step.format.size, by_count=divisor(count),
            )  # fmt: skip
            made.append(_between("copy_channels", p, pixels * count, step))
        return made


def source_of(launch: Launch) -> tuple[str, dict[str, int]]:
    """Returns the source file of a launch's kernel, without its ending, and the macros that it is compiled with."""
    if launch.kernel == "stem":
        return "stem", {"PLAIN": int(launch.plain)}
    if isinstance(launch.kernel, str):
        return "between", {}
    assert launch.shape is not None
    return "convolution", launch.kernel.macros(launch.shape)


def _fill(parameters: npt.NDArray[np.void], **values: Any) -> None:
    for name, value in values.items():
        parameters[name] = value


def _kind(fmt: Format) -> int:
    """Returns how plain tensors of a format are stored."""
    return forms.INT8 if fmt.is_int8 else forms.FLOAT16


def _form(step: Step, node: Convolution) -> int:
    """Returns how a convolution's result is stored."""
    if step.part is not None:
        return forms.NETWORK_OUTPUT
    if node.partner is not None:
        return forms.INT8_SHUFFLED if step.format.is_int8 else forms.FLOAT16_SHUFFLED
    return _kind(step.format)


def _of_real(activation: Activation, fmt: Format) -> npt.NDArray[np.void]:
    """Returns the epilogue of values that are not in steps yet."""
    found = epilogue(activation, FLOAT16)
    found["zero_point"] = fmt.zero_point
    return found


def _word(fmt: Format) -> int:
    """Returns four bytes of a format's zero."""
    return (fmt.zero_point & 0xFF) * 0x01010101 if fmt.is_int8 else 0


def _between(kernel: str, parameters: npt.NDArray[np.void], threads: int, step: Step) -> Launch:
    return Launch(kernel, None, parameters, (-(-threads // BETWEEN_THREADS), 1), BETWEEN_THREADS, 0, step)
