"""Serialised engine to runtime and engine, for all packages."""

from __future__ import annotations

import ctypes
from typing import Any

from streamer.common.errors import EngineError
from streamer.engines.tensorrt.log import shared_logger


def deserialize(trt: Any, data: bytes, *, allow_host_code: bool) -> tuple[Any, Any]:
    """Returns a runtime of the module `trt` and the engine that it reads; release the engine first.

    Args:
        trt: the package's module.
        data: the engine's bytes.
        allow_host_code: run the code in a version-compatible engine, which is the lean runtime of the version that
            built it.

    Raises:
        EngineError: with TensorRT's own reason.
    """
    logger = shared_logger(trt)
    with logger.capture() as logged:
        runtime = trt.Runtime(logger)
        if logged.errors:  # such as a driver that is too old: using or freeing the empty object ends the process
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
            raise EngineError(logged.first_error())
        runtime.engine_host_code_allowed = allow_host_code
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineError(logged.first_error())
    return runtime, engine
