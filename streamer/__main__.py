"""``python -m streamer`` and the console script: the program, from its first instruction on."""

from __future__ import annotations

from streamer.app.program import run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from streamer.common.interrupt import Interrupt


def main() -> NoReturn:
    """Runs the program with the process's arguments and ends the process."""
    run_program(_load)


def _load() -> Callable[[Interrupt], int]:
    from streamer.app.cli import main

    return lambda interrupt: main(interrupt=interrupt)


if __name__ == "__main__":
    main()
