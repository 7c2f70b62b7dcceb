"""What `--list` prints. The imports are in here: each list needs others, and some take seconds."""

from __future__ import annotations

from streamer.common.errors import EngineError, counted


def list_known(what: str) -> list[str]:
    """Returns a line for each model, engine, device, encoder, source, kind of output or schema; `what` names which."""
    match what:
        case "models":
            return _models()
        case "engines":
            from streamer.engines import installed_engines
            from streamer.engines.gpu_engines import installed_gpu_engines

            known = {**installed_engines(), **installed_gpu_engines()}
            return [f"{name:14} {command or 'installed'}" for name, command in known.items()]
        case "devices":
            from streamer.common.cpu_info import available_cores, processor_name
            from streamer.cuda.gpu import list_gpus

            return [f"cpu            {processor_name()}, {counted(available_cores(), 'core')}", *list_gpus(), _nvdec()]
        case "encoders":
            from streamer.sinks.video.encoders import list_encoders

            return list_encoders()
        case "outputs":
            from streamer.sinks.spec import OUTPUT_KINDS

            return [f"{name:36} {what}" for name, what in OUTPUT_KINDS.items()]
        case "schemas":
            from importlib.resources import files

            found = files("streamer.data").joinpath("schemas").iterdir()
            return sorted(f"{entry.name.partition('.')[0]:8} {entry}" for entry in found)
        case _:
            from streamer.sources import list_sources

            return list_sources()


def _models() -> list[str]:
    import hashlib

    from streamer.detector.speeds import measured_speeds
    from streamer.models.zoo import ZOO, file_of, where

    lines = [f"{'name':24} {'parameters':>10} {'AP':>5} {'file':>7}  {'speed here':36} where"]
    speeds = measured_speeds()
    for name, model in ZOO.items():
        path = file_of(model)
        size = "" if path is None else f"{path.stat().st_size / 1e6:.1f} MB"
        sha256 = model.sha256 or (path is not None and hashlib.sha256(path.read_bytes()).hexdigest())
        speed = speeds.get(sha256) if sha256 else None
        said = "not measured yet" if speed is None else str(speed)
        lines.append(f"{name:24} {model.megaparameters:8} M {model.ap:5} {size:>7}  {said:36} {where(model)}")
    return [
        *lines,
        "AP: COCO val2017, as published for the float network. Speed: of the network alone, measured at its first use.",
        "--model also takes any ONNX file of NanoDet, PicoDet, YOLOX, RTMDet, D-FINE or DEIMv2 (docs/models.md).",
    ]


def _nvdec() -> str:
    from streamer.cuda.nvdec import check_nvdec

    try:
        check_nvdec(0)  # the package and the driver, which are the same for all GPUs
    except EngineError as error:
        return f"nvdec          not usable: {error}"
    return "nvdec          decodes files and streams (--decode)"
