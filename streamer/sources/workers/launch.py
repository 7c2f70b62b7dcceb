"""Starts the process of a decoding worker: with this program's modules only, and with Ctrl-C blocked from the start."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

# -I: neither the current folder nor the environment adds modules; the worker searches where this process does.
_CODE = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from streamer.sources.workers.decoder_worker import main; main(*map(int, sys.argv[1:4]))"
)
_ROOT = str(Path(__file__).resolve().parents[3])
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""They reach the whole process group; the run ends first and closes the worker's channel."""


def launch(channel: int, counters: int) -> subprocess.Popen[bytes]:
    """Starts `decoder_worker.main` with two inherited descriptors.

    Raises:
        OSError: if the system can't start another process.
    """
    paths = [path for path in sys.path if path]
    if _ROOT not in paths:  # found by the empty path, the current folder, which precedes installed packages
        paths.insert(0, _ROOT)
    arguments = [channel, counters, logging.getLogger().getEffectiveLevel(), *paths]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)  # inherited, until the worker ignores them
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, *map(str, arguments)],
            pass_fds=(channel, counters),
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
