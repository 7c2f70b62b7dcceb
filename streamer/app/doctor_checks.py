"""The checks of `nanodet-stream doctor`: each is a generator of findings, and one that fails becomes a finding."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from streamer.common.cache import cache_dir
from streamer.common.cpu_info import available_cores, processor_name, version_of
from streamer.common.errors import EngineError, StreamerError, one_line

_RUN_TIMEOUT_S = 120.0
_GPU_RUN_TIMEOUT_S = 600.0  # TensorRT builds its engine first
_TRIED_FRAMES = 20
_FEW_FILES = 1024
_PACKAGES = {
    "numpy": "numpy",
    "av": "av",
    "openvino": "openvino",
    "onnx": "onnx",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "platformdirs": "platformdirs",
    "filelock": "filelock",
    "tqdm": "tqdm",
}
_OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_EXTRAS = {
    "quantize": ("float ONNX to INT8, accuracy", ("onnxsim", "onnxruntime", "faster_coco_eval", "nncf")),
    "web": ("live page", ("fastapi", "uvicorn", "websockets")),
    "calibration": ("training, checkpoints", ("torch", "safetensors", "matplotlib", "tensorboardX")),
}
_CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
_DECODERS = {"H.264": "h264", "H.265": "hevc", "AV1": "libdav1d", "VP9": "vp9", "MJPEG": "mjpeg"}


class State(StrEnum):
    """Of what a check looks at."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        area: what it belongs to, such as ``engines``.
        name: of the part.
        state: MISSING is optional, BROKEN should work.
        detail: in a few words.
        fix: the one command or step that mends it, or an empty string.
    """

    area: str
    name: str
    state: State
    detail: str = ""
    fix: str = ""


def machine() -> dict[str, Any]:
    """Returns the Python, the system, the processor and the cores that this process may use."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cores": available_cores(),
    }


def all_findings() -> Iterator[Finding]:
    """Yields the findings of all checks, as they come."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": _packages,
        "engines": _engines,
        "GPU": _gpu,
        "video": _video,
        "display": _display,
        "cameras": _cameras,
        "system": _system,
    }
    for area, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            yield Finding(area, "check", State.BROKEN, one_line(f"it failed: {type(error).__name__}: {error}"))


def _packages() -> Iterator[Finding]:
    yield _opencv()
    for package, module in _PACKAGES.items():
        yield _package(package, module)
    for extra, (purpose, modules) in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            fix = f"pip install 'nanodet-streamer[{extra}]'"
            if "torch" in missing and sys.platform == "linux":
                fix = f"{_CPU_TORCH} && {fix}"
            detail = f"{purpose}: without {', '.join(missing)}"
            yield Finding("packages", f"[{extra}]", State.MISSING, detail, fix)
        else:
            yield Finding("packages", f"[{extra}]", State.OK, purpose)


def _package(package: str, module: str) -> Finding:
    version = version_of(package)
    if not version:
        return Finding("packages", package, State.BROKEN, "not installed", f"pip install {package}")
    try:
        import_module(module)
    except Exception as error:  # a broken package can raise anything
        detail = f"{version} can't be imported: {type(error).__name__}: {error}"
        return Finding("packages", package, State.BROKEN, detail, f"pip install --force-reinstall {package}")
    return Finding("packages", package, State.OK, version)


def _opencv() -> Finding:
    found = [name for name in _OPENCVS if version_of(name)]
    if len(found) > 1:
        fix = f"pip uninstall -y {' '.join(found)} && pip install {found[0]}"
        return Finding("packages", "OpenCV", State.BROKEN, f"{' and '.join(found)} overwrite each other", fix)
    try:
        import cv2
    except ImportError as error:
        if "libGL" in str(error) or "libgthread" in str(error):
            fix = "apt install libgl1 libglib2.0-0"
        else:
            fix = f"pip install --force-reinstall {found[0] if found else 'opencv-python'}"
        return Finding("packages", "OpenCV", State.BROKEN, f"can't be imported: {error}", fix)
    return Finding("packages", "OpenCV", State.OK, f"{cv2.__version__} ({found[0] if found else 'not from PyPI'})")


def _engines() -> Iterator[Finding]:
    from streamer.engines import installed_engines
    from streamer.engines.gpu_engines import installed_gpu_engines

    for name, command in installed_engines().items():
        yield _tried("engines", name, command, ["--engine", name, "--device", "cpu"], _RUN_TIMEOUT_S)
    has_gpu = _gpu_problem() is None
    for name, command in installed_gpu_engines().items():
        if has_gpu:
            yield _tried("engines", name, command, ["--engine", name, "--device", "cuda"], _GPU_RUN_TIMEOUT_S)
        else:
            yield Finding("engines", name, State.MISSING, "needs an NVIDIA GPU that can be used, see GPU")


def _tried(area: str, name: str, command: str | None, options: list[str], timeout_s: float) -> Finding:
    """Runs the program itself on the packaged clip, in a process of its own: a wrong build can end that."""
    if command is not None:
        return Finding(area, name, State.MISSING, "not installed", command)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["sample", "--output", str(Path(folder) / "out.jsonl"), "--max-frames", str(_TRIED_FRAMES), *options]
        problem = _run([*options, "--report", str(report), "--quiet"], timeout_s)
        if problem is not None:
            return Finding(area, name, State.BROKEN, problem)
        found = json.loads(report.read_text(encoding="utf-8"))
    milliseconds = found["stages_ms"]["inference"]["mean"]
    detail = f"{found['engine']['precision']}, {milliseconds:.1f} ms a frame with {found['engine']['model']}"
    return Finding(area, name, State.OK, detail)


def _run(options: list[str], timeout_s: float) -> str | None:
    """Runs the program; returns what went wrong, else None."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    command = [sys.executable, "-m", "streamer", *options]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end within {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1].removeprefix("error: ")


def _gpu_problem() -> str | None:
    from streamer.cuda.gpu import find_gpu

    try:
        find_gpu(0)
    except EngineError as error:
        return str(error)
    return None


def _gpu() -> Iterator[Finding]:
    from streamer.cuda.compiler import find_nvcc
    from streamer.cuda.gpu import expects_gpu, list_gpus
    from streamer.cuda.nvdec import check_nvdec

    problem = _gpu_problem()
    if problem is not None:
        if expects_gpu():
            said, _, fix = problem.partition(": ")
            yield Finding("GPU", "CUDA", State.BROKEN, said, fix)
        else:
            yield Finding("GPU", "CUDA", State.MISSING, "no NVIDIA GPU here")
        return
    for line in list_gpus():
        name, _, detail = line.partition(" ")
        yield Finding("GPU", name, State.OK, detail.strip())
    for name, check in (("nvcc", find_nvcc), ("NVDEC", lambda: check_nvdec(0))):
        try:
            check()
        except EngineError as error:
            said, _, fix = str(error).partition(": ")
            yield Finding("GPU", name, State.MISSING, said, fix)
        else:
            yield Finding("GPU", name, State.OK)


def _video() -> Iterator[Finding]:
    import av

    from streamer.sinks.video.encoders import list_encoders

    missing = [name for name, codec in _DECODERS.items() if codec not in av.codecs_available]
    if missing:
        fix = "pip install --force-reinstall av"
        yield Finding("video", "decoders", State.BROKEN, f"this PyAV lacks {', '.join(missing)}", fix)
    else:
        yield Finding("video", "decoders", State.OK, ", ".join(_DECODERS))
    with tempfile.TemporaryDirectory() as folder:
        options = ["sample", "--output", str(Path(folder) / "out.mp4"), "--max-frames", str(_TRIED_FRAMES)]
        problem = _run([*options, "--device", "cpu", "--quiet"], _RUN_TIMEOUT_S)
        if problem is None and (frames := _frames_of(Path(folder) / "out.mp4")) != _TRIED_FRAMES:
            problem = f"the recording holds {frames} of {_TRIED_FRAMES} frames"
    detail = problem or "the packaged clip was read, annotated and recorded"
    yield Finding("video", "recording", State.OK if problem is None else State.BROKEN, detail)
    yield from _encoders(list_encoders())


def _encoders(lines: list[str]) -> Iterator[Finding]:
    """Yields a finding for each encoder that works, and one where no hardware does."""
    working = {}
    for line in lines:
        name, _, said = line.partition(" ")
        if said.endswith(": works"):
            working[name] = said.strip().removesuffix(": works")
    for name, kind in working.items():
        yield Finding("video", name, State.OK, kind)
    if not any("hardware" in kind for kind in working.values()):
        detail = "no encoder works here; the processor encodes (--list encoders says why)"
        yield Finding("video", "hardware", State.MISSING, detail)


def _frames_of(path: Path) -> int:
    import av

    with av.open(str(path)) as opened:
        return sum(1 for _ in opened.decode(video=0))


def _display() -> Iterator[Finding]:
    from streamer.sinks.window.display import display_problem

    problem = display_problem()
    if problem is None:
        yield Finding("display", "window", State.OK)
    else:
        said, _, fix = problem.partition(": ")
        yield Finding("display", "window", State.MISSING, f"{said}; the default output is out.mp4", fix)


def _cameras() -> Iterator[Finding]:
    from streamer.sources.cameras import cameras

    found = cameras()
    if not found:
        yield Finding("cameras", "webcams", State.MISSING, "the system reports none; network cameras need none")
    for number, label in found.items():
        device = f"/dev/video{number}"
        try:
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
        except PermissionError:
            fix = 'sudo usermod -aG video "$USER", then log in again'
            yield Finding("cameras", str(number), State.BROKEN, f"{label}: {device} may not be opened", fix)
        except OSError as error:
            fix = "plug it in again; in a container: --device " + device
            yield Finding("cameras", str(number), State.BROKEN, f"{label}: {device}: {error.strerror}", fix)
        else:
            yield Finding("cameras", str(number), State.OK, label)


def _system() -> Iterator[Finding]:
    from streamer.app.limits import check_limits
    from streamer.common.tls import system_bundle

    yield _cache()
    try:
        check_limits()
    except StreamerError as error:
        yield Finding("system", "limits", State.BROKEN, str(error))
    else:
        yield _open_files()
    bundle = system_bundle()
    if bundle is None and sys.platform == "linux":
        fix = "apt install ca-certificates"
        yield Finding("system", "certificates", State.MISSING, "no authorities for https and rtsps cameras", fix)
    else:
        yield Finding("system", "certificates", State.OK, str(bundle or "the system's"))


def _open_files() -> Finding:
    try:
        import resource
    except ImportError:  # Windows has none
        return Finding("system", "limits", State.OK)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        return Finding("system", "limits", State.OK, f"{said} open files")
    reachable = _FEW_FILES if hard == resource.RLIM_INFINITY else min(hard, _FEW_FILES)
    fix = f"ulimit -n {reachable}" if reachable > soft else "raise the hard limit of open files (nofile)"
    return Finding("system", "limits", State.MISSING, f"{said} open files are few for many cameras", fix)


def _cache() -> Finding:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    except OSError as error:
        detail = f"{str(folder)!r} can't be written ({error.strerror or error}): each start takes longer"
        return Finding("system", "cache", State.BROKEN, detail, "export NANODET_STREAMER_CACHE=FOLDER")
    return Finding("system", "cache", State.OK, f"{folder} ({size / 1e6:.0f} MB)")
