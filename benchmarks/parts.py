"""Parts of a benchmark, measured one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """What one part gave: its figures, plain, and its text."""

    figures: Any
    text: str


def measure_parts(names: Sequence[str], titles: Mapping[str, str], measure: Callable[[str], Part]) -> dict[str, Part]:
    """Measures each part, prints its text under its title, and returns all by name."""
    parts: dict[str, Part] = {}
    for name in names:
        parts[name] = measure(name)
        print(f"### {titles[name]}\n\n{parts[name].text}\n", flush=True)
    return parts
