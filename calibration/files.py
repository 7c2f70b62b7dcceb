"""Writing results: all of a file or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from streamer.errors import ConfigError
from streamer.whole_file import whole_file


def check_output(output: Path, source: Path) -> None:
    """Refuses an output that can't be written or is its own source, before any work is done.

    Raises:
        ConfigError: naming the fix.
    """
    if output.resolve() == source.resolve():
        raise ConfigError(f"{output}: the output is the input itself; give -o another name")
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; give -o a file name ending .onnx")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: its folder doesn't exist; make it first")


def write_whole(output: Path, content: bytes) -> None:
    """Writes all of `content` or nothing; an existing file is replaced at once.

    Raises:
        ConfigError: if it can't be written (no space, no permission); no partial file is left.
    """
    try:
        with whole_file(output) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{output}: can't be written: {error.strerror or error}") from error


def sha256_of_files(files: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, of the files' names and contents, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
