"""The command line: options in, exit status out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from streamer.app.limits import in_words
from streamer.common.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, StreamerError, one_line
from streamer.common.interrupt import Interrupt
from streamer.common.logs import start_logging
from streamer.common.redaction import redact
from streamer.common.terminal import complain, say

if TYPE_CHECKING:
    from streamer.runtime.pipeline import Pipeline
    from streamer.runtime.report import RunReport

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Runs the program.

    Args:
        arguments: of the command line; None takes the process's.
        interrupt: what signals do, where they are handled; None leaves them to the caller.

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
    from streamer.app.run import run

    with Progress(enabled=config.progress and sys.stderr.isatty()) as progress:

        def on_poll(pipeline: Pipeline) -> None:
            interrupt.attend(pipeline.progress)
            if interrupt.happened:
                pipeline.stop()
            progress.show(pipeline, config.max_frames)

        def on_end(report: RunReport) -> None:
            if any(source.frames_processed for source in report.sources):
                say(one_line(report.summary()))
            elif interrupt.happened:
                log.warning("stopped before the first frame")
            for what in report.skipped:
                log.warning("skipped %s", what)

        follow = None if path is None else (path, lambda: read_config(path, options, names_source=True))
        run(config, on_poll, on_end, on_opened=interrupt.defer, follow=follow)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nanodet-stream",
        description="Detects objects with NanoDet in a camera, a video or pictures, live.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", action="append", metavar="URI", help="0, clip.mp4, folder/, '*.jpg', rtsp://..., sample; name=URI")
    add("--output", action="append", metavar="URI", help="window, out.mp4|.mkv|.avi, out.jsonl, folder/, null")
    add("--config", type=Path, metavar="FILE", help="YAML file with any of these options")
    add("--model", metavar="NAME|FILE", help="a name of --list models, an ONNX file, or an OpenVINO IR (.xml)")
    add("--model-config", type=Path, metavar="FILE", help="YAML description of a file from elsewhere")
    add("--engine", metavar="NAME", help="auto, openvino, onnxruntime; on a GPU tensorrt, torch")
    add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N")
    add("--precision", choices=("auto", "f32", "bf16", "f16"), help="what a float model is computed in")
    add("--depth", type=int, metavar="N", help="frames in flight (default: 1 when live, else two a core)")
    add("--batch", type=_count, metavar="N|auto", help="frames of several sources in one go (default: auto, measured)")
    add("--batch-timeout", type=float, metavar="MS", help="how long a batch waits to become full (default 5)")
    add("--conf", type=float, metavar="0..1", help="least score to show (default 0.4)")
    add("--iou", type=float, metavar="0..1", help="overlap above which the weaker box goes (default 0.6)")
    add("--classes", type=_comma_separated, metavar="A,B", help="show only these labels")
    add("--policy", choices=("auto", "every-frame", "freshest"), help="what happens when detection is slower")
    add("--pace", choices=("source", "max"), help="play files at their own speed, or as fast as it goes")
    add("--max-fps", type=float, metavar="N", help="take at most N frames a second of each source")
    add("--detect-every", type=int, metavar="N", help="detect in each Nth frame; the others get its boxes, as held")
    add("--max-frames", type=int, metavar="N", help="stop after N frames of each source")
    add("--duration", type=float, metavar="SECONDS", help="stop after this long")
    add("--max-pixels", type=int, metavar="N", help="refuse larger pictures from their header (default 200000000)")
    add("--camera-size", metavar="WxH", help="ask this size of a webcam")
    add("--camera-fps", type=float, metavar="N", help="ask this frame rate of a webcam or snapshot URL")
    add("--camera-format", metavar="FOURCC", help="ask this pixel format of a webcam, such as MJPG")
    add("--reconnect", metavar="N|forever", help="tries in a row to reach a lost camera again (default: for ever)")
    add("--stall-timeout", type=float, metavar="SECONDS", help="silence after which a camera is lost (default 5)")
    add("--rtsp-transport", choices=("auto", "tcp", "udp"), help="default auto: TCP, UDP where that is refused")
    add("--tls-verify", metavar="yes|no|FILE", help="check certificates (default), or against a file of authorities")
    add("--decode", choices=("auto", "gpu", "cpu"), help="who decodes files and streams; default auto: a GPU that can")
    add("--decode-processes", type=_count, metavar="N|auto", help="processes that decode (default: auto, 0 for few)")
    add("--segment", metavar="LENGTH", help="start new video and .jsonl files every 10m, 1h, ...")
    add("--retain", metavar="AGE|SIZE", help="delete the oldest segments: keep 24h, or 50GB of all outputs")
    add("--quality", metavar="WORD|N", help="of video outputs: low, medium, high (default, 75), best, or 1 to 100")
    add("--layout", choices=("tiled", "separate"), help="several sources in one window or video (default), or one each")
    add("--report", type=Path, metavar="FILE.json", help="write what the run did")
    add("--no-overlay", action="store_false", dest="overlay", help="draw no live figures")
    add("--no-progress", action="store_false", dest="progress", help="show no progress bar")
    add("--no-self-check", action="store_false", dest="self_check", help="trust the engine without trying it once")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default warning")
    add("--list", choices=("models", "engines", "devices", "sources"), help="print what there is, and end")
    return parser


def _count(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _comma_separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _require_opencv() -> None:
    """Raises StreamerError with the fix where OpenCV's system libraries are missing."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if "libGL" not in str(error) and "libgthread" not in str(error):
            raise
        raise StreamerError(
            f"OpenCV misses a system library ({error}): install it (Debian, Ubuntu: apt install libgl1 libglib2.0-0), "
            "or pip install opencv-python-headless in opencv-python's place: everything but the window works with it"
        ) from error
