"""What `--list` prints. The imports are in here: each list needs others, and some take seconds."""

from __future__ import annotations

from streamer.common.errors import EngineError


def list_known(what: str) -> list[str]:
    """Returns a line for each model, engine, device or source; `what` names which."""
    match what:
        case "models":
            from streamer.models.zoo import ZOO, where

            return [f"{name:28} {where(model)}" for name, model in ZOO.items()]
        case "engines":
            from streamer.detector.cuda import installed_gpu_engines
            from streamer.engines import installed_engines

            known = {**installed_engines(), **installed_gpu_engines()}
            return [f"{name:14} {command or 'installed'}" for name, command in known.items()]
        case "devices":
            from streamer.common.cpu_info import available_cores, processor_name
            from streamer.cuda.gpu import list_gpus

            return [f"cpu            {processor_name()}, {available_cores()} cores", *list_gpus(), _nvdec()]
        case _:
            from streamer.sources import list_sources

            return list_sources()


def _nvdec() -> str:
    from streamer.cuda.nvdec import check_nvdec

    try:
        check_nvdec(0)  # the package and the driver, which are the same for all GPUs
    except EngineError as error:
        return f"nvdec          not usable: {error}"
    return "nvdec          decodes files and streams (--decode)"
