"""Options declared once, as fields of a pydantic model: the command line is made from them, see `option_table`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from streamer.app.option_table import YES_OR_NO, DeclaredOption
from streamer.common.errors import short
from streamer.common.references import expand_all


class FrozenModel(BaseModel):
    """A frozen model that refuses unknown keys, and whose errors show no value.

    References in its texts are replaced (`streamer.common.references`), but for those of keys in `without_references`.
    """

    without_references: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        populate_by_name=True,
        hide_input_in_errors=True,
        defer_build=True,  # until a value is made: most starts need few of the models
    )

    @model_validator(mode="before")
    @classmethod
    def _with_values(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {key: value if key in cls.without_references else expand_all(value) for key, value in values.items()}

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
    short_flag: str | None = None,
    metavar: str | None = None,
    many: Literal["repeat", "comma"] | None = None,
    is_text: bool = False,
    bare: str | None = None,
    **field: Any,
) -> Any:
    """Declares a field that is an option of the command line as well.

    Args:
        default: the field's; named by ``--help`` where the description doesn't.
        group: of `streamer.app.option_table.GROUPS`.
        description: what ``--help`` says; the unit is in `metavar`.
        short_flag: the option in one letter, such as ``-o``.
        metavar: what stands for a value in ``--help``; None lists the choices.
        many: whether the option is repeated, or its value is a list with commas.
        is_text: whether the model parses the value itself, whatever the field's type is.
        bare: the value of the option without one; None where it needs one.
        **field: more for `pydantic.Field`.
    """
    about: dict[str, Any] = {
        "group": group, "short_flag": short_flag, "metavar": metavar, "many": many, "is_text": is_text, "bare": bare,
    }  # fmt: skip
    return Field(default, description=description, json_schema_extra=about, **field)


def declared_options(model: type[BaseModel]) -> list[DeclaredOption]:
    """Returns an option for each field declared with `option`."""
    options: list[DeclaredOption] = []
    for name, field in model.model_fields.items():
        about = field.json_schema_extra
        if isinstance(about, dict) and "group" in about:
            options += _declared(field.alias or name, field, about)
    return options


def _declared(key: str, field: FieldInfo, about: Mapping[str, Any]) -> Iterator[DeclaredOption]:
    group, flag, text = about["group"], key.replace("_", "-"), field.description or ""
    short_flags = [about["short_flag"]] if about["short_flag"] else []
    if field.default is True and field.annotation is bool:
        negative = f"the same as --{flag} no" if about["is_text"] else text
        settings = {"action": "store_false", "dest": key, "help": negative}
        yield DeclaredOption(group, [*short_flags, f"--no-{flag}"], "", settings)
        if not about["is_text"]:
            return
    if field.default is False and field.annotation is bool:
        settings = {"action": "store_true", "dest": key, "help": text}
        yield DeclaredOption(group, [*short_flags, f"--{flag}"], "", settings)
        return
    if field.default not in (None, ()) and "default" not in text:
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        text = f"{text} (default: {default})"
    types = [base for base in _alternatives(field.annotation) if base is not type(None)]
    if types == [bool] and field.default is None:
        yield DeclaredOption(group, [f"--{flag}"], "", {"action": YES_OR_NO, "dest": key, "help": text})
        return
    choices = get_args(types[0]) if len(types) == 1 and get_origin(types[0]) is Literal else None
    arguments: dict[str, Any] = {
        "dest": key, "metavar": about["metavar"], "help": text.replace("%", "%%"), "choices": choices,
    }  # fmt: skip
    if about["bare"] is not None:
        arguments |= {"nargs": "?", "const": about["bare"]}
    parse = ""
    if about["many"] == "repeat":
        arguments["action"] = "append"
    elif about["many"] == "comma":
        parse = "comma"
    elif not about["is_text"] and types[0] in (int, float, Path):
        parse = str(types[0].__name__).lower() if len(types) == 1 else "count"
    yield DeclaredOption(group, [*short_flags, f"--{flag}"], parse, arguments)


def _alternatives(annotation: Any) -> list[Any]:
    """Returns the types of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (None, tuple, Literal):
        return [annotation]
    return [base for part in get_args(annotation) for base in _alternatives(part)]


def value_shown(value: object) -> str:
    """Returns a wrong value as a message shows it; of several only how many, since one may be a password."""
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple, set)) else short(value)
