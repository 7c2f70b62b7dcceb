"""Initial weights: from an official checkpoint, an own one, or an exported float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from calibration.checkpoint import load_checkpoint
from calibration.training.batchnorm import is_folded, unfold
from calibration.training.checkpoint_file import ACTIVATION_KEY, NAMES_KEY, read_checkpoint
from calibration.training.network import HEAD_DEVIATION, PRIOR_BIAS, TrainingNetwork
from streamer.common.errors import ModelError, listed
from streamer.models.file import find_description, read_onnx
from streamer.models.nanodet import NEVER_APPLIED, load_into
from streamer.models.spec import ModelSpec, spec_for

_PROJECT = "head.distribution_project.project"
_AUXILIARY = ("aux_fpn.", "aux_head.")
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Source:
    """Weights by the names of official checkpoints, and what is known about them.

    Attributes:
        path: the file.
        weights: by name.
        names: class names of the head's rows, or None.
        form: the kind of file.
        activation: that they were trained with, or None.
        shown: how a model card names the file, where it isn't the user's: the name of a packaged model; empty is its
            path.
    """

    path: Path
    weights: dict[str, Tensor]
    names: tuple[str, ...] | None
    form: str
    activation: str | None = None
    shown: str = ""

    def keeps_head(self, spec: ModelSpec) -> bool:
        """Returns whether a network keeps the head's rows of all its classes and boxes, see `initialise`."""
        first = self.weights.get("head.gfl_cls.0.weight")
        if first is None:
            return False
        bins = 4 * (spec.reg_max + 1)
        source_bins = 4 * len(self.weights[_PROJECT]) if _PROJECT in self.weights else bins
        rows, _ = _matching_rows(self.names, len(first) - source_bins, spec.labels)
        return source_bins == bins and None not in rows


def initialise(network: TrainingNetwork, source: Source | None, names: Sequence[str]) -> tuple[str, ...]:
    """Loads weights into a network, in place; where classes differ, the head's rows are new.

    Rows of classes with the same name are kept, whatever case it is written in. New ones begin at a probability of
    0.01. Rows of the boxes are kept. Without weights for the auxiliary head, its neck begins as a copy of the main one.

    Args:
        network: just built.
        source: of `read_source`; None keeps the random weights.
        names: the classes to train, in output order.

    Returns:
        What was done, each in one sentence. Where it says that normalisation is folded (`batchnorm.is_folded`),
        `batchnorm.restore_batchnorm` has to follow.

    Raises:
        ModelError: the weights are another network's; nothing is loaded.
    """
    if len(names) != network.spec.num_classes:
        raise ValueError(f"wanted {network.spec.num_classes} class names, got {len(names)}")
    if source is None:
        return (f"{network.spec.name} begins with random weights",)
    weights = unfold(network.network, source.weights)
    head, said = _fit_head(network, weights, source.names, names)
    weights |= head
    own = network.network.state_dict()
    unused = {
        key for key in own if key.startswith(NEVER_APPLIED) and key in weights and weights[key].shape != own[key].shape
    }
    main = {key: value for key, value in weights.items() if key not in unused and not key.startswith(_AUXILIARY)}
    try:
        load_into(network.network, main)
    except ModelError as error:
        raise ModelError(f"{source.path}: {error}") from None
    done = [f"{network.spec.name} begins with the weights of {source.shown or source.path} ({source.form})", *said]
    if network.auxiliary is not None:
        done.append(_load_auxiliary(network, weights))
    if is_folded(network.network):
        done.append("batch normalisation is folded in this file: its statistics are measured on training pictures")
    return tuple(done)


def read_source(path: Path) -> Source:
    """Reads a checkpoint, official or own (averaged weights first), or an exported float ONNX file.

    Raises:
        ModelError: the file can't be read, or is an INT8 file.
    """
    if path.suffix.lower() == ".onnx":
        return _read_exported(path)
    weights, _ = load_checkpoint(path, with_auxiliary=True)
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    try:
        own = read_checkpoint(path)
    except ModelError:
        return Source(path, weights, None, "a checkpoint")
    names = tuple(str(name) for name in own[NAMES_KEY])
    return Source(path, weights, names, "a checkpoint of this program", own.get(ACTIVATION_KEY))


def _read_exported(path: Path) -> Source:
    proto, _ = read_onnx(path)
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        raise ModelError(f"{path}: an INT8 file; give the float model that it was made from, or the checkpoint")
    spec = find_description(path, proto)
    weights = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy()).float()
        for item in proto.graph.initializer
        if item.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and item.name.startswith(("backbone.", "fpn.", "head."))
    }
    if spec is None:
        return Source(path, weights, None, "an exported model")
    return Source(path, weights, spec.labels, "an exported model", spec.activation)


def _fit_head(
    network: TrainingNetwork, weights: dict[str, Tensor], source_names: tuple[str, ...] | None, names: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the prediction layers' weights with the network's own rows, and what was done to them."""
    spec = network.spec
    first = weights.get("head.gfl_cls.0.weight")
    if first is None:  # another network's, which loading says
        return {}, []
    bins = 4 * (spec.reg_max + 1)
    source_bins = 4 * len(weights[_PROJECT]) if _PROJECT in weights else bins
    classes = len(first) - source_bins
    rows, said = _matching_rows(source_names, classes, names)
    rows_of_boxes: list[int | None] = list(range(classes, len(first))) if source_bins == bins else [None] * bins
    if source_bins != bins:
        said.append(f"the head's box rows are new: {source_bins // 4} bins a side there, {bins // 4} here")
    fitted = {}
    for name, own in network.official_state().items():
        if name not in weights or weights[name].shape[1:] != own.shape[1:]:
            continue
        if name.startswith("head.gfl_cls."):
            fitted[name] = _pick_rows(weights[name], rows + rows_of_boxes, own)
        elif name.startswith("aux_head.gfl_cls."):
            fitted[name] = _pick_rows(weights[name], rows, own)
    return fitted, said


def _matching_rows(
    source_names: tuple[str, ...] | None, classes: int, names: Sequence[str]
) -> tuple[list[int | None], list[str]]:
    """Returns the source's row of each class, None where it has none, and what that means."""
    coco = spec_for("nanodet-m_320").labels
    if source_names is None and classes == len(coco):
        source_names = coco
    if source_names is None or len(source_names) != classes:
        if classes == len(names):
            return list(range(classes)), [f"{_nameless(classes)}: taken to be yours, in order"]
        return [None] * len(names), [f"the head is new: {_nameless(classes)}, so none is kept"]
    places = {name.casefold(): row for row, name in reversed(list(enumerate(source_names)))}
    rows = [places.get(name.casefold()) for name in names]
    kept = [name for name, row in zip(names, rows, strict=True) if row is not None]
    new = [name for name, row in zip(names, rows, strict=True) if row is None]
    some_kept, some_new = listed(kept, _NAMED_AT_MOST), listed(new, _NAMED_AT_MOST)
    if not new:
        return rows, [f"the head's rows of {_all_of(names)} are kept"]
    if not kept:
        return rows, [f"the head's rows are new for {_all_of(names)} ({some_new}), each at probability 0.01"]
    return rows, [f"the head's rows are kept for {some_kept}, and new for {some_new}, each at probability 0.01"]


def _nameless(classes: int) -> str:
    return "its class has no name" if classes == 1 else f"its {classes} classes have no names"


def _all_of(names: Sequence[str]) -> str:
    return "its class" if len(names) == 1 else f"all {len(names)} classes"


def _pick_rows(values: Tensor, rows: Sequence[int | None], own: Tensor) -> Tensor:
    """Returns rows of a weight or bias; new ones have the prior bias and small normal weights."""
    new = torch.full_like(own[:1], PRIOR_BIAS) if own.ndim == 1 else None
    picked = []
    for row in rows:
        if row is not None:
            picked.append(values[row : row + 1])
        else:
            picked.append(torch.randn_like(own[:1]) * HEAD_DEVIATION if new is None else new)
    return torch.cat(picked)


def _load_auxiliary(network: TrainingNetwork, weights: dict[str, Tensor]) -> str:
    auxiliary = network.auxiliary
    assert auxiliary is not None
    own = auxiliary.state_dict()
    given = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    network.has_new_auxiliary = len(given) < len(own)
    if not network.has_new_auxiliary:
        auxiliary.load_state_dict(given)
        return "the auxiliary head's weights are kept"
    auxiliary.aux_fpn.load_state_dict(network.network.fpn.state_dict())
    return "the file has no auxiliary head: its neck begins as a copy of the main one, its layers with random weights"
