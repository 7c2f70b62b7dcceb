"""Loads weights into a network and explains why some don't fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from streamer.common.errors import ModelError, counted
from streamer.models.nanodet.network import NanoDet

_CONSTANT = "head.distribution_project."
NEVER_APPLIED = (_CONSTANT, "head.gfl_reg.")
"""Prefixes of parameters that official networks don't use; exported files lack them."""

_NAMED_AT_MOST = 3


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
        described = f"the model description {counted(spec.num_classes, 'label')}"
        return f"; with reg_max {spec.reg_max} it has {counted(classes, 'class')}, {described}"
    if all(name.startswith("head.") for name in misshaped):
        return "; reg_max, the number of classes or the head's width differs from the model description"
    return "; another width of the network: take the model description it was trained with"
