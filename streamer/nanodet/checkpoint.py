"""Reading official checkpoints, and saying clearly why one doesn't fit."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamer.errors import ModelError
from streamer.nanodet.network import NanoDet

_CONSTANT = "head.distribution_project."
NEVER_APPLIED = (_CONSTANT, "head.gfl_reg.")
"""Beginnings of the parameter names that official networks hold but don't compute with: no exported file has them."""

_PREFIXES = ("avg_model.", "model.", "module.")
_TRAINING_ONLY = ("aux_fpn.", "aux_head.")
_NAMED_AT_MOST = 3


class _Inert:
    """Takes the place of whatever class a training framework saved beside the weights: it keeps and does nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def load_checkpoint(path: Path | str) -> tuple[dict[str, Tensor], str]:
    """Reads the inference weights of a NanoDet checkpoint.

    Reads ``{"state_dict": {...}}`` or a bare state dict, and files saved by Lightning: there the averaged weights
    (``avg_model.``) are preferred to the last ones (``model.``), and the auxiliary training head is left out. Nothing
    in the file is executed: torch's weights-only loader reads it, and other objects in it become empty ones.

    Returns:
        The weights on the CPU by the network's own parameter names, and the SHA-256 of the file in hex.

    Raises:
        ModelError: the file is missing, cut short, or no checkpoint of a network.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't read the checkpoint: {error.strerror or error}") from None
    weights = _own_names(_state_dict(_unpickle(content, path), path))
    if not weights:
        raise ModelError(f"{path}: not a NanoDet checkpoint: it has no weights")
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: the weights of {name} are not finite numbers: the training diverged")
    return weights, hashlib.sha256(content).hexdigest()


def _unpickle(content: bytes, path: Path) -> Any:
    if not content:
        raise ModelError(f"{path}: the checkpoint is empty: get it again")
    if content.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a Git LFS pointer, not the checkpoint itself: run 'git lfs pull'")
    stream = io.BytesIO(content)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(stream)
    except Exception:  # not a zip archive, or damaged: the reader below says so
        foreign = []
    stream.seek(0)
    try:
        with torch.serialization.safe_globals([(type("Inert", (_Inert,), {}), name) for name in foreign]):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can trip the reader anywhere
        if foreign:
            advice = "where you trust it, save its weights alone with torch.save({'state_dict': ...}, FILE)"
            raise ModelError(f"{path}: holds what is not read for safety ({_few(foreign)}); {advice}") from error
        raise ModelError(f"{path}: not a PyTorch checkpoint of plain weights, or cut short: get it again") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Picks the state dict out of what the file held."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: not a NanoDet checkpoint: it holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{path}: not a NanoDet checkpoint: its entry {name!r} is not a tensor")
    return dict(content)


def _own_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off the prefix a training framework put on, preferring averaged weights; drops the auxiliary head."""
    for prefix in _PREFIXES:
        chosen = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if chosen:
            weights = chosen
            break
    return {name: value for name, value in weights.items() if not name.startswith(_TRAINING_ONLY)}


def load_into(network: NanoDet, weights: Mapping[str, Tensor]) -> None:
    """Loads weights by name into a network, fused or not, in place and strictly.

    What the network holds but never applies (`distribution_project`, v0's `gfl_reg`, the batch counters of
    BatchNorm2d) may be missing, and the first, a constant, stays as the network made it. Nothing is loaded when
    anything is wrong.

    Args:
        network: a network of `build`, after `fuse_batchnorm` if the weights are from an exported file.
        weights: tensors by the network's own parameter names, any floating type.

    Raises:
        ModelError: a name is missing or unknown, or a shape differs; the line says which and what that points to.
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
    """Says what the differences point to, if anything."""
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
