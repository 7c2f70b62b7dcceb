"""Starting a decoding process: with this program's own modules, and deaf to Ctrl-C from its first instruction."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

# Isolated (-I), so that neither the current folder nor the environment adds modules: it looks only where this process
# found its own.
_CODE = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from streamer.sources.workers.decoder_worker import main; main(*map(int, sys.argv[1:4]))"
)
_ROOT = str(Path(__file__).resolve().parents[3])
HELD_BACK = (signal.SIGINT, signal.SIGTERM)
"""Signals that go to a whole group of processes; the run ends first, and then its connection."""


def launch(connection: int, board: int) -> subprocess.Popen[bytes]:
    """Starts `child.main` with two descriptors that it inherits.

    Raises:
        OSError: if the system has no room for it.
    """
    paths = [path for path in sys.path if path]
    if _ROOT not in paths:  # found by the empty path, the current folder, which comes before all installed packages
        paths.insert(0, _ROOT)
    arguments = [connection, board, logging.getLogger().getEffectiveLevel(), *paths]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # inherited, until the child ignores them
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, *map(str, arguments)],
            pass_fds=(connection, board),
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
