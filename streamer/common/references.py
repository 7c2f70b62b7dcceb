"""References in configured values: ``${NAME}`` to the environment, ``${file:PATH}`` to a file, such as a Docker secret.

The form is that of Docker Compose and of OpenTelemetry's collector. ``$${`` stands for ``${``; a ``$`` before anything
else stands for itself, since a password may hold one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamer.common.errors import ConfigError, nearest, short
from streamer.common.redaction import HIDDEN, hide, redact

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(file|env):)?((?:[^{}]|\$\{[^{}]*\})*)\}")
_ESCAPED = "$${"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ENDS_AUTHORITY = re.compile("[/?#]")
_MOST_BYTES = 4096


def expand(text: str) -> str:
    """Returns a text with its references replaced by their values.

    Raises:
        ConfigError: a variable isn't set or is empty, or a file can't be read or holds no single line.
    """
    return _REFERENCE.sub(_value, text)


def expand_all(value: Any) -> Any:
    """Returns a value with the references in its texts replaced, also in those of lists; raises as `expand`."""
    if isinstance(value, str):
        return expand(value)
    if isinstance(value, (list, tuple)):
        return [expand_all(part) for part in value]
    return value


def expand_uri(text: str) -> tuple[str, str | None]:
    """Returns a URI with its references replaced, and what may be printed of it; None where that is `redact`'s to say.

    In the user and password, and in a query's values, a value is percent-encoded: it is what the camera wants to have,
    as it is. A reference alone before the ``@`` is ``user:password``. Elsewhere a value stands as it is. Of all but the
    host nothing is printed, and `redact_text` hides it wherever it turns up.

    Raises:
        ConfigError: as `expand`.
    """
    scheme, places = _SCHEME.match(text), [found.span() for found in _REFERENCE.finditer(text)]
    if scheme is None or not places:  # a path, or a whole URI in one variable
        return expand(text), None
    plain = _REFERENCE.sub(lambda found: "x" * len(found[0]), text)
    end_of_authority = _ENDS_AUTHORITY.search(plain, scheme.end())
    authority_end = end_of_authority.start() if end_of_authority else len(plain)
    host_at = max(scheme.end(), plain.rfind("@", scheme.end(), authority_end) + 1)
    values, shown, at = "", "", 0
    for start, end in places:
        value = printed = expand(text[start:end])
        if text[start:end] != _ESCAPED and not host_at <= start < authority_end:
            printed = HIDDEN
            if start < host_at:
                value = _in_userinfo(value, plain[scheme.end() : start], plain[end : host_at - 1])
            elif _is_query_value(plain[authority_end:start]):
                value = _encoded(value)
            else:
                hide(value)
        values, shown, at = values + text[at:start] + value, shown + text[at:start] + printed, end
    return values + text[at:], redact(shown + text[at:])


def _in_userinfo(value: str, before: str, after: str) -> str:
    """Encodes a value of a URI's user and password, between what is written of them `before` and `after` it."""
    if ":" in after:
        return quote(value, safe="")
    user, colon, password = value.partition(":")
    if colon and not before and not after:
        return f"{quote(user, safe='')}:{_encoded(password)}"
    return _encoded(value)


def _is_query_value(before: str) -> bool:
    _, asks, query = before.partition("?")
    return bool(asks) and "=" in re.split("[&;]", query)[-1]


def _encoded(secret: str) -> str:
    hide(secret)
    return quote(secret, safe="")


def _value(found: re.Match[str]) -> str:
    if found[0] == _ESCAPED:
        return "${"
    return _file(expand(found[2])) if found[1] == "file" else _variable(found[2])


def _variable(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{short('${' + name + '}')} is no reference: write ${{NAME}} or ${{file:PATH}}, or $${{ for ${{"
        )
    value = os.environ.get(name)
    if value is None:
        hint = nearest(name, os.environ) or (
            ": an output's name has {source}, without the $" if name == "source" else ": set it, or write ${file:PATH}"
        )
        raise ConfigError(f"the environment variable {name!r} isn't set{hint}")
    return _checked(value, f"the environment variable {name!r}")


def _file(text: str) -> str:
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no such home
    shown = f"the file {text!r} of a reference"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{shown} is larger than {_MOST_BYTES} bytes: it should hold one password")
    try:
        value = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{shown} is not text in UTF-8") from None
    return _checked(value.removesuffix("\n").removesuffix("\r"), shown)


def _checked(value: str, shown: str) -> str:
    if not value:
        raise ConfigError(f"{shown} is empty")
    if any(ord(character) < 32 for character in value):
        raise ConfigError(f"{shown} holds more than one line, or a control character")
    return value
