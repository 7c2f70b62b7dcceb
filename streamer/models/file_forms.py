"""Model file formats by file name: those that are read, and advice for the others."""

from __future__ import annotations

from pathlib import Path

from streamer.common.errors import ModelError

_ONNX, _IR = ".onnx", ".xml"
_IMPORT = "python -m calibration import {path} --model-config YAML -o {stem}.onnx makes an ONNX file of it"
_EXPORT = "is a checkpoint: python -m calibration export makes an ONNX file of it"
_CURES = {
    ".param": f"is an NCNN model: {_IMPORT}",
    ".tflite": f"is a TFLite model: {_IMPORT}",
    ".bin": "holds weights alone: give the file beside it, .xml of OpenVINO or .param of NCNN",
    ".engine": "is a TensorRT engine: give the ONNX file that it was built from, with --engine tensorrt",
    **dict.fromkeys((".pth", ".ckpt", ".safetensors"), _EXPORT),
    **dict.fromkeys(
        (".mnn", ".pb", ".pt", ".pt2", ".torchscript", ".mlmodel", ".mlpackage", ".pdmodel", ".h5", ".keras", ".rknn"),
        "is of a form that isn't read here: export the model to ONNX where it was made",
    ),
}
ENDINGS = frozenset((_ONNX, _IR, *_CURES))
"""Suffixes of model files, as opposed to model names."""


def is_ir(path: Path) -> bool:
    """Whether a file is an OpenVINO IR by its suffix."""
    return path.suffix.lower() == _IR


def is_openvino_format(path: Path) -> bool:
    """Whether OpenVINO reads the file and ONNX Runtime doesn't."""
    return path.suffix.lower() in (_IR, ".tflite")


def is_onnx(path: Path) -> bool:
    """Whether a file is ONNX by its suffix."""
    return path.suffix.lower() == _ONNX


def refuse_other_forms(path: Path) -> None:
    """Raises ModelError with advice for a file of a format that isn't read."""
    cure = _CURES.get(path.suffix.lower())
    if cure is not None:
        raise ModelError(f"{str(path)!r} {cure.format(path=path, stem=path.stem)}")
