"""ONNX Runtime on a CPU: the portable engine."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from streamer.common.cpu_info import available_cores
from streamer.common.errors import ConfigError, EngineError, StreamerError
from streamer.engines.base import REQUESTS_PER_STREAM, Engine
from streamer.models.file import ModelFile


class OnnxRuntimeEngine(Engine):
    """Runs a model through ONNX Runtime's CPU provider, each slot on its own thread with a share of the cores."""

    name = "onnxruntime"
    device = "CPU"

    def __init__(
        self, model: ModelFile, *, slots: int | None, precision: str = "auto", threads: int | None = None
    ) -> None:
        """Loads the model; see `streamer.engines.open_engine`. Float models are computed in float32."""
        if precision not in ("auto", "f32"):
            raise ConfigError(f"ONNX Runtime computes in f32 on a CPU, not {precision}; use --precision f32 or auto")
        cores = threads or available_cores()
        self.slots = slots = slots or REQUESTS_PER_STREAM * cores
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, cores // slots)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # lower levels log what is raised, too
        # Spinning threads would use the cores that decoding and encoding need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, 16-bit sums saturate
        try:
            content = model.with_uint8_input(convolution_outputs=True)
            self._session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])
        except StreamerError:
            raise
        except Exception as error:  # its exceptions share no base but Exception
            raise EngineError(f"ONNX Runtime refuses {str(model.path)!r}: {str(error).splitlines()[0]}") from error
        width, height = model.spec.input_size_wh
        self.precision = "int8" if model.quantized else "f32"
        self._input_name = self._session.get_inputs()[0].name
        self._inputs = [np.zeros((1, height, width, 3), np.uint8) for _ in range(slots)]
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="onnxruntime")
        self._running: list[Future[tuple[npt.NDArray[np.float32], float]] | None] = [None] * slots

    def input(self, slot: int) -> npt.NDArray[np.uint8]:
        view: npt.NDArray[np.uint8] = self._inputs[slot][0]
        return view

    def start(self, slot: int) -> None:
        self._running[slot] = self._pool.submit(self._run, slot)

    def _run(self, slot: int) -> tuple[npt.NDArray[np.float32], float]:
        started_at_s = time.perf_counter()
        (output,) = self._session.run(None, {self._input_name: self._inputs[slot]})
        return output[0], (time.perf_counter() - started_at_s) * 1e3

    def wait(self, slot: int) -> tuple[npt.NDArray[np.float32], float]:
        running = self._running[slot]
        if running is None:
            raise EngineError(f"slot {slot} was waited for but not started")
        try:
            return running.result()
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
