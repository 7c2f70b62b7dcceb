"""INT8 on an NVIDIA GPU by the project's own kernels: needs the driver and nvcc, and no other runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from streamer.common.errors import ConfigError, UnavailableError
from streamer.cuda.compiler import cubin
from streamer.cuda.engine import Binding, CudaEngine
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.cuda.module import KernelLaunch, KernelModule
from streamer.engines.int8.lowering import lower
from streamer.engines.int8.packing import Packed, pack
from streamer.engines.int8.program import Launch, Memory, ProgramBuilder, source_of
from streamer.engines.int8.schedule import schedule
from streamer.engines.int8.tiles import Shape, Tile
from streamer.engines.int8.tuning import TileChoice
from streamer.models.file import ModelFile

_PAGE = 256
_LEAST_CAPABILITY = (7, 5)


class Int8Engine(CudaEngine):
    """Computes a Q/DQ network in int8 on the tensor cores, and layers that it leaves in float in float16.

    Weights are laid out once. Each convolution computes its bias, its activation and the quantisation of its result.
    """

    name = "int8"
    channels_last = True
    input_pitch = 4
    output_type = np.dtype(np.float16)

    def __init__(
        self, model: ModelFile, gpu: Gpu, *, precision: str = "auto", choose: Callable[[Shape], Tile] | None = None
    ) -> None:
        """Lowers the network and loads its constants.

        `precision` is auto: the file says it for each layer. `choose` returns each convolution's tile; without it, they
        are measured.
        """
        if precision != "auto":
            raise ConfigError(f"the int8 engine computes what the file is quantised to, not {precision}: leave it out")
        if not model.quantized:
            raise UnavailableError(f"{model.path.name} isn't quantised: take an INT8 file, or --engine torch")
        if gpu.compute_capability < _LEAST_CAPABILITY:
            raise UnavailableError(f"{gpu.name} ({gpu.arch}) has no INT8 tensor cores: use --engine torch")
        self._gpu = gpu
        self._network = network = lower(model)
        self._schedule = schedule(network)
        self._packed = [pack(step) for step in self._schedule.steps]
        fmt = self._schedule.input_format
        self.input_type = np.dtype(np.int8) if fmt.is_int8 else np.dtype(np.float16)
        self.input_scale, self.input_zero_point = fmt.scale or 1.0, fmt.zero_point
        self.precision = "int8+f16" if network.float16_layers else "int8"
        self._modules: dict[tuple[str, tuple[tuple[str, int], ...]], KernelModule] = {}
        self._choose = choose
        self._tiles = TileChoice(gpu, self._launcher)
        self._constants, self._addresses = _uploaded(gpu, self._packed)

    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> Int8Binding:
        tensors = DeviceBuffer(self._gpu, max(1, batch * self._schedule.nbytes))
        try:
            self._gpu.synchronize()  # the memory is zeroed on another stream
            memory = Memory(input_address, output_address, tensors.address, self._addresses)
            builder = ProgramBuilder(self._network, self._schedule, self._packed, batch, memory)
            if self._choose is None:
                self._tiles.tune(builder, stream)
            chosen = builder.launches(self._choose or self._tiles.best)
            launches = [self._launcher(launch, stream) for launch in chosen]
        except BaseException:
            tensors.free()
            raise
        return Int8Binding(launches, tensors, stream)

    def _launcher(self, launch: Launch, stream: int) -> KernelLaunch:
        source, macros = source_of(launch)
        key = source, tuple(macros.items())
        with self._gpu.active():
            if key not in self._modules:
                self._modules[key] = KernelModule(self._gpu, cubin(source, self._gpu.arch, macros))
            kernel = launch.kernel if isinstance(launch.kernel, str) else source
            return self._modules[key].launcher(
                kernel, launch.parameters, launch.grid, launch.threads, launch.shared, stream
            )

    def close(self) -> None:
        for module in self._modules.values():
            module.close()
        self._modules.clear()
        self._constants.free()


class Int8Binding(Binding):
    """The launches of one batch size, and memory for the tensors between them."""

    def __init__(self, launches: Sequence[KernelLaunch], tensors: DeviceBuffer, stream: int) -> None:
        super().__init__(stream)
        self._launches = launches
        self._tensors = tensors

    def enqueue(self) -> None:
        for launch in self._launches:
            launch()

    def close(self) -> None:
        self._launches = ()
        self._tensors.free()


def _uploaded(gpu: Gpu, packed: Sequence[Packed]) -> tuple[DeviceBuffer, list[Mapping[str, int]]]:
    """Copies all constants to one buffer; returns it and each step's addresses by name."""
    offsets: list[dict[str, int]] = []
    total = 0
    for one in packed:
        offsets.append({})
        for name, array in one.arrays.items():
            offsets[-1][name] = total
            total += -(-array.nbytes // _PAGE) * _PAGE
    whole = np.zeros(max(1, total), np.uint8)
    for one, places in zip(packed, offsets, strict=True):
        for name, array in one.arrays.items():
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            whole[places[name] : places[name] + len(data)] = data
    buffer = DeviceBuffer.holding(gpu, whole)
    return buffer, [{name: buffer.address + at for name, at in places.items()} for places in offsets]
