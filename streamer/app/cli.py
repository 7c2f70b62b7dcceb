"""The command line: options in, exit status out."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer import __version__
from streamer.app.completion import SHELLS, complete, shell_code
from streamer.app.limits import check_limits, in_words
from streamer.app.option_table import DeclaredOption, add_options, kept_options
from streamer.common.arguments import ArgumentParser
from streamer.common.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, StreamerError, one_line
from streamer.common.interrupt import Interrupt
from streamer.common.logs import logging_at, start_logging
from streamer.common.terminal import complain, reserve_stdout, say

if TYPE_CHECKING:
    from streamer.app.config import StreamConfig
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport
    from streamer.sources.spec import SourceSpec

log = logging.getLogger(__name__)

_PROGRAM = "nanodet-stream"
_EXAMPLES = """\
examples:
  nanodet-stream 0
  nanodet-stream clip.mp4 -o boxes.mp4 --classes person,car
  nanodet-stream door=rtsp://192.0.2.10/1 yard=rtsp://192.0.2.11/1 -o '{source}.mp4' -o '{source}.jsonl'
  nanodet-stream --config configs/streams/fleet.yaml --report report.json

nanodet-stream doctor tries what works on this machine, and says how to mend what doesn't.
nanodet-stream clips list|check FOLDER lists clips of events, and mends their index.
"""


def main(arguments: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Runs the command line; on any thread, as it installs no handlers of signals.

    Example::

        interrupt = Interrupt()
        thread = threading.Thread(target=main, args=(["rtsp://camera/1", "--output", "door.mp4"], interrupt))
        thread.start()
        ...
        interrupt.stop()  # finishes the outputs
        thread.join()

    Args:
        arguments: of the command line; None uses the process's.
        interrupt: the handling of signals, or what stops the run; None leaves both to the caller.

    Returns:
        The exit status: 0 done, 1 failed, 2 bad usage, 130 after Ctrl-C.

    Raises:
        SystemExit: for options that don't exist, ``--help`` and ``--version``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["doctor"]:  # a source of that name is ./doctor
        from streamer.app.doctor import main as examine

        return examine(arguments[1:])
    if arguments[:1] == ["clips"]:
        from streamer.app.clips import main as clips

        return clips(arguments[1:])
    options = _parsed(arguments)
    listing, shell = options.pop("list", None), options.pop("completion", None)
    start_logging("WARNING" if options.get("quiet") else options.get("log_level", "info").upper())
    try:
        if shell:
            return EXIT_OK if say(shell_code(shell, _PROGRAM)) else EXIT_FAILED
        if listing not in ("models", "engines"):
            check_limits()
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
    if config.writes_stdout:
        reserve_stdout()
    shows_progress = config.progress and not (config.quiet or config.writes_stdout) and sys.stderr.isatty()
    from streamer.app.progress import Progress
    from streamer.app.run import Run

    def reread() -> StreamConfig:
        return read_config(path, options, names_source=True)

    with (
        logging_at(config.level),
        Progress(enabled=shows_progress) as progress,
        Run.open(config, path, reread) as run,
    ):
        gc.enable()
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
                _summarize(run.report, interrupted=interrupt.happened, quiet=config.quiet)


def _summarize(report: RunReport, *, interrupted: bool, quiet: bool) -> None:
    if any(source.frames_processed for source in report.sources):
        if not quiet:
            say(one_line(report.summary()))
    elif interrupted:
        log.info("stopped before the first frame")
    for what in report.skipped:
        log.warning("skipped %s", what)


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the options that are given, by key; sources by position come before those of ``--source``."""
    parser = command_line_parser()
    complete(parser)
    parser.refuse_misspelt(arguments)
    arguments = parser.with_bare_values(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parsed, unknown = parser.parse_known_intermixed_args(arguments[:end])
    parser.refuse_unknown(unknown)
    options = vars(parsed)
    by_position = [*options.pop("sources", ()), *arguments[end + 1 :]]  # intermixed parsing loses the "--"
    if by_position:
        options["source"] = [*_pictures_together(by_position), *options.get("source", ())]
    return options


def _pictures_together(sources: Sequence[str]) -> list[str | SourceSpec]:
    """Makes one source of several picture files: a shell writes each that matches ``*.jpg``."""
    from streamer.sources.spec import SourceSpec, is_picture_file

    pictures = [text for text in sources if is_picture_file(text)]
    if len(pictures) < 2:
        return list(sources)
    one = SourceSpec.of_pictures([Path(text) for text in pictures])
    return [one, *(text for text in sources if text not in pictures)]


def command_line_parser() -> ArgumentParser:
    """Returns the parser of the command line, options in groups."""
    parser = ArgumentParser(
        prog=_PROGRAM,
        usage="%(prog)s [SOURCE ...] [options]",
        description="Detects objects with NanoDet in cameras, videos and pictures, live.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="what to read: the same as --source SOURCE")
    run = add_options(parser, kept_options(_declared))["run"]
    run.add_argument(
        "-v", "--verbose", action="store_const", const="debug", dest="log_level", help="the same as --log-level debug"
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of these options; it is followed")
    lists = ("models", "engines", "devices", "encoders", "sources", "outputs", "schemas")
    run.add_argument("--list", choices=lists, help="list what there is, and exit")
    run.add_argument("--completion", choices=SHELLS, help='print what completes options; bash: eval "$(... bash)"')
    run.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _declared() -> Sequence[DeclaredOption]:
    from streamer.app.config import StreamConfig
    from streamer.app.options import declared_options

    return declared_options(StreamConfig)


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
