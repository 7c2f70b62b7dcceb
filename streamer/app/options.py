"""Options declared once, as fields of a pydantic model: the command line is made from them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from streamer.common.errors import short

GROUPS = ("sources", "model and detection", "outputs", "speed", "run")


class FrozenModel(BaseModel):
    """A frozen model that refuses unknown keys, and whose errors show no value."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, values: object) -> object:
        """Refuses a boolean, which Python counts as 0 or 1, for any other type."""
        if not isinstance(values, Mapping):
            return values
        for name, field in cls.model_fields.items():
            key = field.alias or name
            value = values.get(key)
            parts = value if isinstance(value, (list, tuple)) else [value]
            if bool not in (field.annotation, *get_args(field.annotation)) and any(
                isinstance(part, bool) for part in parts
            ):
                raise ValueError(f"{key}: can't be true or false, got {value_shown(value)}")
        return values


def option(
    default: Any,
    group: str,
    description: str,
    *,
    metavar: str | None = None,
    many: Literal["repeat", "comma"] | None = None,
    is_text: bool = False,
    **field: Any,
) -> Any:
    """Declares a field that is an option of the command line as well.

    Args:
        default: the field's; named by ``--help`` where the description doesn't.
        group: of `GROUPS`.
        description: what ``--help`` says; the unit is in `metavar`.
        metavar: what stands for a value in ``--help``; None lists the choices.
        many: whether the option is repeated, or its value is a list with commas.
        is_text: whether the model parses the value itself, whatever the field's type is.
        **field: more for `pydantic.Field`.
    """
    about: dict[str, Any] = {"group": group, "metavar": metavar, "many": many, "is_text": is_text}
    return Field(default, description=description, json_schema_extra=about, **field)


def add_options(parser: argparse.ArgumentParser, model: type[BaseModel]) -> Mapping[str, Any]:
    """Adds an option for each field declared with `option`; returns the parser's groups by name."""
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for name, field in model.model_fields.items():
        about = field.json_schema_extra
        if isinstance(about, dict) and "group" in about:
            _add(groups[str(about["group"])], field.alias or name, field, about)
    return groups


def _add(group: Any, key: str, field: FieldInfo, about: Mapping[str, Any]) -> None:
    flag, text = key.replace("_", "-"), field.description or ""
    if field.default is True and field.annotation is bool:
        group.add_argument(f"--no-{flag}", action="store_false", dest=key, help=text)
        return
    if field.default not in (None, ()) and "default" not in text:
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        text = f"{text} (default: {default})"
    types = [base for base in _alternatives(field.annotation) if base is not type(None)]
    choices = get_args(types[0]) if len(types) == 1 and get_origin(types[0]) is Literal else None
    arguments: dict[str, Any] = {"metavar": about["metavar"], "help": text.replace("%", "%%"), "choices": choices}
    if about["many"] == "repeat":
        arguments["action"] = "append"
    elif about["many"] == "comma":
        arguments["type"] = _comma_separated
    elif not about["is_text"] and types[0] in (int, float, Path):
        arguments["type"] = types[0] if len(types) == 1 else _count
    group.add_argument(f"--{flag}", dest=key, **arguments)


def _alternatives(annotation: Any) -> list[Any]:
    """Returns the types of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (None, tuple, Literal):
        return [annotation]
    return [base for part in get_args(annotation) for base in _alternatives(part)]


def _count(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def value_shown(value: object) -> str:
    """Returns a wrong value as a message shows it; of several only how many, since one may be a password."""
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple, set)) else short(value)
