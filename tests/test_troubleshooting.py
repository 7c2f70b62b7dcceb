"""The page of messages names messages that the program has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CLONE = Path(__file__).parent.parent


def texts() -> Iterator[str]:
    """Yields each text of the program; what an f-string inserts becomes a line break."""
    for path in (CLONE / "streamer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[-+.0-9]*[a-z]", "\n", node.value)


def messages() -> list[str]:
    page = (CLONE / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_each_message_is_one_of_the_programs() -> None:
    known = list(texts())
    found = messages()
    assert len(found) > 20
    for message in found:
        parts = [part.strip() for part in message.split("...")]
        assert any(all(part in text for part in parts) for text in known), message
