"""What is wrong with a configuration, in words."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from pydantic import BaseModel

from streamer.app.options import value_shown
from streamer.app.overrides import SourceOverrides
from streamer.common.errors import nearest, one_line
from streamer.common.redaction import redact


def explain(problem: dict[str, Any], mappings: Set[str], config: type[BaseModel]) -> str:
    """Returns a problem that pydantic found in a configuration in words, by the key that was written.

    `mappings` are the sources with keys of their own.
    """
    place = [redact(str(part)) for part in problem["loc"]]
    is_override = place[:1] == ["overrides"]
    if is_override and not mappings.isdisjoint(problem["loc"][1:2]):
        place[0] = "source"
    key = one_line(".".join(place))
    if problem["type"] == "extra_forbidden":
        fields = SourceOverrides.model_fields if is_override else config.model_fields
        known = [field.alias or name for name, field in fields.items()]
        return f"unknown key {key!r}{nearest(place[-1], known)} (known: {', '.join(known)})"
    message = "wanted one value or a list" if problem["type"] == "tuple_type" else problem["msg"]
    message = message.removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        message += nearest(str(problem["input"]), re.findall("'([^']*)'", problem["ctx"]["expected"])).rstrip("?")
    if not place:
        return message
    return f"{key}: {message[:1].lower()}{message[1:]}, got {value_shown(problem['input'])}"
