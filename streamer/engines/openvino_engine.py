"""OpenVINO on a CPU: asynchronous requests over shared buffers."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamer.common.cpu_info import available_cores, processor_flags
from streamer.common.errors import ConfigError, EngineError
from streamer.common.openvino_core import shared_core
from streamer.common.telemetry import without_telemetry
from streamer.engines.base import REQUESTS_PER_STREAM, Engine
from streamer.models.described import PrecompiledModel
from streamer.models.graph.saturation import has_saturating_sums

if TYPE_CHECKING:
    from streamer.models.file import ModelFile

with without_telemetry():
    import openvino as ov

_PRECISIONS = ("auto", "f32", "bf16")
_HINT = "INFERENCE_PRECISION_HINT"
_RUNTIME_NAMES = {"u8": "int8", "i8": "int8"}
_RUNTIME_INFO = ("layerType", "primitiveType", "runtimePrecision")


class OpenVinoEngine(Engine):
    """Runs a model through OpenVINO's CPU plugin.

    With one slot the plugin spreads a request over all cores (lowest latency); with more it runs requests in parallel,
    each on a share of the cores (highest throughput).
    """

    name = "openvino"

    def __init__(
        self,
        model: ModelFile | PrecompiledModel,
        *,
        slots: int | None,
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Compiles the model; see `streamer.engines.open_engine`.

        Args:
            model: what to run; one that was compiled before, with the same arguments, needs a third of the time.
            slots: requests in flight; None takes `REQUESTS_PER_STREAM` times OpenVINO's own optimal number.
            precision: ``f32``, ``bf16``, or ``auto``: bf16 with AMX, else f32. Where only AVX-512 computes bf16, it is
                slower: 25.6 ms a frame for NanoDet-g 416 and 11.8 for m, against 14.6 and 8.3 (Xeon, two cores).
            threads: cores to use; None uses all that this process may run on.
        """
        if precision not in _PRECISIONS:
            raise ConfigError(f"OpenVINO computes in f32 or bf16 on a CPU, not {precision}; use --precision auto")
        core = shared_core()
        cores = threads or available_cores()
        options: dict[str, object] = {
            "INFERENCE_NUM_THREADS": cores,
            "PERFORMANCE_HINT": "LATENCY" if slots == 1 else "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,  # its threads share the cores with decoding and encoding
        }
        if slots is not None:
            options["NUM_STREAMS"] = min(slots, cores)
        if precision != "auto":
            if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise ConfigError("this processor doesn't compute in bf16; use --precision f32 or auto")
            options[_HINT] = precision
        width, height = model.spec.input_size_wh
        try:
            if isinstance(model, PrecompiledModel):
                options = dict(model.options)
                compiled = core.import_model(model.compiled, "CPU", options)
                self.precision = model.precision
            else:
                compiled, options = _compile(core, model, options)
                self.precision = _computed_precision(compiled)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses {str(model.path)!r}: {_last_line(error)}") from error
        optimal = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.options: Mapping[str, object] = options
        self._compiled = compiled
        self.slots = slots or REQUESTS_PER_STREAM * optimal
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME"))
        self._inputs = [np.zeros((1, height, width, 3), np.uint8) for _ in range(self.slots)]
        self._requests = [compiled.create_infer_request() for _ in range(self.slots)]
        for request, array in zip(self._requests, self._inputs, strict=True):
            request.set_input_tensor(ov.Tensor(array, shared_memory=True))

    def input(self, slot: int) -> npt.NDArray[np.uint8]:
        view: npt.NDArray[np.uint8] = self._inputs[slot][0]
        return view

    def start(self, slot: int) -> None:
        self._requests[slot].start_async()

    def wait(self, slot: int) -> tuple[npt.NDArray[np.float32], float]:
        request = self._requests[slot]
        try:
            request.wait()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_last_line(error)}") from error
        return request.get_output_tensor(0).data[0], request.latency

    def export(self) -> bytes:
        """Returns the compiled model in OpenVINO's own form, for `PrecompiledModel`.

        It is for this version of OpenVINO and processors with the same instruction sets.
        """
        content = io.BytesIO()
        self._compiled.export_model(content)
        return content.getvalue()

    def close(self) -> None:
        self._requests = []
        self._inputs = []


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]


def _compile(core: ov.Core, model: ModelFile, options: dict[str, object]) -> tuple[ov.CompiledModel, dict[str, object]]:
    """Compiles `model` in the form that this processor computes fastest, and correctly; returns the options, too.

    INT8: signed activations where AMX computes them (faster, as there is no zero point), else unsigned ones, as other
    kernels compute signed ones wrongly; without dot-product instructions, with weights whose sums fit 16 bits. Float:
    bf16 where AMX computes it, else f32, unless `options` say which. What the compiled graph uses decides, where the
    processor's flags don't rule it out before.
    """
    width, height = model.spec.input_size_wh
    flags = processor_flags()

    def compiled(content: bytes) -> ov.CompiledModel:
        network = core.read_model(content)
        network.reshape([1, height, width, 3])
        return core.compile_model(network, "CPU", options)

    if model.quantized:
        if not flags or "amx_int8" in flags:
            signed = compiled(model.with_uint8_input(activations="int8"))
            on_amx = _on_amx(signed, "i8")
            if on_amx and all(on_amx):
                return signed, options
        return compiled(model.with_uint8_input(fits_16_bits=has_saturating_sums(flags))), options
    network = model.with_uint8_input()
    if _HINT not in options and "avx512_bf16" in flags and "amx_bf16" not in flags:
        options = {**options, _HINT: "f32"}
    default = compiled(network)
    if _HINT in options or _computed_precision(default) != "bf16" or any(_on_amx(default, "bf16")):
        return default, options
    options = {**options, _HINT: "f32"}
    return compiled(network), options


def _convolutions(compiled: ov.CompiledModel) -> Iterator[dict[str, str]]:
    """Yields the runtime's properties of each convolution of the compiled graph, in lower case."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        known = node.get_rt_info()
        info = {name: str(known[name].value).lower() for name in _RUNTIME_INFO if name in known}
        if "convolution" in info.get("layerType", ""):
            yield info


def _on_amx(compiled: ov.CompiledModel, precision: str) -> list[bool]:
    """Returns which convolutions in `precision` run on AMX, of those that aren't depthwise: AMX has no such kernels."""
    kernels = [info["primitiveType"] for info in _convolutions(compiled) if "primitiveType" in info]
    return ["_amx_" in kernel for kernel in kernels if kernel.endswith(f"_{precision}") and "_dw_" not in kernel]


def _computed_precision(compiled: ov.CompiledModel) -> str:
    """Returns the precision that most convolutions of the compiled graph run in, as the plugin reports it."""
    most = Counter(info["runtimePrecision"] for info in _convolutions(compiled)).most_common(1)
    return _RUNTIME_NAMES.get(most[0][0], most[0][0]) if most else "f32"
