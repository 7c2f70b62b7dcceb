"""Reads weight files of PyTorch, safetensors and NumPy without executing code from them."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.safe_pickle import SafePickle, StoredArray, Unread
from streamer.common.errors import ModelError, short

_AVERAGED_KEYS = ("params_ema", "ema_state_dict", "model_ema", "ema")
_KEYS = (*_AVERAGED_KEYS, "state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module")
"""Keys of training frameworks for a state dict, averaged ones first."""
_DEEPEST = 4
_NAMED_AT_MOST = 3
_TRUNCATED = "not a PyTorch checkpoint of plain weights, or cut short: get it again"
_SAVE_ALONE = "save its weights alone with torch.save({'state_dict': network.state_dict()}, FILE)"


def read_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file's content by the names they have there, on the CPU; `path` is for messages.

    Raises:
        ModelError: the file is empty, damaged, of another kind (which is named), or holds no weights.
    """
    if not content:
        raise ModelError(f"{path}: the checkpoint is empty: get it again")
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a Git LFS pointer, not the checkpoint itself: run 'git lfs pull'")
    if path.suffix.lower() == ".onnx":
        raise ModelError(f"{path}: an ONNX file is a model already: give it as --model")
    if _is_safetensors(content):
        return _read_safetensors(content, path)
    return _tensors(_find_state_dict(_read_pickled(content, path), path), path)


def _is_safetensors(content: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and the header's brace."""
    return content[8:9] == b"{" and 2 <= int.from_bytes(content[:8], "little") <= len(content) - 8


def _read_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise ModelError(f"{path}: reading a .safetensors file needs a package: pip install safetensors") from None
    try:
        return dict(load(content))
    except Exception as error:  # a damaged header can trip the reader anywhere
        raise ModelError(f"{path}: a damaged .safetensors file, or cut short: get it again ({error})") from error


def _read_pickled(content: bytes, path: Path) -> Any:
    stream = io.BytesIO(content)
    names = _zip_names(stream)
    if names is not None:
        _refuse_programs(names, path)
        if names and all(name.endswith(".npy") for name in names):
            return _read_npz(stream, path)
    stream.seek(0)
    try:
        if names is None and not _is_legacy_torch(content):
            return SafePickle.load(stream, encoding="latin1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storage classes that old files name
            return torch.load(stream, map_location="cpu", pickle_module=SafePickle, weights_only=False)
    except Exception as error:  # a damaged file can trip the reader anywhere
        raise ModelError(f"{path}: {_TRUNCATED}") from error


def _zip_names(stream: io.BytesIO) -> list[str] | None:
    """Returns the names in a zip archive, or None where the file is none or its end is missing."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return archive.namelist()
    except Exception:  # no zip archive, or damaged anywhere
        return None


def _is_legacy_torch(content: bytes) -> bool:
    """Whether a file begins with the magic number of PyTorch before 1.6, or is a zip archive cut short."""
    if content.startswith(b"PK"):
        return True
    try:
        return bool(SafePickle.loads(content) == torch.serialization.MAGIC_NUMBER)
    except Exception:  # damaged: the reader says so
        return False


def _refuse_programs(names: list[str], path: Path) -> None:
    ends = [name.split("/", 1)[-1] for name in names]
    if "constants.pkl" in ends:
        raise ModelError(
            f"{path}: a TorchScript file, which holds a program: take the checkpoint it was made from, or export it to "
            "ONNX and run that with --model-config"
        )
    if any(end in ("archive_format", "models/model.json", "serialized_exported_program.json") for end in ends):
        raise ModelError(
            f"{path}: a program of torch.export (.pt2): take the checkpoint it was made from, or export it to ONNX and "
            "run that with --model-config"
        )


def _read_npz(stream: io.BytesIO, path: Path) -> dict[str, Tensor]:
    try:
        with np.load(stream, allow_pickle=False) as arrays:
            return {name: _tensor(arrays[name]) for name in arrays.files}
    except Exception as error:  # damaged, or arrays of objects
        raise ModelError(f"{path}: not an .npz file of plain arrays, or cut short: get it again") from error


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """Returns an array of any byte order and layout, of none to many dimensions, as a tensor of its own memory."""
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def _find_state_dict(content: Any, path: Path, depth: int = 0) -> Mapping[Any, Any]:
    """Finds the state dict in a file's content."""
    if isinstance(content, Mapping):
        inner = [content[key] for key in _KEYS if isinstance(content.get(key), Mapping)]
        holding = [value for value in inner if depth < _DEEPEST and _holds_weights(value, depth)]
        if holding:
            return _find_state_dict(holding[0], path, depth + 1)
        if any(isinstance(value, Tensor | StoredArray) for value in content.values()) or inner:
            return content if not inner else inner[0]
        unread = [str(key) for key, value in content.items() if isinstance(value, Unread)]
        if any(key in _KEYS for key in unread):
            raise ModelError(f"{path}: its {unread[0]!r} is an object, which is not read for safety: {_SAVE_ALONE}")
        found = ", ".join(short(key) for key in list(content)[:_NAMED_AT_MOST]) or "nothing"
        raise ModelError(f"{path}: not a NanoDet checkpoint: it holds {found}, and no tensor")
    if isinstance(content, Unread):
        raise ModelError(f"{path}: it is a pickled object, which is not read for safety: {_SAVE_ALONE}")
    raise ModelError(f"{path}: not a NanoDet checkpoint: it holds a {type(content).__name__}, not a state dict")


def _holds_weights(content: Any, depth: int) -> bool:
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return False
    if any(isinstance(value, Tensor | StoredArray) for value in content.values()):
        return True
    return any(_holds_weights(content.get(key), depth + 1) for key in _KEYS)


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a state dict; numbers and objects beside them are left out."""
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, StoredArray) and value.array is not None:
            value = _tensor(value.array)
        if not isinstance(name, str) or not isinstance(value, Tensor):
            continue
        if value.is_meta:
            raise ModelError(
                f"{path}: {name} has no values (it was saved on the 'meta' device): save the network again"
            )
        if value.is_quantized or value.is_complex():
            raise ModelError(f"{path}: {name} is {value.dtype}: give the checkpoint of the float network")
        tensors[name] = value.to_dense() if value.layout != torch.strided else value
    return tensors
