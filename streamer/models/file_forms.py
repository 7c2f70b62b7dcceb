"""Model file formats by file name: those that are read, and advice for the others."""

from __future__ import annotations

from pathlib import Path

from streamer.common.errors import ModelError
from streamer.common.file_content import TEXT, text_instead

_ONNX, _IR = ".onnx", ".xml"
READ = (_ONNX, _IR)
"""Suffixes of the files that are read."""
_IMPORT = "python -m calibration import {path} --model-config YAML -o {stem}.onnx makes an ONNX file of it"
_EXPORT = "is a checkpoint: python -m calibration export makes an ONNX file of it"
_BUILT_FROM = "give the ONNX file that it was made from"
_ENGINE = f"is a TensorRT engine: {_BUILT_FROM}, with --engine tensorrt"
_FOREIGN = "is of a form that isn't read here: export the model to ONNX where it was made"
TAKEN = "taken are ONNX files and OpenVINO IR of NanoDet, NanoDet-Plus, PicoDet, YOLOX, RTMDet, D-FINE and DEIMv2"
"""Which models are taken, for messages."""
_CURES = {
    ".param": f"is an NCNN model: {_IMPORT}",
    ".tflite": f"is a TFLite model: {_IMPORT}",
    ".bin": "holds weights alone: give the file beside it, .xml of OpenVINO or .param of NCNN",
    ".ort": f"is in ONNX Runtime's own form: {_BUILT_FROM}",
    ".pt": f"is a PyTorch file: {TAKEN}; python -m calibration export makes one of a NanoDet checkpoint",
    **dict.fromkeys((".engine", ".plan", ".trt"), _ENGINE),
    **dict.fromkeys((".pth", ".ckpt", ".safetensors"), _EXPORT),
    **dict.fromkeys((".torchscript", ".jit", ".pt2"), f"is a traced PyTorch network: {_BUILT_FROM}, or export one"),
    **dict.fromkeys((".hef", ".dlc", ".om", ".rknn", ".blob"), f"is compiled for an accelerator: {_BUILT_FROM}"),
    **dict.fromkeys(
        (".mnn", ".pb", ".mlmodel", ".mlpackage", ".pdmodel", ".h5", ".keras", ".caffemodel", ".weights"), _FOREIGN
    ),
}
ENDINGS = frozenset((_ONNX, _IR, *_CURES))
"""Suffixes of model files, as opposed to model names."""
_HEAD_BYTES = 512
# The magic numbers of other formats and their offsets in bytes, for files that are named .onnx.
_SIGNATURES = (
    (0, b"PK\3\4", "is a PyTorch checkpoint or another zip archive, not ONNX: see what wrote it"),
    (0, b"\x80\2", "is a pickled checkpoint, not ONNX: python -m calibration export makes an ONNX file of it"),
    (0, b"\x89HDF", "is an HDF5 file (Keras), not ONNX: export the model to ONNX where it was made"),
    (0, b"ftrt", f"is a TensorRT engine, not ONNX: {_BUILT_FROM}"),
    (4, b"TFL3", "is a TFLite model, not ONNX: name it .tflite"),
    (4, b"ORTM", f"is in ONNX Runtime's own form: {_BUILT_FROM}"),
)


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
    """Raises ModelError with advice for a file of a format that isn't read, by its name and its first bytes.

    A file that can't be read passes.
    """
    problem = _problem(path, _head_of(path))
    if problem is not None:
        raise ModelError(f"{str(path)!r} {problem}")


def _head_of(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return None


def _problem(path: Path, head: bytes | None) -> str | None:
    """Returns what a file is, where it can't be read, as the end of "FILE ..."; `head` is its start."""
    text = text_instead(head or b"")
    if text not in (None, TEXT):
        return text
    cure = _CURES.get(path.suffix.lower())
    if cure is not None:
        description = path.with_suffix(_IR)
        if path.suffix.lower() == ".bin" and description.is_file():
            return f"holds the weights of {description.name}: give that file"
        return cure.format(path=path, stem=path.stem)
    if head is None or is_ir(path):
        return None
    if not head:
        return "is empty (0 bytes): copy or download it again"
    if head.lstrip().startswith(b"<?xml"):
        return "holds XML: an OpenVINO IR is named .xml, beside its .bin"
    if text is not None:
        return f"{text}, not a model: {TAKEN}"
    if not head.strip(b"\0"):
        return "holds only zeros at its start: copy or download it again"
    return next((said for at, start, said in _SIGNATURES if head.startswith(start, at)), None)
