"""Resolves model names to files: packaged, cached or downloaded."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cached_file
from streamer.common.errors import ConfigError, ModelError, nearest, short
from streamer.common.redaction import redact
from streamer.common.timed_http import Deadline, response_within
from streamer.models.file_forms import ENDINGS

if TYPE_CHECKING:
    from streamer.models.spec import ModelSpec

log = logging.getLogger(__name__)

_PACKAGED = Path(__file__).parent.parent / "data"
_RELEASE = "https://github.com/RangiLyu/nanodet/releases/download/v1.0.0-alpha-1"
_LEAST_BYTES_A_S = 10_000


@dataclass(frozen=True)
class ZooModel:
    """A model known by name.

    Attributes:
        name: network and input size, such as ``nanodet-plus-m_416``.
        onnx_url: the official export, or None where upstream publishes none.
        sha256: of the packaged file or of `onnx_url`, where known.
    """

    name: str
    onnx_url: str | None = None
    sha256: str | None = None


ZOO = {
    model.name: model
    for model in (
        ZooModel("nanodet-g_416", sha256="c6bcb004a002ec01353dee29887a8429ff29620bf33390cfc1f3358a05dcc554"),
        ZooModel("nanodet-g_416_float", sha256="f5ddc6820f5230b435a72d803dc36889850d6dd6b403d4704802552bd5b9750f"),
        *(
            ZooModel(name, f"{_RELEASE}/{name}.onnx")
            for network in ("nanodet-plus-m", "nanodet-plus-m-1.5x")
            for name in (f"{network}_320", f"{network}_416")
        ),
    )
}


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
            raise ConfigError(f"the model file {redact(model)!r} does not exist{_near_files(path)}")
        return path, None
    if model not in ZOO:
        raise ConfigError(
            f"unknown model {short(model)}{nearest(model, ZOO)} (see --list models, or give an .onnx file)"
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
    log.warning("downloading %s from %s", model.name, model.onnx_url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(model.onnx_url, path, model.sha256)
    except OSError as error:
        raise ModelError(f"can't write {str(path)!r}: {error.strerror or error}") from error
    return path


def download(url: str, path: Path, sha256: str | None, *, timeout_s: float = 20.0, max_bytes: int = 1 << 29) -> None:
    """Downloads `url` to `path` atomically, after checking its length and checksum.

    Raises:
        ModelError: the server can't be reached, breaks off, sends less than 10 kB/s or more than `max_bytes`, or the
            checksum differs.
        OSError: `path` can't be written.
    """
    by_hand = f"download it by hand to {str(path)!r}, or give an .onnx file with --model"
    with atomic_file(path) as partial:
        digest = hashlib.sha256()
        size = 0
        with partial.open("wb") as file:
            try:
                deadline = Deadline(timeout_s)
                with _opener(deadline).open(url, timeout=timeout_s) as response:
                    wanted = response.headers.get("Content-Length")
                    while block := response.read1(1 << 16):
                        digest.update(block)
                        size += len(block)
                        if size > max_bytes:
                            raise ModelError(f"{url} gives more than {max_bytes} bytes, which is no model: {by_hand}")
                        file.write(block)
                        deadline.credit(len(block) / _LEAST_BYTES_A_S)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise ModelError(f"can't get {url} ({error}): {by_hand}") from error
        if wanted is not None and size != int(wanted):
            raise ModelError(f"{url} broke off after {size} of {wanted} bytes: try again, or {by_hand}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ModelError(f"{url} gave a file with SHA-256 {digest.hexdigest()}, wanted {sha256}: {by_hand}")


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    """Returns an opener whose responses must be complete by a deadline."""

    class Connection(http.client.HTTPConnection):
        response_class = response_within(deadline)

    class TlsConnection(http.client.HTTPSConnection):
        response_class = response_within(deadline)

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, request)

    class TlsHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(TlsConnection, request)

    return urllib.request.build_opener(Handler, TlsHandler)
