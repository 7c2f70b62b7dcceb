"""Reads official checkpoints and explains why one doesn't fit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from streamer.common.errors import ModelError
from streamer.models.nanodet.network import NanoDet
from streamer.models.nanodet.weights_file import read_weights

_CONSTANT = "head.distribution_project."
NEVER_APPLIED = (_CONSTANT, "head.gfl_reg.")
"""Prefixes of parameters that official networks don't use; exported files lack them."""

_AVERAGED = frozenset({"avg_model", "ema", "ema_model"})
_PREFIXES = _AVERAGED | {"model", "module", "net", "network"}
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_TRAINING_ONLY = ("aux_fpn.", "aux_head.")
_NAMED_AT_MOST = 3


def load_checkpoint(path: Path | str) -> tuple[dict[str, Tensor], str]:
    """Reads the inference weights of a NanoDet checkpoint.

    Reads PyTorch files, safetensors, ``.npz`` and pickled NumPy arrays: a state dict, also under a key of a training
    framework (``state_dict``, ``model``, ``ema``, ...). Removes prefixes and the auxiliary training head, and prefers
    averaged weights (``avg_model.``, ``ema``). Executes nothing in the file and ignores other objects.

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
    weights = _own_names(read_weights(content, path))
    if not weights:
        raise ModelError(f"{path}: not a NanoDet checkpoint: it has no weights")
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: the weights of {name} are not finite numbers: the training diverged")
    return weights, hashlib.sha256(content).hexdigest()


def _own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes prefixes of training frameworks, in any order, and the auxiliary head.

    Of several copies of the network it takes the averaged one, else the largest.
    """
    copies: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for name, value in weights.items():
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        prefixes = tuple(itertools.takewhile(_PREFIXES.__contains__, parts))
        copies.setdefault(prefixes, {})[".".join(parts[len(prefixes) :])] = value
    averaged = {prefixes: copy for prefixes, copy in copies.items() if not _AVERAGED.isdisjoint(prefixes)}
    chosen = max((averaged or copies).values(), key=len, default={})
    return {name: value for name, value in chosen.items() if not name.startswith(_TRAINING_ONLY)}


def load_into(network: NanoDet, weights: Mapping[str, Tensor]) -> None:
    """Loads weights by name into a network, fused or not, in place and strictly.

    Unused parameters (`distribution_project`, v0's `gfl_reg`, batch counters of BatchNorm2d) may be missing. The
    network is fused with `fuse_batchnorm` first if the weights are from an exported file.

    Raises:
        ModelError: a name is missing or unknown, or a shape differs; nothing is loaded.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights and not _may_be_missing(name)]
    unexpected = [name for name in weights if name not in own]
    misshaped = [name for name in own if name in weights and weights[name].shape != own[name].shape]
    if missing or unexpected or misshaped:
        problems = []
        for what, names in (("missing", missing), ("unexpected", unexpected)):
            if names:
                problems.append(f"{len(names)} {what} ({_few(names)})")
        if misshaped:
            shapes = [f"{name} wanted {_shape(own[name])}, got {_shape(weights[name])}" for name in misshaped]
            problems.append(f"{len(misshaped)} mis-shaped ({_few(shapes)})")
        hint = _hint(network, weights, missing, unexpected, misshaped)
        raise ModelError(f"the weights don't fit {network.spec.name}: {', '.join(problems)}{hint}")
    constants = {name: value for name, value in own.items() if name.startswith(_CONSTANT)}
    network.load_state_dict({**own, **weights, **constants})


def _may_be_missing(name: str) -> bool:
    return name.startswith(NEVER_APPLIED) or name.endswith("num_batches_tracked")


def _few(items: list[str]) -> str:
    return ", ".join(items[:_NAMED_AT_MOST]) + (", ..." if len(items) > _NAMED_AT_MOST else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _hint(
    network: NanoDet, weights: Mapping[str, Tensor], missing: list[str], unexpected: list[str], misshaped: list[str]
) -> str:
    """Explains the differences, if possible."""
    spec = network.spec
    if missing or unexpected:
        return "; is it the checkpoint of another network, or fused where the other is not?"
    if all(name.startswith("head.gfl_cls.") for name in misshaped):
        got = weights["head.gfl_cls.0.bias"].shape[0]
        classes = got - 4 * (spec.reg_max + 1)
        described = f"the model description {spec.num_classes} labels"
        return f"; with reg_max {spec.reg_max} it has {classes} classes, {described}"
    if all(name.startswith("head.") for name in misshaped):
        return "; reg_max, the number of classes or the head's width differs from the model description"
    return "; another width of the network: take the model description it was trained with"
