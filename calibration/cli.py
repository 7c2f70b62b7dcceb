"""The verbs of `python -m calibration`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamer.common.arguments import ArgumentParser
from streamer.common.errors import EXIT_INTERRUPTED, StreamerError
from streamer.common.logs import logging_at, start_logging
from streamer.common.terminal import complain

if TYPE_CHECKING:
    from streamer.common.interrupt import Interrupt

# verb: (module, what it does)
_VERBS = {
    "check": ("check", "what is wrong with labelled pictures, before training on them"),
    "export": ("export", "checkpoint to ONNX"),
    "val": ("evaluate", "accuracy with intervals, speed and thresholds of a model, on pictures with labels"),
    "evaluate": ("evaluate", "the same as val"),
    "quantize": ("quantize", "float ONNX to INT8, gated on accuracy"),
    "make": ("export_and_quantize", "checkpoint to ONNX and INT8 ONNX with a report, in one go"),
    "build": ("build", "ONNX to a TensorRT engine"),
    "train": ("train", "fine-tune or train a network on labelled pictures, to ONNX and INT8"),
    "import": ("import_model", "OpenVINO IR, TFLite or NCNN to ONNX"),
    "collect": ("collect", "frames worth labelling, from cameras, streams and files"),
    "inspect": ("inspect_model", "what an ONNX file or an engine holds, layer by layer"),
}


def main(arguments: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Runs one verb; returns the exit status: 0 done, 1 failed, 2 bad usage.

    A verb that closes something when a signal comes finds the program's `interrupt` among its options.
    """
    parser = ArgumentParser(
        prog="python -m calibration",
        usage="%(prog)s VERB [options]",
        description="From a checkpoint to a measured model.",
    )
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=_VerbParser, prog=parser.prog
    )
    for verb, (name, text) in _VERBS.items():
        module = import_module(f"calibration.{name}")
        child = verbs.add_parser(verb, help=text, description=text, allow_abbrev=True)
        module.add_arguments(child)
        child.set_defaults(run=module.run, interrupt=interrupt)
    options = parser.parse_args(arguments)
    start_logging(logging.WARNING)
    try:
        with logging_at(logging.INFO, "streamer"):  # such as downloads; other packages tell of more
            status: int = options.run(options)
        return status
    except StreamerError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _VerbParser(ArgumentParser):
    """Refuses unknown options itself, so that the nearest is one of this verb's."""

    def parse_known_args(  # type: ignore[override]  # argparse calls it with both alone
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self.refuse_misspelt(args)
        found, unknown = super().parse_known_args(args, namespace)
        self.refuse_unknown(unknown)
        return found, unknown
