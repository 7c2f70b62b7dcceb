"""The page of all options is what the parser says today."""

from __future__ import annotations

from pathlib import Path

from tools.options_page import page

PAGE = Path(__file__).parent.parent / "docs" / "options.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.options_page > docs/options.md"


def test_every_option_has_a_row() -> None:
    text = page()
    for flag in ("`--source`", "`-o`, `--output`", "`--overlay`, `--no-overlay`", "`-q`, `--quiet`", "`--version`"):
        assert text.count(f"| {flag}") == 1
    assert "nanodet-g_416 | a name of --list models" in text
