"""The project's kernels, compiled for this machine's CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.cuda.compiler import KERNELS

HERE = Path(__file__).parent / "cuda_on_cpu"


def compile_kernels(folder: Path, name: str = "host", macros: Mapping[str, int] | None = None) -> ctypes.CDLL:
    """Compiles `name`.cpp into a folder, once for each choice of macros; skips the test where no compiler can."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to compile the kernels for the CPU")
    defined = [f"-D{macro}={value}" for macro, value in (macros or {}).items()]
    library = folder / f"{name}{''.join(f'-{value}' for value in (macros or {}).values())}.so"
    if not library.is_file():
        shim = ["-include", str(HERE / "shim.hpp"), f"-I{HERE}", f"-I{KERNELS}"]
        options = ["-std=c++20", "-O2", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
        options.append("-U_FORTIFY_SOURCE")  # which refuses to jump between fibers
        done = subprocess.run([compiler, *options, *shim, *defined, "-o", str(library), str(HERE / f"{name}.cpp")],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if "unrecognized command" in done.stderr or "_Float16" in done.stderr:
            pytest.skip("needs a g++ that knows C++20 and _Float16")
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class HostKernels:
    """Runs the kernels in place of a GPU's, called with the arguments of `streamer.cuda.kernels.Kernels`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._find: tuple[Any, ...] = ()

    def run(self, name: str, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        """Runs a kernel; the host's library has `find_*` and `suppress` in one function, which runs for the second."""
        pointer, real = ctypes.c_void_p, ctypes.c_float
        kind = name.rpartition("_")[2]
        if name.startswith("letterbox"):
            pictures, image, width, height, *strides, normalise = arguments
            steps = np.array(strides, np.int64)
            run = self._library[f"host_letterbox_{kind}"]
            run(
                pointer(pictures),
                pointer(image),
                width,
                height,
                pointer(steps.ctypes.data),
                pointer(normalise),
                grid[2],
            )
        elif name.startswith("find"):
            self._find = (kind, *arguments)
        else:
            assert name == "suppress" and self._find, "find runs before suppress"
            kind, output, points, wanted, count, classes, bins, conf, width, height, *_ = self._find
            pictures, found, keys, boxes, capacity, most, _, iou, results = arguments
            self._library[f"host_decode_{kind}"](
                *map(pointer, (pictures, output, points, wanted)), count, classes, bins, real(conf), real(width),
                real(height), real(iou), most, *map(pointer, (results, found, keys, boxes)), capacity, grid[0],
            )  # fmt: skip
            self._find = ()
