"""`python -m calibration check`: tells what is wrong with labelled pictures before anything is trained on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.data import read_data
from calibration.data.checks import check_data
from calibration.data.findings import merge
from calibration.data.histograms import draw_histograms, require_matplotlib
from calibration.data.report import CheckReport
from calibration.data.scan import scan_pictures
from calibration.data.summary import summarise
from calibration.files import check_output, check_report, write_whole
from streamer.common.errors import EXIT_FAILED, EXIT_OK, ConfigError, short
from streamer.common.terminal import say

_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb `check`."""
    parser.add_argument("data", type=Path, metavar="DATA", help="a data.yaml, a folder with one, or a COCO .json file")
    parser.add_argument("--size", type=training_size, default=(416, 416), metavar="N|WxH", help="training size (416)")
    parser.add_argument("--classes", nargs="+", action="extend", metavar="NAME", help="check these classes only")
    parser.add_argument(
        "--rename",
        nargs="+",
        action="extend",
        type=renaming,
        default=[],
        metavar="OLD=NEW",
        help="rename classes; two of one name merge",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings and figures there too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw histograms of classes and box sizes there")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")


def training_size(text: str) -> tuple[int, int]:
    """Returns width and height of ``416`` or ``416x320``; raises ArgumentTypeError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and 32 <= int(part) <= 8192 for part in parts):
        raise argparse.ArgumentTypeError(f"wanted a size such as 416 or 416x320, 32 to 8192, got {short(text)}")
    return int(parts[0]), int(parts[-1])


def renaming(text: str) -> tuple[str, str]:
    """Returns the names in ``old=new``; raises ArgumentTypeError."""
    old, separator, new = text.partition("=")
    if not separator or not old.strip() or not new.strip():
        raise argparse.ArgumentTypeError(f"wanted OLD=NEW, got {short(text)}")
    return old.strip(), new.strip()


def run(options: argparse.Namespace) -> int:
    """Reads all labels, opens all pictures, prints what is wrong; returns 1 where that includes an error."""
    outputs = [path for path in (options.json, options.picture) if path is not None]
    for number, output in enumerate(outputs):
        check_output(output, options.data, *outputs[:number])
    if options.json is not None:
        check_report(options.json, rb"\s*\{")
    if options.picture is not None:
        if options.picture.suffix.lower() not in _PICTURE_ENDINGS:
            raise ConfigError(f"{options.picture}: the name of a picture ends in {', '.join(_PICTURE_ENDINGS)}")
        require_matplotlib()
    data = read_data(options.data, classes=options.classes, rename=dict(options.rename))
    scans = scan_pictures(sample.image for samples in data.splits.values() for sample in samples)
    summaries = summarise(data, scans, options.size)
    findings = merge(data.findings, check_data(data, scans, summaries, options.size))
    report = CheckReport(str(data.path), data.names, options.size, findings, summaries)
    say(report.to_text())
    if options.json is not None:
        write_whole(options.json, report.to_json().encode())
    if options.picture is not None:
        write_whole(options.picture, draw_histograms(report, options.picture.suffix.lower()))
    fails = report.count("error") or (options.strict and report.count("warning"))
    return EXIT_FAILED if fails else EXIT_OK
