"""`python -m calibration <verb>`, from its first instruction on: see `--help`."""

from __future__ import annotations

from streamer.app.program import run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.common.interrupt import Interrupt


def main(arguments: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Runs one verb, see `calibration.cli.main`."""
    from calibration import cli
    from streamer.app.limits import check_limits

    check_limits()
    return cli.main(arguments, interrupt)


if __name__ == "__main__":
    run_program(lambda: lambda interrupt: main(interrupt=interrupt))
