"""`python -m calibration make`: exports a checkpoint and quantises it."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration import quantize
from calibration.export import export, read_spec
from streamer.common.errors import ConfigError
from streamer.common.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb ``make``."""
    parser.add_argument("name", metavar="NAME", help="model to make, <network>_<size> such as nanodet-plus-m_416")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="its weights")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="a network of your own; NAME is then free")
    parser.add_argument("-d", "--folder", type=Path, default=Path(), metavar="DIR", help="where files go (here)")
    quantize.add_search_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Writes NAME.onnx, NAME_int8.onnx and its report (.json, .md), and prints the measurements.

    Raises:
        StreamerError: see `calibration.export.export` and `calibration.quantize.quantize`.
    """
    spec = read_spec(options.name, options.model_config, options.checkpoint)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"can't make the folder {str(options.folder)!r}: {error.strerror or error}") from error
    exported = export(spec, options.checkpoint, options.folder / f"{options.name}.onnx")
    say(f"{exported.path}: {exported.size_bytes / 1e6:.2f} MB, sha256 {exported.sha256}")
    output = options.folder / f"{options.name}_int8.onnx"
    report = quantize.quantize(exported.path, output, **quantize.search_options(options))
    quantize.print_report(report, output)
    return 0
