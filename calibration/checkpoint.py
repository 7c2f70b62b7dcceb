"""Reads the weights of official checkpoints."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from calibration.weights_file import read_weights
from streamer.common.errors import ModelError
from streamer.common.file_content import text_instead

_AVERAGED = frozenset({"avg_model", "ema", "ema_model"})
_PREFIXES = _AVERAGED | {"model", "module", "net", "network"}
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_TRAINING_ONLY = ("aux_fpn.", "aux_head.")


def load_checkpoint(path: Path | str, *, with_auxiliary: bool = False) -> tuple[dict[str, Tensor], str]:
    """Reads the inference weights of a NanoDet checkpoint.

    Reads PyTorch files, safetensors, ``.npz`` and pickled NumPy arrays: a state dict, also under a key of a training
    framework (``state_dict``, ``model``, ``ema``, ...). Removes prefixes and, unless `with_auxiliary`, the auxiliary
    training head, and prefers averaged weights (``avg_model.``, ``ema``). Executes nothing in the file and ignores
    other objects.

    Returns:
        The weights on the CPU by the network's own parameter names, and the SHA-256 of the file in hex.

    Raises:
        ModelError: the file is missing, truncated or no checkpoint.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't read the checkpoint: {error.strerror or error}") from None
    if problem := text_instead(content[:512]):
        raise ModelError(f"{path}: not a checkpoint: it {problem}")
    weights = _own_names(read_weights(content, path))
    if not with_auxiliary:
        weights = {name: value for name, value in weights.items() if not name.startswith(_TRAINING_ONLY)}
    if not weights:
        raise ModelError(f"{path}: not a NanoDet checkpoint: it has no weights")
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: the weights of {name} are not finite numbers: the training diverged")
    return weights, hashlib.sha256(content).hexdigest()


def _own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes prefixes of training frameworks, in any order.

    Of several copies of the network it takes the averaged one, else the largest.
    """
    copies: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for name, value in weights.items():
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        prefixes = tuple(itertools.takewhile(_PREFIXES.__contains__, parts))
        copies.setdefault(prefixes, {})[".".join(parts[len(prefixes) :])] = value
    averaged = {prefixes: copy for prefixes, copy in copies.items() if not _AVERAGED.isdisjoint(prefixes)}
    return max((averaged or copies).values(), key=len, default={})
