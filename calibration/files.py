"""Writes results atomically, and never over an input."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from streamer.common.atomic_file import atomic_file
from streamer.common.errors import ConfigError
from streamer.common.interrupt import cleanup_on_exit
from streamer.sinks.files import same_file


def check_output(output: Path, *inputs: Path | None, ending: str | None = None) -> None:
    """Refuses an output that can't be written or is an input, before any work.

    Args:
        output: the file to write.
        inputs: files that are read; None is no file.
        ending: the output's suffix; None is any.

    Raises:
        ConfigError: naming the fix.
    """
    refuse_inputs(output, *inputs)
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; give a file name{f' ending in {ending}' if ending else ''}")
    if ending is not None and output.suffix.lower() != ending:
        raise ConfigError(f"{output}: the name of what is written here ends in {ending}")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: its folder doesn't exist; make it first")


def refuse_inputs(output: Path, *inputs: Path | None) -> None:
    """Refuses an output that is an input, following links; see `check_output`."""
    if any(path is not None and same_file(output, path) for path in inputs):
        raise ConfigError(f"{output}: the output is the input itself; give it another name")


def check_report(path: Path, begins: bytes) -> None:
    """Raises ConfigError rather than replace a file that isn't empty and doesn't match the pattern `begins`."""
    try:
        with path.open("rb") as file:
            begun = file.read(200)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: can't be replaced: {error.strerror or error}") from error
    if begun.strip() and not re.match(begins, begun):
        raise ConfigError(f"{path}: exists and is not such a report; move it, or give the output another name")


def write_whole(output: Path, content: bytes) -> None:
    """Writes a file atomically; raises ConfigError if that fails."""
    try:
        with atomic_file(output) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{output}: can't be written: {error.strerror or error}") from error


def to_json(content: object, indent: int | None = None) -> str:
    """Returns JSON with null for NaN and Inf."""
    return json.dumps(_without_nan(content), indent=indent, ensure_ascii=False, allow_nan=False)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Creates a folder that is deleted after the block, also when a signal ends the program."""
    with TemporaryDirectory() as name, cleanup_on_exit(lambda: shutil.rmtree(name, ignore_errors=True)):
        yield Path(name)


def sha256_of_files(files: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, of the files' names and contents, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
