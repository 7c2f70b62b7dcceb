"""The command line's options as plain values, kept in the cache folder: ``--help`` then needs no pydantic.

They are declared as fields of `StreamConfig`, whose import takes most of the time of ``--help``. What is kept belongs
to the modules that it was made from: a change of any of them makes it again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from streamer.common.cache import cached_file

log = logging.getLogger(__name__)

GROUPS = ("sources", "model and detection", "outputs", "clips", "live page", "speed", "run")
YES_OR_NO = "yes-or-no"
"""The action of an option that has a form with ``--no-``."""
_PACKAGE = Path(__file__).parent.parent


class DeclaredOption(NamedTuple):
    """An option as `argparse` takes it.

    Attributes:
        group: of `GROUPS`.
        flags: such as ``-o`` and ``--output``.
        parse: of `_PARSERS`, or an empty string.
        settings: more arguments of `add_argument`.
    """

    group: str
    flags: Sequence[str]
    parse: str
    settings: Mapping[str, Any]


def _count(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "path": Path,
    "count": _count,
    "comma": _comma_separated,
}


def add_options(parser: argparse.ArgumentParser, options: Sequence[DeclaredOption]) -> Mapping[str, Any]:
    """Adds options to a parser; returns its groups by name."""
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for option in options:
        settings = dict(option.settings)
        if settings.get("action") == YES_OR_NO:
            settings["action"] = argparse.BooleanOptionalAction
        if option.parse:
            settings["type"] = _PARSERS[option.parse]
        groups[option.group].add_argument(*option.flags, **settings)
    return groups


def kept_options(declared: Callable[[], Sequence[DeclaredOption]]) -> Sequence[DeclaredOption]:
    """Returns the options that `declared` returns, from the cache where none of this program's modules has changed."""
    path = cached_file("options", f"{sys.hexversion:x}-{crc32(str(_PACKAGE).encode()):08x}.json")
    try:
        kept = json.loads(path.read_bytes())
        if all(_state(module) == state for module, state in kept["modules"].items()):
            return [DeclaredOption(*option) for option in kept["options"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    options = declared()
    _keep(path, options)
    return options


def _keep(path: Path, options: Sequence[DeclaredOption]) -> None:
    from streamer.common.atomic_file import atomic_file

    files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("streamer")]
    states = {file: _state(file) for file in files if file}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(json.dumps({"modules": states, "options": options}), encoding="utf-8")
    except OSError as error:
        log.debug("can't keep the options in %r: %s", str(path), error.strerror or error)


def _state(module: str) -> list[int]:
    """Returns what changes when a module is edited or installed again."""
    found = Path(module).stat()
    return [found.st_size, found.st_mtime_ns]
