"""What `--list` prints."""

from __future__ import annotations

from streamer.common.errors import EngineError


def list_known(what: str) -> list[str]:
    """Returns a line for each model, engine, device or source; `what` names which."""
    return {"models": _models, "engines": _engines, "devices": _devices, "sources": _sources}[what]()


def _models() -> list[str]:
    from streamer.models.zoo import ZOO, where

    return [f"{name:28} {where(model)}" for name, model in ZOO.items()]


def _engines() -> list[str]:
    from streamer.detector.cuda import installed_gpu_engines
    from streamer.engines import installed_engines

    known = {**installed_engines(), **installed_gpu_engines()}
    return [f"{name:14} {command or 'installed'}" for name, command in known.items()]


def _devices() -> list[str]:
    from streamer.common.cpu_info import available_cores, processor_name
    from streamer.cuda.gpu import list_gpus

    return [f"cpu            {processor_name()}, {available_cores()} cores", *list_gpus(), _nvdec()]


def _nvdec() -> str:
    from streamer.cuda.nvdec import check_nvdec

    try:
        check_nvdec(0)
    except EngineError as error:
        return f"nvdec          not usable: {error}"
    return "nvdec          decodes files and streams (--decode)"


def _sources() -> list[str]:
    from streamer.sources import list_sources

    return list_sources()
