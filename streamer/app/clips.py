"""`nanodet-stream clips`: lists the clips of a folder, and finds and mends what folder and index disagree on."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamer.common.arguments import ArgumentParser
from streamer.common.errors import EXIT_FAILED, EXIT_OK, ConfigError, StreamerError, counted, one_line
from streamer.common.logs import start_logging
from streamer.common.terminal import complain, say

log = logging.getLogger(__name__)

_PROGRAM = "nanodet-stream clips"
_DESCRIPTION = "Lists clips of events, or compares them with their index. docs/clips.md describes both."
_LIST = "Lists the clips of a folder, the newest first."
_CHECK = (
    "Compares the files of a folder with its index: missing and unknown files, wrong lengths, pictures without a "
    "video, half-written files, a damaged index. No video is ever deleted. Exit status: 0 if they agree, or do now, "
    "else 1."
)
_FORMAT_VERSION = 1


def main(arguments: Sequence[str]) -> int:
    """Runs the verb; returns the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    start_logging("WARNING")
    try:
        return _list(given) if given.verb == "list" else _check(given)
    except StreamerError as error:
        complain(str(error))
        log.debug("traceback", exc_info=True)
        return error.exit_code


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog=_PROGRAM, usage="%(prog)s list|check FOLDER [options]", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|check")
    listing = verbs.add_parser("list", description=_LIST, help="list clips")
    listing.add_argument("folder", type=Path, metavar="FOLDER", help="that --clips has written")
    listing.add_argument("--source", metavar="NAME", help="of this source only")
    listing.add_argument("--label", metavar="LABEL", help="with an event about this label only")
    listing.add_argument("--from", dest="from_utc", type=_time, metavar="TIME", help="that end then or later")
    listing.add_argument("--to", dest="to_utc", type=_time, metavar="TIME", help="that begin then or earlier")
    listing.add_argument("--limit", type=int, metavar="N", help="the newest N at most")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    check = verbs.add_parser("check", description=_CHECK, help="compare the files with the index")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="that --clips has written")
    check.add_argument("--mend", action="store_true", help="mend what is found")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _list(given: argparse.Namespace) -> int:
    from streamer.sinks.clips.index import ClipIndex

    with ClipIndex(given.folder) as index:
        clips = index.find(
            source=given.source, label=given.label, from_utc=given.from_utc, to_utc=given.to_utc, limit=given.limit
        )
    if given.json:
        return _printed({"clips": [clip.to_json() for clip in clips]})
    rows = []
    for clip in clips:
        begin = clip.begin_utc.strftime("%Y-%m-%d %H:%M:%S")
        score = "    " if clip.best_score is None else f"{clip.best_score:.2f}"
        note = "" if clip.is_complete else "  (not complete)"
        labels = ", ".join(clip.labels)
        rows.append(f"{begin}  {clip.length_s:7.1f} s  {score}  {clip.source}  {labels}  {clip.video.name}{note}")
    if rows:
        rows.insert(0, f"{'begin (UTC)':19}  {'length':>9}  best  source  labels  file")
    rows.append(counted(len(clips), "clip"))
    return EXIT_OK if say("\n".join(map(one_line, rows))) else EXIT_FAILED


def _check(given: argparse.Namespace) -> int:
    from streamer.sinks.clips.folder import folder_lock
    from streamer.sinks.clips.mend import ClipFolderCheck

    folder: Path = given.folder
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {str(folder)!r}")
    lock = None
    if given.mend:
        try:
            lock = folder_lock(folder)
        except ConfigError:
            raise ConfigError(f"a run writes clips into {folder}: stop it first, or leave out --mend") from None
    check = ClipFolderCheck(folder, mends=given.mend)
    findings = []
    try:
        for finding in check.run():
            findings.append(finding)
            if not given.json:
                detail = f" ({finding.detail})" if finding.detail else ""
                done = "mended" if finding.is_mended else "to mend"
                say(one_line(f"{finding.name}: {finding.kind.value}{detail}; {done}: {finding.mend}"))
    finally:
        if check.index is not None:
            check.index.close()
        if lock is not None:
            lock.close()
    left = sum(not finding.is_mended for finding in findings)
    if given.json:
        rows = [
            {"kind": each.kind.name.lower(), "name": each.name, "detail": each.detail, "mend": each.mend,
             "mended": each.is_mended}
            for each in findings
        ]  # fmt: skip
        _printed({"agree": not left, "findings": rows})
    elif not findings:
        say("folder and index agree")
    elif left:
        say(f"{counted(left, 'disagreement')}; --mend mends them")
    else:
        say(f"{counted(len(findings), 'disagreement')} mended")
    return EXIT_FAILED if left else EXIT_OK


def _printed(content: dict[str, Any]) -> int:
    return EXIT_OK if say(json.dumps({"version": _FORMAT_VERSION, **content}, indent=1)) else EXIT_FAILED


def _time(text: str) -> datetime:
    """Parses ``2026-11-23``, ``2026-11-23T12:33`` or with a zone; without one it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("wanted a time such as 2026-11-23 or 2026-11-23T12:33") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
