"""Reading a YAML file that holds keys and values."""

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
    """Takes plain words for what they look like: only decimal numbers, true, false and null aren't strings.

    YAML 1.1 also makes booleans of ``no`` and ``on``, numbers of ``10:30`` and ``017``, and dates of ``2024-01-01``,
    which as a name or a value nobody means.
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
# What PyYAML quotes of a file, which may be a password: not a character, nor a kind of token such as '<block end>'.
_QUOTED = re.compile(r"'(?!<)[^']{3,}'")


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns what the file holds, an empty mapping for an empty file.

    Raises:
        ConfigError: if it can't be read (its cause is an `OSError` then), is larger than 1 MiB, isn't UTF-8 text, isn't
            YAML, has a key twice, is nested or repeats itself beyond measure, or holds something other than keys and
            values.
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
    """Looks through a file's nodes before values are made of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def check(self, node: yaml.Node, depth: int) -> int:
        """Returns how many characters `node` has, at least one a value, once every alias is written out.

        Raises:
            ConfigError: if there are too many, a key stands twice, or it is nested too deep or in itself.
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
