"""Command lines: an error is one line of usage and one line that offers the nearest word."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from streamer.common.errors import EXIT_USAGE, nearest, one_line, short
from streamer.common.redaction import redact


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with short errors; options can't be abbreviated by default."""

    def __init__(self, **options: Any) -> None:
        """Takes the arguments of `argparse.ArgumentParser`."""
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Prints one line of usage and the redacted message; ends the process with status 2."""
        form = self.usage % {"prog": self.prog} if self.usage else f"{self.prog} [options]"
        self._print_message(f"usage: {form}; --help explains them\n", sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {one_line(message)}\n")

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Ends the process with an error if there are arguments that the parser doesn't know; offers the nearest."""
        if not arguments:
            return
        names = [name.removeprefix("--") for name in self._option_string_actions if name.startswith("--")]
        hints: dict[str, None] = {}
        for argument in arguments:
            word = argument.partition("=")[0].lstrip("-") if argument.startswith("-") else ""
            hints[nearest(word, names, prefix="--")] = None
        self.error(f"unrecognized arguments: {' '.join(map(redact, arguments))}{''.join(hints)}")

    def refuse_misspelt(self, arguments: Sequence[str]) -> None:
        """Ends the process with an error if one of a command line's options isn't known; offers the nearest.

        A long option with one dash is refused too: `-output` would mean `-o utput`.
        """
        unknown = []
        for argument in arguments:
            word = argument.partition("=")[0]
            if word == "--":
                break
            if word.startswith("-") and len(word) > 2 and f"-{word}" in self._option_string_actions:
                self.error(f"unrecognized arguments: {redact(argument)}; did you mean '-{word}'?")
            known = [name for name in self._option_string_actions if name == word or self._is_short_for(word, name)]
            if word.startswith("--") and " " not in word and not known:
                unknown.append(argument)
        self.refuse_unknown(unknown)

    def with_bare_values(self, arguments: Sequence[str]) -> list[str]:
        """Returns a command line in which an option that may stand alone takes no word but one of its choices.

        ``--track clip.mp4`` is the option alone, and an argument.
        """
        given = list(arguments)
        for at, argument in enumerate(given):
            if argument == "--":
                break
            action = self._option_string_actions.get(argument)
            if action is not None and action.nargs == "?" and action.choices is not None:
                following = given[at + 1] if at + 1 < len(given) else None
                is_misspelt = (
                    following is not None and nearest(following, action.choices) and not Path(following).exists()
                )
                if following not in action.choices and not is_misspelt:
                    given[at] = f"{argument}={action.const}"
        return given

    def _is_short_for(self, word: str, name: str) -> bool:
        return self.allow_abbrev and name.startswith(word)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = nearest(str(value), known)
            raise argparse.ArgumentError(
                action, f"invalid choice: {short(value)}{hint} (choose from {', '.join(known)})"
            )
