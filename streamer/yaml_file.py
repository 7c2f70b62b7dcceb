"""Reading a YAML file that holds keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from streamer.errors import ConfigError


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns what the file holds, an empty mapping for an empty file.

    Raises:
        ConfigError: if it can't be read, isn't UTF-8 text, isn't YAML, or holds something other than keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not a text file in UTF-8: see its byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"can't read {str(path)!r}: {error.strerror or error}") from None
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise ConfigError(f"{str(path)!r} is nested too deep; it should hold keys and values") from None
    except Exception as error:  # of many kinds: a KeyError for `!!bool x`, an AttributeError for `!!timestamp x`
        reason = " ".join(str(error).split())
        raise ConfigError(f"{str(path)!r} is not a YAML file: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{str(path)!r} should hold keys and values, got a {type(content).__name__}")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{str(path)!r} has the key {key!r}, wanted a word; put it in quotes if it is one")
    return content
