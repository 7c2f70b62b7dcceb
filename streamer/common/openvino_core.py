"""OpenVINO's entry: one `Core` for the whole process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from streamer.common.errors import EngineError
from streamer.common.telemetry import without_telemetry

with without_telemetry():
    import openvino as ov

_core: ov.Core | None = None
_core_lock = threading.Lock()


def shared_core() -> ov.Core:
    """Returns the only `Core` of this process, with the CPU plugin loaded; any thread may call it.

    On Linux the CPU plugin sets an alternate signal stack in the thread that loads it. The memory belongs to the
    `Core`. When several Cores are released in the order of opening, the last release sets a stack that is already
    unmapped, and the next signal ends the process with SIGSEGV. The plugin is therefore loaded on a thread that ends at
    once, and the `Core` lives as long as the process.

    Raises:
        EngineError: if OpenVINO can't load its CPU plugin.
    """
    global _core
    with _core_lock:
        if _core is None:
            core = ov.Core()
            try:
                with ThreadPoolExecutor(1, thread_name_prefix="openvino-load") as pool:
                    pool.submit(core.get_versions, "CPU").result()
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1]
                raise EngineError(f"OpenVINO can't load its CPU plugin: {last}") from error
            _core = core
        return _core


def openvino_version() -> str:
    """Returns OpenVINO's version and build."""
    return str(ov.get_version())
