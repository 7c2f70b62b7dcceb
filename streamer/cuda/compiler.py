"""Compiles the kernels with nvcc, once for each source, architecture and toolkit, into the cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cached_file
from streamer.common.errors import EngineError

log = logging.getLogger(__name__)

KERNELS = Path(__file__).parent / "source"
# Without fused multiply-adds, sums round as NumPy's do.
_OPTIONS = ("-cubin", "--fmad=false", "-O3", "-std=c++17")
_TIMEOUT_S = 300


def cubin(name: str, arch: str, macros: Mapping[str, int] | None = None) -> bytes:
    """Returns the machine code of ``source/<name>.cu`` for `arch` (such as ``sm_90``), compiled with `macros`."""
    nvcc, toolkit = find_nvcc()
    defined = [f"-D{macro}={value}" for macro, value in (macros or {}).items()]
    path = cached_file("cuda", f"{name}-{arch}-{cache_key(name, arch, toolkit, defined)}.cubin")
    if path.is_file():
        return path.read_bytes()
    log.info("compiling the %s kernels for %s with CUDA %s", name, arch, toolkit)
    source = KERNELS / f"{name}.cu"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            _run(
                [nvcc, *_OPTIONS, *defined, f"-arch={arch}", "-o", str(partial), str(source)],
                f"compile {source.name} for {arch}",
            )
    except OSError as error:
        raise EngineError(f"can't write the compiled kernels to {str(path)!r}: {error.strerror or error}") from error
    return path.read_bytes()


def cache_key(name: str, arch: str, toolkit: str, options: Sequence[str] = ()) -> str:
    """Returns a hash of everything the machine code depends on."""
    digest = hashlib.sha256()
    for source in [KERNELS / f"{name}.cu", *sorted(KERNELS.glob("*.cuh"))]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update("\0".join([*_OPTIONS, *options, arch, toolkit]).encode())
    return digest.hexdigest()[:20]


@lru_cache(maxsize=1)
def find_nvcc() -> tuple[str, str]:
    """Returns nvcc's path and its toolkit's version, such as ``13.0.88``.

    Searches ``CUDA_HOME``, ``CUDA_PATH`` and ``PATH``, then the toolkit's default folder.
    """
    homes = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    folders = [str(Path(home) / "bin") for home in homes]
    found = shutil.which("nvcc", path=os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
    if found is None:
        raise EngineError("no CUDA compiler: install the CUDA toolkit, and put nvcc on PATH or set CUDA_HOME")
    match = re.search(r"V(\d+\.\d+\.\d+)", _run([found, "--version"], "report its version"))
    if match is None:
        raise EngineError(f"{found!r} doesn't report its version: is it NVIDIA's nvcc?")
    return found, match[1]


def _run(command: list[str], action: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"nvcc can't {action}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        cause = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
        raise EngineError(f"nvcc can't {action}: {cause}; is a host compiler installed, and does it know this GPU?")
    return done.stdout
