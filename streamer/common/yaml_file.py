"""Reads a YAML mapping strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from streamer.common.errors import ConfigError, short

MOST_BYTES = 1 << 20
_MOST_WRITTEN_OUT = 4 << 20
_DEEPEST = 50

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is seven times as fast, where it is built in


class _Loader(_Base):  # type: ignore[misc]
    """Reads every plain scalar as text, except decimal numbers, true, false and null.

    YAML 1.1 also reads ``no`` and ``on`` as booleans, ``10:30`` and ``017`` as numbers, ``2024-01-01`` as a date.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}


for _tag, _written, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_written})\Z"), list(_first))
# Text that PyYAML's messages quote from the file, which may be a password; not single characters or token names.
_QUOTED = re.compile(r"'(?!<)[^']{3,}'")


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns the file's mapping, empty for an empty file.

    Raises:
        ConfigError: if the file can't be read (the cause is then an `OSError`), is larger than 1 MiB, isn't UTF-8 or
            YAML, repeats a key, is nested deeper than 50 levels, exceeds 4 MiB with aliases expanded, or is no mapping.
    """
    name = repr(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"can't read {name}: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{name} is larger than 1 MiB: that is no file of keys and values")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not a text file in UTF-8: see its byte {error.start}") from None
    found = _parsed(text, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{name} should hold keys and values, got a {type(found).__name__}")
    for key in found:
        if not isinstance(key, str):
            raise ConfigError(f"{name} has the key {short(key)}, wanted a word; put it in quotes if it is one")
    return found


def _parsed(text: str, name: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _Checks(name).check(root, 0)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except RecursionError:
        raise _too_deep(name) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = _QUOTED.sub("'...'", " ".join(f"{error.problem or error.context}".split()))
        if "nesting depth" in reason:
            raise _too_deep(name) from None
        raise ConfigError(f"{name} is not a YAML file: {reason}{where}") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or "it can't be read"
        raise ConfigError(f"{name} is not a YAML file: {reason}") from None
    except Exception:  # of many kinds: a KeyError for `!!bool x`, an AttributeError for `!!timestamp x`
        raise ConfigError(f"{name} is not a YAML file: a value doesn't fit its '!!' tag") from None


class _Checks:
    """Checks the node tree before it is turned into values."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def check(self, node: yaml.Node, depth: int) -> int:
        """Returns the size of `node` in characters with all aliases expanded.

        Raises ConfigError if it is too large, repeats a key, is nested too deeply, or contains itself.
        """
        if isinstance(node, yaml.ScalarNode):
            return len(node.value) + 1
        known = self._sizes.get(id(node))
        if known is not None:
            return known
        if depth > _DEEPEST or id(node) in self._open:
            raise _too_deep(self._name)
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value
        size = 1
        for part in inner:
            size += self.check(part, depth + 1)
            if size > _MOST_WRITTEN_OUT:
                raise ConfigError(f"{self._name} is larger than 4 MiB with its aliases (*) written out")
        self._open.remove(id(node))
        self._sizes[id(node)] = size
        return size

    def _check_keys(self, node: yaml.MappingNode) -> None:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                where = ", ".join(f"line {number}" for number in sorted({lines[key.tag, key.value], line}))
                raise ConfigError(f"{self._name} has the key {short(key.value)} twice ({where}): leave one out")
            lines[key.tag, key.value] = line


def _too_deep(name: str) -> ConfigError:
    return ConfigError(f"{name} is nested too deep; it should hold keys and values")
