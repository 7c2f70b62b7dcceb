"""The start and the end of a program: signals, standard streams, exit status."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than what comes before the handlers here
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from streamer.common.interrupt import Interrupt


def run_program(load: Callable[[], Callable[[Interrupt], int]]) -> NoReturn:
    """Runs a program and ends the process with its exit status.

    SIGINT and SIGTERM are handled from the first instruction, see `streamer.common.interrupt`. A closed standard stream
    is replaced by the null device; otherwise a file opened later gets its descriptor, and what libraries print there.
    The process ends without Python's finalization, so that neither a hanging library thread nor a full standard output
    changes the status.

    Args:
        load: imports the program and returns its main function, which takes the signal handling and returns the exit
            status.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    _open_standard_streams()
    from streamer.app.limits import in_words
    from streamer.common.errors import EXIT_FAILED, StreamerError
    from streamer.common.interrupt import Interrupt
    from streamer.common.terminal import complain

    interrupt = Interrupt()
    try:
        interrupt.install()
        status = load()(interrupt)
    except SystemExit as ended:  # as argparse ends
        status = ended.code if isinstance(ended.code, int) else EXIT_FAILED if ended.code else 0
    except StreamerError as error:
        complain(str(error))
        status = error.exit_code
    except BaseException as error:
        complain(in_words(error))
        status = EXIT_FAILED
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(interrupt.status or status)


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _open_standard_streams() -> None:
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the process's whole life
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
