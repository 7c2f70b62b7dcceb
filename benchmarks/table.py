"""Markdown: tables, and putting them into a page between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamer.common.errors import ConfigError


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table, its columns padded so that it reads well as plain text too.

    Args:
        head: the columns' titles; the first column is aligned left, the others right.
        rows: as many cells each as `head`.

    Raises:
        ValueError: if a row has another number of cells.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"wanted {len(head)} cells, got {len(row)}: {row}")
    widths = [max(3, *(len(line[column]) for line in (head, *rows))) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def write_section(page: Path, name: str, text: str) -> None:
    """Puts `text` into a page between the comments ``<!-- NAME begin -->`` and ``<!-- NAME end -->``.

    A page that doesn't exist yet is made; what stands between the marks is replaced, all else is kept.

    Raises:
        ConfigError: if the page exists but lacks the marks, or can't be read or written.
    """
    begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
    try:
        content = page.read_text(encoding="utf-8") if page.exists() else f"{begin}\n{end}\n"
        before, found_begin, rest = content.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise ConfigError(f"{str(page)!r} lacks the marks {begin} and {end}; add them where the table belongs")
        page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't write {str(page)!r}: {error}") from error
