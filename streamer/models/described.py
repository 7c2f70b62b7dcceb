"""A model file and its description, without its graph; and one that an engine has compiled before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer.models.file_forms import is_ir
from streamer.models.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class DescribedModel:
    """What is known of a model without its graph.

    Attributes:
        path: the file.
        sha256: of its bytes, in hex.
        spec: its description.
    """

    path: Path
    sha256: str
    spec: ModelSpec


@dataclass(frozen=True, eq=False)
class PrecompiledModel(DescribedModel):
    """A model as an engine has compiled it before, see `streamer.detector.compiled_models`.

    Attributes:
        precision: as `Engine.precision`.
        options: the engine's own options that it was compiled with.
        compiled: the engine's own form.
    """

    precision: str
    options: Mapping[str, object]
    compiled: bytes


def content_sha256(path: Path) -> str:
    """Returns the SHA-256 of a model's files, an IR's weights included, but not external data of an ONNX file.

    Raises:
        OSError: if one can't be read.
    """
    parts = [path, path.with_suffix(".bin")] if is_ir(path) else [path]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
