# PYTHON_ARGCOMPLETE_OK
"""``python -m streamer`` and the console script: the program, from its first instruction on."""

from __future__ import annotations

import gc
import os
import sys

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
    gc.disable()  # imports leave no garbage to speak of; the command line enables it when the run is open
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would read the metadata of every package for them
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # its converter, which takes 30 ms
    from streamer.app.cli import main

    return lambda interrupt: main(interrupt=interrupt)


if __name__ == "__main__":
    main()
