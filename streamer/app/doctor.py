"""`nanodet-stream doctor`: what works on this machine, what doesn't, and the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from streamer import __version__
from streamer.app.doctor_checks import State, all_findings, machine
from streamer.common.arguments import ArgumentParser
from streamer.common.errors import EXIT_FAILED, EXIT_OK, one_line
from streamer.common.terminal import say

_DESCRIPTION = (
    "Tries what the program needs on this machine: packages, engines, codecs, display, cameras, GPU, cache folder, "
    "limits. 'missing' is optional; 'broken' should work. Exit status: 0 if nothing is broken, else 1."
)
_FORMAT_VERSION = 1


def main(arguments: Sequence[str]) -> int:
    """Prints the findings as they come, or all as JSON; returns the exit status."""
    parser = ArgumentParser(prog="nanodet-stream doctor", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.refuse_misspelt(arguments)
    as_json: bool = parser.parse_args(arguments).json
    about = machine()
    if not as_json:
        say(one_line(f"nanodet-streamer {__version__} on Python {about['python']}, {about['platform']}"))
        say(one_line(f"{about['processor']}, {about['cores']} cores"))
    findings, area = [], ""
    for finding in all_findings():
        findings.append(finding)
        if as_json:
            continue
        if finding.area != area:
            area = finding.area
            say(f"\n{area}")
        say(one_line(f"  {finding.state:8} {finding.name:20} {finding.detail}").rstrip())
        if finding.fix:
            say(f"  {'':8} {'':20} -> {' '.join(finding.fix.split())}")  # to be copied: its URLs are not redacted
    counts = {state: sum(finding.state is state for finding in findings) for state in State}
    works = not counts[State.BROKEN]
    if as_json:
        rows = [asdict(finding) for finding in findings]
        say(json.dumps({"version": _FORMAT_VERSION, "works": works, "machine": about, "findings": rows}, indent=1))
    else:
        said = "nothing is broken" if works else f"{counts[State.BROKEN]} broken"
        say(f"\n{said}, {counts[State.MISSING]} optional missing")
    return EXIT_OK if works else EXIT_FAILED
