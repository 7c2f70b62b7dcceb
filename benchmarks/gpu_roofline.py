"""The least time of a network on a GPU: its bytes, operations and launches, each over the rate of the GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.gpu_parts import copy_rate, device_copy_rate, gpu_median_ms
from streamer.cuda.engine import capture_graph
from streamer.cuda.gpu import NON_BLOCKING, Gpu, find_gpu
from streamer.cuda.module import KernelModule
from streamer.engines.int8.lowering import lower
from streamer.engines.int8.network import Convolution, Copy, Stem
from streamer.engines.int8.packing import pack
from streamer.engines.int8.program import Memory, ProgramBuilder
from streamer.engines.int8.schedule import schedule
from streamer.models.file import ModelFile

_FLOAT16_OPERATIONS = {
    (7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 7): 2048, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (12, 0): 1024,
}  # fmt: skip
"""FP16 operations of one multiprocessor's tensor cores in a clock, dense; INT8: twice as many. From NVIDIA's tables."""

_CHAIN = 200
_PTX = """.version {version}
.target sm_{arch}
.address_size 64
.visible .entry empty(.param .u64 unused)
{{
{body}    ret;
}}
\0"""
_OVERLAPPED = "    griddepcontrol.launch_dependents;\n    griddepcontrol.wait;\n"


@dataclass(frozen=True)
class Cost:
    """What a network computes and moves for one picture.

    Attributes:
        int8_macs: multiplications with an addition, in INT8.
        float16_macs: in FP16.
        weight_bytes: read once a batch.
        activation_bytes: the input read, tensors between layers written and read, the output written: each once.
        launches: kernels for a batch; None where unknown.
        overlapped: whether a kernel may start while the one before it ends.
    """

    int8_macs: int
    float16_macs: int
    weight_bytes: int
    activation_bytes: int
    launches: int | None
    overlapped: bool


@dataclass(frozen=True)
class Rates:
    """A GPU's rates, all measured but those of operations, which are clock times units.

    Attributes:
        copy_bytes_s: host to device, page-locked.
        device_bytes_s: within device memory, read and written bytes both counted.
        float16_ops_s: dense, of the tensor cores at the highest clock; 0 where unknown.
        int8_ops_s: the same in INT8.
        kernel_ms: an empty kernel in a chain in a CUDA graph.
        overlapped_kernel_ms: the same where each may start while the one before it ends.
    """

    copy_bytes_s: float
    device_bytes_s: float
    float16_ops_s: float
    int8_ops_s: float
    kernel_ms: float
    overlapped_kernel_ms: float


@dataclass(frozen=True)
class Bound:
    """The least time for a batch, in ms.

    Attributes:
        bytes_ms: of moving bytes at the rate of device memory.
        operations_ms: of computing at the tensor cores' rate.
        launches_ms: of as many empty kernels.
    """

    bytes_ms: float
    operations_ms: float
    launches_ms: float

    @property
    def ms(self) -> float:
        """The largest of the three."""
        return max(self.bytes_ms, self.operations_ms, self.launches_ms)

    @property
    def limit(self) -> str:
        """What the largest is."""
        named = {"bytes": self.bytes_ms, "operations": self.operations_ms, "launches": self.launches_ms}
        return max(named, key=lambda name: named[name])


def costs_of(model: ModelFile) -> tuple[Cost, Cost]:
    """Returns the costs of a quantised file's network in FP16, two bytes a value, and in INT8 by the int8 engine.

    The FP16 engine's launches are unknown: its compiler decides them.
    """
    network = lower(model)
    order = schedule(network)
    macs = {True: 0, False: 0}
    weights = {True: 0, False: 0}
    values, between_bytes, output_values = 0, 0, 0
    for step in order.steps:
        node, area = step.node, step.node.height * step.node.width
        if step.result is not None:
            between_bytes += 2 * node.channels * area * step.format.size
            values += 0 if isinstance(node, Copy) else 2 * node.channels * area
        else:
            output_values += node.channels * area
        convolution = node.convolution if isinstance(node, Stem) else node
        if isinstance(convolution, Convolution):
            is_int8 = step.sources[0].format.is_int8
            macs[is_int8] += convolution.weights.size * convolution.height * convolution.width
            weights[is_int8] += convolution.weights.size
    width, height = model.spec.input_size_wh
    input_values = 3 * width * height
    whole = Cost(
        int8_macs=0,
        float16_macs=sum(macs.values()),
        weight_bytes=2 * sum(weights.values()),
        activation_bytes=2 * (input_values + values + output_values),
        launches=None,
        overlapped=False,
    )
    int8 = Cost(
        int8_macs=macs[True],
        float16_macs=macs[False],
        weight_bytes=weights[True] + 2 * weights[False],
        activation_bytes=input_values * order.input_format.size + between_bytes + 2 * output_values,
        launches=_launches(model),
        overlapped=True,
    )
    return whole, int8


def _launches(model: ModelFile) -> int:
    """Returns the kernels that the int8 engine launches for a batch."""
    network = lower(model)
    order = schedule(network)
    packed = [pack(step) for step in order.steps]
    nowhere = Memory(0, 0, 0, [dict.fromkeys(one.arrays, 0) for one in packed])
    return len(ProgramBuilder(network, order, packed, 1, nowhere).launches(lambda shape: shape.tiles[0]))


def bound_of(cost: Cost, rates: Rates, batch: int, *, more_launches: int = 0, more_bytes: int = 0) -> Bound:
    """Returns the least time of a batch; kernels and bytes of each picture around the network can be added."""
    moved = cost.weight_bytes + batch * (cost.activation_bytes + more_bytes)
    kernel_ms = rates.overlapped_kernel_ms if cost.overlapped else rates.kernel_ms
    operations_s = 0.0
    if rates.int8_ops_s:
        operations_s = 2 * batch * (cost.int8_macs / rates.int8_ops_s + cost.float16_macs / rates.float16_ops_s)
    launches_ms = (cost.launches or 0) * kernel_ms + more_launches * rates.kernel_ms
    return Bound(moved / rates.device_bytes_s * 1e3, operations_s * 1e3, launches_ms)


def with_launches(cost: Cost, launches: int | None) -> Cost:
    """Returns a cost with the number of launches that was counted, if any."""
    return replace(cost, launches=launches if cost.launches is None else cost.launches)


def measure_rates(gpu: Gpu, repeats: int) -> Rates:
    """Measures a GPU's rates in about a second."""
    float16 = tensor_rate(gpu)
    return Rates(
        copy_bytes_s=copy_rate(gpu, 64 << 20, repeats),
        device_bytes_s=device_copy_rate(gpu, 1 << 30, max(3, repeats // 4)),
        float16_ops_s=float16,
        int8_ops_s=2 * float16,
        kernel_ms=_chain_ms(gpu, False, repeats),
        overlapped_kernel_ms=_chain_ms(gpu, True, repeats),
    )


def tensor_rate(gpu: Gpu) -> float:
    """Returns FP16 operations a second of the tensor cores at the highest clock, dense; 0 for an unknown kind."""
    import pycuda.driver as drv

    kinds, device = drv.device_attribute, find_gpu(gpu.index)
    clock_hz = 1e3 * device.get_attribute(kinds.CLOCK_RATE)
    units = device.get_attribute(kinds.MULTIPROCESSOR_COUNT)
    return float(clock_hz * units * _FLOAT16_OPERATIONS.get(gpu.compute_capability, 0))


def _chain_ms(gpu: Gpu, overlapped: bool, repeats: int) -> float:
    """Returns the time of one empty kernel of one block among `_CHAIN` in a CUDA graph.

    Overlapped kernels are launched and wait for each other as the int8 engine's do, where the GPU has it.
    """
    import pycuda.driver as drv

    waits = overlapped and gpu.compute_capability >= (9, 0)
    version, arch, body = ("7.8", 90, _OVERLAPPED) if waits else ("6.3", 75, "")
    code = _PTX.format(version=version, arch=arch, body=body).encode()
    parameters = np.zeros((), np.dtype([("unused", np.uint64)]))
    with gpu.active():
        stream: Any = drv.Stream(NON_BLOCKING)
        if overlapped:
            module = KernelModule(gpu, code)
            launch = module.launcher("empty", parameters, (1, 1), 32, 0, int(stream.handle))
        else:
            plain = drv.module_from_buffer(code)
            function = plain.get_function("empty")
            function.prepare("Q")

            def launch_plain() -> None:
                function.prepared_async_call((1, 1), (32, 1, 1), stream, 0)

        def chain() -> None:
            for _ in range(_CHAIN):
                launch() if overlapped else launch_plain()

        whole = capture_graph(int(stream.handle), chain) or chain
        taken_ms = gpu_median_ms(gpu, stream, whole, repeats)
        stream.synchronize()
        del whole
        if overlapped:
            module.close()
    return taken_ms / _CHAIN
