"""Command-line options that the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that every benchmark has: footage in, figures and tables out."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--clip", type=Path, action="append", help="footage, repeatable (../shared/clips/*.mp4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables into a page, between its marks")
    return parser


def positive(text: str) -> int:
    """Reads a whole number above zero.

    Raises:
        ValueError: if it is none.
    """
    number = int(text)
    if number < 1:
        raise ValueError(f"wanted a number above zero, got {number}")
    return number
