"""Completion of the command line in a shell, by argcomplete."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from streamer.common.errors import StreamerError

SHELLS = ("bash", "zsh", "fish", "powershell")
_ASKED = "_ARGCOMPLETE"

Completer = Callable[..., Iterable[str]]


def shell_code(shell: str, program: str) -> str:
    """Returns what a shell evaluates to complete a program's options.

    Raises:
        StreamerError: argcomplete isn't installed.
    """
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise StreamerError("completion needs a package that is missing: pip install argcomplete") from error
    return shellcode([program], shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Where a shell asks what can follow, answers and ends the process; else returns."""
    if _ASKED not in os.environ:
        return
    try:
        import argcomplete
        from argcomplete.completers import FilesCompleter, SuppressCompleter
    except ImportError:
        os._exit(1)
    completers = _completers(FilesCompleter)
    for action in parser._actions:
        if action.choices is None:
            action.completer = completers.get(action.dest, SuppressCompleter())  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options="long")


def _completers(files: Callable[..., Completer]) -> dict[str, Completer]:
    """Returns what completes the value of each option, by its key."""
    from streamer.engines import ENGINE_NAMES
    from streamer.engines.gpu_engines import GPU_ENGINES
    from streamer.models.zoo import ZOO
    from streamer.sinks.options import QUALITIES

    yaml, source = files(("yaml", "yml")), _words(("sample", "doctor", "clips", "-"), files())
    return {
        "sources": source,
        "source": source,
        "output": _words(("window", "http://127.0.0.1:8080", "null", "-"), files()),
        "model": _words(tuple(ZOO), files(("onnx", "xml"))),
        "model_config": yaml,
        "config": yaml,
        "report": files(("json",)),
        "engine": _words(("auto", *ENGINE_NAMES, *GPU_ENGINES)),
        "device": _words(("auto", "cpu", "cuda:0", "cuda:*")),
        "classes": _listed_labels,
        "quality": _words(tuple(QUALITIES)),
        "batch": _words(("auto",)),
        "decode_processes": _words(("auto",)),
        "reconnect": _words(("forever",)),
        "tls_verify": _words(("yes", "no"), files()),
    }


def _words(words: Sequence[str], more: Completer | None = None) -> Completer:
    def found(prefix: str, **context: Any) -> list[str]:
        return [word for word in words if word.startswith(prefix)] + list(more(prefix, **context) if more else ())

    return found


def _listed_labels(prefix: str, **_: Any) -> list[str]:
    """Returns the packaged models' labels for the last of several with commas between."""
    labels = (Path(__file__).parent.parent / "data" / "coco.txt").read_text(encoding="utf-8").splitlines()
    before, comma, last = prefix.rpartition(",")
    return [f"{before}{comma}{label}" for label in labels if label.startswith(last.lower())]
