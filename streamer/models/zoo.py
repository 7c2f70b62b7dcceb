"""Resolves model names to files: packaged, cached or downloaded."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.cache import cached_file
from streamer.common.errors import ConfigError, ModelError, nearest, short
from streamer.common.redaction import redact
from streamer.models.file_forms import ENDINGS, READ, TAKEN

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)

_PACKAGED = Path(__file__).parent.parent / "data"
_RELEASE = "https://github.com/RangiLyu/nanodet/releases/download/v1.0.0-alpha-1"


@dataclass(frozen=True)
class ZooModel:
    """A model known by name.

    Attributes:
        name: network and input size, such as ``nanodet-plus-m_416``.
        megaparameters: parameters of the network, millions.
        ap: COCO AP on val2017, percent, as its authors publish it for the float network.
        onnx_url: the official export, or None where upstream publishes none.
        sha256: of the packaged file or of `onnx_url`, where known.
    """

    name: str
    megaparameters: float
    ap: float
    onnx_url: str | None = None
    sha256: str | None = None


_G_INT8 = "c6bcb004a002ec01353dee29887a8429ff29620bf33390cfc1f3358a05dcc554"
_G_FLOAT = "f5ddc6820f5230b435a72d803dc36889850d6dd6b403d4704802552bd5b9750f"
ZOO = {
    model.name: model
    for model in (
        ZooModel("nanodet-g_416", 3.81, 22.9, sha256=_G_INT8),
        ZooModel("nanodet-g_416_float", 3.81, 22.9, sha256=_G_FLOAT),
        *(
            ZooModel(name, megaparameters, ap, f"{_RELEASE}/{name}.onnx")
            for name, megaparameters, ap in (
                ("nanodet-plus-m_320", 1.17, 27.0),
                ("nanodet-plus-m_416", 1.17, 30.4),
                ("nanodet-plus-m-1.5x_320", 2.44, 29.9),
                ("nanodet-plus-m-1.5x_416", 2.44, 34.1),
            )
        ),
    )
}


def file_of(model: ZooModel) -> Path | None:
    """Returns a model's file where it is packaged or in the cache, else None."""
    places = (_PACKAGED / f"{model.name}.onnx", cached_file(f"{model.name}.onnx"))
    return next((path for path in places if path.is_file()), None)


def where(model: ZooModel) -> str:
    """Returns where a model's file is now: ``packaged``, ``cached``, ``download`` or ``no public file``."""
    if (_PACKAGED / f"{model.name}.onnx").is_file():
        return "packaged"
    if cached_file(f"{model.name}.onnx").is_file():
        return "cached"
    return "download" if model.onnx_url else "no public file"


def resolve_model(model: str) -> tuple[Path, ModelSpec | None]:
    """Finds the file of a model, a name of the zoo or a path, downloading it the first time it is asked for.

    Returns:
        The file, and its description where the file doesn't carry one (the official exports), else None.

    Raises:
        ConfigError: the file or name doesn't exist.
        ModelError: the download fails, leaving nothing behind, or the packaged file is damaged.
    """
    if os.sep in model or Path(model).suffix.lower() in ENDINGS:
        path = Path(model)
        try:
            found = path.is_file()
        except OSError as error:  # a name that is too long, for instance
            raise ConfigError(f"the model file {short(model)} can't be read: {error.strerror}") from None
        if not found:
            raise ConfigError(_why_missing(model, path))
        return path, None
    if model not in ZOO:
        raise ConfigError(
            _why_missing(model, Path(model))
            if _exists(model)
            else f"unknown model {short(model)}{nearest(model, ZOO)} (--list models; {TAKEN})"
        )
    entry = ZOO[model]
    packaged = _PACKAGED / f"{model}.onnx"
    if packaged.is_file():
        _check_whole(packaged, entry)
        return packaged, None
    from streamer.models.spec import spec_for

    return _cached(entry), spec_for(model)


def _check_whole(path: Path, model: ZooModel) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"can't read the packaged model {str(path)!r}: {error.strerror or error}") from error
    if model.sha256 is not None and hashlib.sha256(content).hexdigest() != model.sha256:
        raise ModelError(f"the packaged model {str(path)!r} is damaged or changed: install the package again")


def _exists(model: str) -> bool:
    try:
        return Path(model).exists()
    except (OSError, ValueError):
        return False


def _why_missing(model: str, path: Path) -> str:
    """Returns why a path is no model file."""
    if path.is_dir():
        found = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in READ)
        return f"the model {redact(model)!r} is a folder: give the file in it{f', such as {found[0]}' if found else ''}"
    if path.exists():
        return f"the model {redact(model)!r} is a file of an unknown kind: {TAKEN}, named .onnx and .xml"
    kinds = "" if path.suffix.lower() in READ else f"; {TAKEN}"
    return f"the model file {redact(model)!r} does not exist{_near_files(path) or kinds}"


def _near_files(path: Path) -> str:
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in ENDINGS])
    except OSError:
        return ""


def _cached(model: ZooModel) -> Path:
    path = cached_file(f"{model.name}.onnx")
    if path.is_file():
        return path
    if model.onnx_url is None:
        raise ModelError(
            f"no public ONNX file of {model.name!r} is known; make one: python -m calibration export --model "
            f"{model.name} --checkpoint FILE -o {model.name}.onnx"
        )
    from streamer.models.download import download

    log.info("downloading %s from %s", model.name, model.onnx_url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(model.onnx_url, path, model.sha256)
    except OSError as error:
        raise ModelError(f"can't write {str(path)!r}: {error.strerror or error}") from error
    return path
