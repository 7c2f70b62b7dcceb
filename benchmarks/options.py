"""Command-line options that the benchmarks share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import write_section


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that every benchmark on footage has: footage in, figures and tables out."""
    parser = results_parser(module, description)
    parser.add_argument("--clip", type=Path, action="append", help="footage, repeatable (../shared/clips/*.mp4)")
    return parser


def results_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of where figures and tables go; see `write_results`."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables into a page, between its marks")
    return parser


def write_results(options: argparse.Namespace, figures: Mapping[str, Any], sections: Mapping[str, str]) -> None:
    """Writes what `results_parser`'s options ask for.

    Args:
        options: as parsed.
        figures: goes into the JSON file.
        sections: texts for the page, by the name of their marks.

    Raises:
        ConfigError: if the page lacks the marks, or can't be read or written.
    """
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        for name, text in sections.items():
            write_section(options.markdown, name, text)


def positive(text: str) -> int:
    """Reads a whole number above zero.

    Raises:
        ValueError: if it is none.
    """
    number = int(text)
    if number < 1:
        raise ValueError(f"wanted a number above zero, got {number}")
    return number
