"""TensorRT, of any package: the engine is built on first use, cached, and run on the slot's own stream."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np

from streamer.common.errors import ConfigError, EngineError
from streamer.cuda.current_context import preserving_current
from streamer.cuda.engine import Binding, CudaEngine, Launch
from streamer.cuda.gpu import Gpu
from streamer.cuda.memory import DeviceBuffer
from streamer.engines.tensorrt.cache import cached_engine, read_engine, read_report
from streamer.engines.tensorrt.loading import deserialize
from streamer.engines.tensorrt.options import BuildOptions, contains_code
from streamer.engines.tensorrt.package import TensorRTPackage
from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "f16", "f32")


def installed_package() -> TensorRTPackage:
    """Returns the first package that is installed, or `tensorrt_rtx` where none is."""
    return next(
        (package for package in TensorRTPackage if importlib.util.find_spec(package.module_name)),
        TensorRTPackage.TENSORRT_RTX,
    )


class TensorRtEngine(CudaEngine):
    """Runs a TensorRT engine: input and output float32, computed in FP16, and INT8 where the model is quantised."""

    name = "tensorrt"
    channels_last = False
    input_type = output_type = np.dtype(np.float32)

    def __init__(self, model: ModelFile, gpu: Gpu, *, precision: str = "auto", batch: int = 1) -> None:
        """Loads the engine for this GPU and the largest `batch` from the cache, or builds it.

        `precision` is f16, f32, or auto: f16. An INT8 model's quantised layers stay INT8.
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"TensorRT computes in f16 or f32, not {precision}; use --precision auto")
        package = installed_package()
        self._trt = trt = package.load()
        options = BuildOptions(fp16=precision != "f32", max_batch=batch)
        with gpu.active(), preserving_current():  # it builds for the current GPU
            path = cached_engine(
                model, package, options, device=gpu.index, on_progress=_LoggedProgress(model.path.name)
            )
        report, data = read_report(path), read_engine(path)
        try:
            with gpu.active():
                self._runtime, self._engine = deserialize(trt, data, allow_host_code=contains_code(report.fingerprint))
        except EngineError as error:
            raise EngineError(
                f"{package.value} {trt.__version__} can't run {path.name} on {gpu.name}: {error};"
                " use --engine torch, or a GPU this package supports"
            ) from error
        floating = "f16" if options.fp16 else "f32"
        computes_int8 = any("INT8" in layer.inputs for layer in report.layers) if report.layers else model.quantized
        self.precision = f"int8+{floating}" if computes_int8 else floating
        self._gpu = gpu
        self._spec = model.spec
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {self._engine.get_tensor_mode(name): name for name in names}
        self._input, self._output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]

    def bind(self, batch: int, input_address: int, output_address: int, stream: int) -> TensorRtBinding:
        workspace = DeviceBuffer(self._gpu, max(1, self._engine.device_memory_size_v2), zeroed=False)
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            workspace.free()
            raise EngineError(f"TensorRT can't make an execution context on {self._gpu.name}: is its memory full?")
        context.set_device_memory(workspace.address, workspace.nbytes)
        width, height = self._spec.input_size_wh
        accepted = (
            context.set_input_shape(self._input, (batch, 3, height, width))
            and context.set_tensor_address(self._input, input_address)
            and context.set_tensor_address(self._output, output_address)
        )
        if not accepted:
            del context  # before its memory and its engine; the traceback would keep it
            workspace.free()
            raise EngineError(f"TensorRT refuses a batch of {batch}: build the engine with --max-batch {batch} or more")
        return TensorRtBinding(context, workspace, stream)

    def close(self) -> None:
        self._engine = self._runtime = None


class TensorRtBinding(Binding):
    """One execution context with its own workspace."""

    def __init__(self, context: Any, workspace: DeviceBuffer, stream: int) -> None:
        super().__init__(stream)
        self._context = context
        self._workspace = workspace

    def enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream):
            raise EngineError("TensorRT refused to run the network: the log has its reason")

    def capture(self, body: Launch) -> Launch | None:
        """Records a graph, unless TensorRT-RTX reports that this context can't be captured."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self.stream):
            log.info("TensorRT-RTX can't capture this engine: it runs without a CUDA graph")
            return None
        return super().capture(body)

    def close(self) -> None:
        self._context = None
        self._workspace.free()


class _LoggedProgress:
    """Logs each tenth of a build."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged_tenth = -1

    def __call__(self, phase: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if phase.startswith("Building") and tenth != self._logged_tenth:
            self._logged_tenth = tenth
            log.info("building the engine of %s: %s, %d%%", self._name, phase, 10 * tenth)
