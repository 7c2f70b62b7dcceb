"""Makes the table of all options from the parser: ``python -m tools.options_page > docs/options.md``."""

from __future__ import annotations

import argparse
import re

from streamer.app.cli import command_line_parser

_HEAD = """\
# All options

Made from the program's own parser by `tools/options_page.py`. In a YAML file (`--config FILE`) a key is the option
without its dashes, with `_` for `-`; `--no-x` is `x: false`. What sources and outputs there are: [usage.md](usage.md).
"""
_TABLE_HEAD = "| option | default | what |\n|---|---|---|"


def page() -> str:
    """Returns the page in Markdown: a table for each group of options, in the order of ``--help``."""
    parts = [_HEAD]
    for group in command_line_parser()._action_groups:
        rows = [_row(action) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows and group.title is not None:
            title = "help" if group.title == "options" else group.title
            parts.append("\n".join([f"## {title.capitalize()}\n", _TABLE_HEAD, *rows, ""]))
    return "\n".join(parts)


def _row(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        value = ""
    elif action.choices is not None:
        value = "|".join(map(str, action.choices))
    else:
        value = str(action.metavar or action.dest.upper())
    names = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{value}`"
    if value and action.option_strings:
        names += " `" + value + "`"
    said = (action.help or "").replace("%%", "%").replace("%(prog)s", "nanodet-stream")
    found = re.search(r" ?\(default: (.*)\)$", said) if said.count("(default:") == 1 else None
    default = found[1] if found else ""
    said = said[: found.start()] if found else said
    return f"| {_cell(names)} | {_cell(default)} | {_cell(said)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
