"""The command line: options in, exit status out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from streamer import __version__
from streamer.app.limits import in_words
from streamer.common.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, StreamerError, one_line
from streamer.common.interrupt import Interrupt
from streamer.common.logs import start_logging
from streamer.common.redaction import redact
from streamer.common.terminal import complain, say

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport

log = logging.getLogger(__name__)

_EXAMPLES = """\
examples:
  nanodet-stream --source 0
  nanodet-stream --source door=rtsp://USER:PASSWORD@192.0.2.10/stream1 --output '{source}.mp4' --output '{source}.jsonl'
  nanodet-stream --config configs/streams/fleet.yaml --classes person,car --report report.json
"""


def main(arguments: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: of the command line; None uses the process's.
        interrupt: the handling of signals; None leaves them to the caller.

    Returns:
        The exit status: 0 done, 1 failed, 2 bad usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(map(redact, unknown))}")
    options = vars(parsed)
    listing = options.pop("list", None)
    level = options.get("log_level", "warning")
    start_logging(level.upper())
    try:
        _require_opencv()
        if listing:
            from streamer.app.listing import list_known

            return EXIT_OK if say("\n".join(map(one_line, list_known(listing)))) else EXIT_FAILED
        _run(options, interrupt or Interrupt())
    except StreamerError as error:
        complain(str(error))
        log.debug("traceback", exc_info=True)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        complain(f"{in_words(error)} (--log-level debug shows where)")
        log.debug("traceback", exc_info=True)
        return EXIT_FAILED
    return EXIT_OK


def _run(options: dict[str, Any], interrupt: Interrupt) -> None:
    from streamer.app.config import read_config

    path = options.pop("config", None)
    config = read_config(path, options)
    logging.getLogger().setLevel(config.log_level.upper())
    from streamer.app.progress import Progress
    from streamer.app.run import Run

    def reread() -> StreamConfig:
        return read_config(path, options, names_source=True)

    with (
        Progress(enabled=config.progress and sys.stderr.isatty()) as progress,
        Run.open(config, path, reread) as run,
    ):
        interrupt.defer()

        def on_poll(pipeline: Pipeline) -> None:
            interrupt.report_progress(pipeline.progress)
            if interrupt.happened:
                pipeline.stop()
            progress.show(pipeline, config.max_frames)

        try:
            run.execute(on_poll)
        finally:
            if run.report is not None:
                _summarize(run.report, interrupted=interrupt.happened)


def _summarize(report: RunReport, *, interrupted: bool) -> None:
    if any(source.frames_processed for source in report.sources):
        say(one_line(report.summary()))
    elif interrupted:
        log.warning("stopped before the first frame")
    for what in report.skipped:
        log.warning("skipped %s", what)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def _parser() -> argparse.ArgumentParser:
    from streamer.app.config import StreamConfig
    from streamer.app.options import add_options

    parser = _Parser(
        prog="nanodet-stream",
        usage="%(prog)s [options]",
        description="Detects objects with NanoDet in cameras, videos and pictures, live.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    run = add_options(parser, StreamConfig)["run"]
    run.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of these options; it is followed")
    run.add_argument("--list", choices=("models", "engines", "devices", "sources"), help="list what there is, and exit")
    run.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _require_opencv() -> None:
    """Raises StreamerError with the fix if OpenCV's system libraries are missing."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if "libGL" not in str(error) and "libgthread" not in str(error):
            raise
        raise StreamerError(
            f"OpenCV lacks a system library ({error}): install it (Debian, Ubuntu: apt install libgl1 libglib2.0-0), "
            "or pip install opencv-python-headless instead of opencv-python: everything but the window works with it"
        ) from error
