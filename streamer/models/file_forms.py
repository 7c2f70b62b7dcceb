"""What a model file's name says of its form: what is read here, and what to do about the others."""

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
"""By which a model is a file rather than a name."""


def is_ir(path: Path) -> bool:
    """Whether a file is named as an OpenVINO IR is."""
    return path.suffix.lower() == _IR


def is_openvinos(path: Path) -> bool:
    """Whether a file is of a form that OpenVINO runs and ONNX Runtime doesn't."""
    return path.suffix.lower() in (_IR, ".tflite")


def is_onnx(path: Path) -> bool:
    """Whether a file is named as an ONNX file is."""
    return path.suffix.lower() == _ONNX


def refuse_other_forms(path: Path) -> None:
    """Refuses a model of a form that is only read elsewhere.

    Raises:
        ModelError: it is one; the message says what to do.
    """
    cure = _CURES.get(path.suffix.lower())
    if cure is not None:
        raise ModelError(f"{str(path)!r} {cure.format(path=path, stem=path.stem)}")
