"""``python -m benchmarks.first_hour``: what a newcomer types first, in a fresh environment: results, times, sizes.

The README's first command makes the environment; then ten lines run on the packaged clip without a display, and what
each writes is checked. The time to the first annotated frame is taken from the start of the process until a picture
with boxes is in the output folder: once with an empty cache folder, then with a filled one; ``--against`` takes it in
turns with another installation. Downloads count in the time of `pip`, so that depends on the network. The tests aren't
run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import cv2
import av

from benchmarks.machine import machine_line
from benchmarks.options import positive, results_parser, write_results
from benchmarks.table import markdown_table

_ROOT = Path(__file__).parent.parent
_CLIP = _ROOT / "streamer" / "data" / "sample.mp4"
_MOST_MB = 650
_FRAMES = 30
_TIMEOUT_S = 600.0
_SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
_LIBRARY = (
    "from streamer import open_detector, open_source\n"
    "with open_detector() as detector, open_source('clip.mp4') as source:\n"
    "    frame, detections = next(iter(detector.stream(source)))\n"
    "    print([detector.labels[class_id] for class_id in detections.class_ids])"
)


class Wrong(Exception):
    """What a line wrote isn't what it should be."""


@dataclass(frozen=True)
class Line:
    """A command line of the newcomer, run in a folder with ``clip.mp4`` and ``pictures/``.

    Attributes:
        command: what is typed, without a display.
        check: looks at what was printed and written there; raises `Wrong`.
    """

    command: Sequence[str]
    check: Callable[[str, Path], None]


@dataclass
class Installation:
    """A program that is installed: its commands, and a cache folder of its own."""

    python: Path
    cache: Path
    command: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str], folder: Path) -> tuple[str, float]:
        """Runs a line in a folder; returns what it printed and how long it took, seconds."""
        began_s = time.perf_counter()
        done = subprocess.run(
            self.program(command), cwd=folder, env=self.environment(), capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        took_s = time.perf_counter() - began_s
        if done.returncode:
            raise Wrong(f"exit status {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout, took_s

    def program(self, command: Sequence[str]) -> list[str]:
        """Returns the arguments of a process for what is typed."""
        if command[0] == "python":
            return [str(self.python), *command[1:]]
        return [*(self.command or [str(self.python.parent / "nanodet-stream")]), *command[1:]]

    def environment(self) -> dict[str, str]:
        """Returns the variables of a user without a display."""
        hidden = ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        kept = {key: value for key, value in os.environ.items() if key not in hidden}
        return {**kept, "NANODET_STREAMER_CACHE": str(self.cache)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs everything; returns the exit status: 0 all right, 1 a line failed or the environment is too large."""
    parser = results_parser("benchmarks.first_hour", __doc__)
    parser.add_argument("--python", default=sys.executable, help="makes the environment", metavar="FILE")
    parser.add_argument("--installed", type=Path, metavar="PYTHON", help="use this environment instead of a fresh one")
    parser.add_argument("--against", metavar="COMMAND", help="another nanodet-stream, for the first frame in turns")
    parser.add_argument("--rounds", type=positive, default=7, help="of the first frame (default: 7)")
    parser.add_argument("--smoke", action="store_true", help="one round, to see that everything runs")
    options = parser.parse_args(arguments)
    rounds = 1 if options.smoke else options.rounds
    first: dict[str, object]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        python, installing_s = options.installed, None
        if python is None:
            python, installing_s = _install(options.python, work / "environment")
        program = Installation(python, work / "cache")
        megabytes, largest = _sizes(python)
        rows, failed = _lines(program, work)
        try:
            first = _first_frames(program, options.against, work, rounds)
        except Wrong as error:
            first, failed = {"said": f"FAILED: no annotated frame: {error}"}, True
    table = markdown_table(("line", "seconds", "checked"), rows)
    took = "" if installing_s is None else f", installed in {installing_s:.0f} s"
    said = f"{machine_line()}\n\nEnvironment {megabytes:.0f} MB{took}: {largest}.\n\n{table}\n{first['said']}\n"
    print(said)
    figures = {"environment_mb": megabytes, "installing_s": installing_s, "lines": rows, **first}
    write_results(options, figures, {"benchmarks.first_hour": said})
    if megabytes > _MOST_MB:
        print(f"the environment is larger than {_MOST_MB} MB", file=sys.stderr)
    return int(failed or megabytes > _MOST_MB)


def _install(python: str, folder: Path) -> tuple[Path, float]:
    """Runs the README's first command in a new environment; returns its Python and the time, seconds."""
    began_s = time.perf_counter()
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = folder / _SCRIPTS / "python"
    subprocess.run([made, "-m", "pip", "install", "-q", "."], cwd=_ROOT, check=True)
    return made, time.perf_counter() - began_s


def _sizes(python: Path) -> tuple[float, str]:
    """Returns an environment's size on the disk in MiB, as `du -sm` counts it, and its largest packages in words."""
    root = python.parent.parent
    sizes: dict[str, float] = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            parts = path.relative_to(root).parts
            package = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else parts[0]
            sizes[package] = sizes.get(package, 0.0) + path.stat().st_blocks / 2048
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    return sum(sizes.values()), ", ".join(f"{name} {size:.0f}" for name, size in largest)


def _lines(program: Installation, work: Path) -> tuple[list[tuple[str, str, str]], bool]:
    """Runs each line in a folder of its own; returns the table, and whether one failed."""
    rows, failed = [], False
    for number, line in enumerate(_typed()):
        folder = work / f"line{number}"
        _furnish(folder)
        try:
            printed, took_s = program.run(line.command, folder)
            line.check(printed, folder)
        except (Wrong, OSError, ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
            rows.append((_shown(line.command), "", f"FAILED: {error}"))
            failed = True
        else:
            rows.append((_shown(line.command), f"{took_s:.2f}", "yes"))
    return rows, failed


def _shown(command: Sequence[str]) -> str:
    return "python -c (five lines)" if command[0] == "python" else " ".join(command)


def _furnish(folder: Path) -> None:
    """Puts a clip, three pictures and a configuration into a new folder."""
    (folder / "pictures").mkdir(parents=True)
    shutil.copyfile(_CLIP, folder / "clip.mp4")
    with av.open(str(_CLIP)) as clip:
        for number, frame in enumerate(clip.decode(video=0)):
            if number == 3:
                break
            cv2.imwrite(str(folder / "pictures" / f"{number}.jpg"), frame.to_ndarray(format="bgr24"))
    (folder / "run.yaml").write_text(f"source: {{door: clip.mp4}}\noutput: '{{source}}.jsonl'\nmax_frames: {_FRAMES}\n")


def _typed() -> Iterator[Line]:
    """Yields what a newcomer types."""
    frames = ["--max-frames", str(_FRAMES)]
    say = "nanodet-stream"
    yield Line([say, "--help"], _printed("examples:"))
    yield Line([say, "--list", "models"], _printed("nanodet-g_416"))
    yield Line([say], _video("out.mp4"))
    yield Line([say, "clip.mp4", "-o", "boxes.mp4", "--classes", "person,cup", *frames], _video("boxes.mp4", _FRAMES))
    yield Line([say, "clip.mp4", "-o", "found.jsonl", "--conf", "0.5", *frames], _json_lines("found.jsonl", 0.5))
    yield Line([say, "clip.mp4", "-o", "-", *frames, "-q"], _json_lines(None, 0.4))
    yield Line([say, "pictures/", "-o", "annotated/"], _pictures("annotated"))
    yield Line([say, "a=clip.mp4", "b=clip.mp4", "-o", "wall.mp4", *frames], _video("wall.mp4"))
    yield Line([say, "--config", "run.yaml", "--report", "report.json"], _report("report.json", "door.jsonl"))
    yield Line(["python", "-c", _LIBRARY], _printed("person"))


def _printed(word: str) -> Callable[[str, Path], None]:
    def check(printed: str, folder: Path) -> None:
        if word not in printed:
            raise Wrong(f"{word!r} isn't printed")

    return check


def _video(name: str, frames: int | None = None) -> Callable[[str, Path], None]:
    def check(printed: str, folder: Path) -> None:
        with av.open(str(folder / name)) as opened:
            found = sum(1 for _ in opened.decode(video=0))
        if not found or found != (frames or found):
            raise Wrong(f"{name} holds {found} frames")

    return check


def _json_lines(name: str | None, conf: float) -> Callable[[str, Path], None]:
    def check(printed: str, folder: Path) -> None:
        text = printed if name is None else (folder / name).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        scores = [found["score"] for line in lines for found in line["detections"]]
        if len(lines) != _FRAMES or not scores or min(scores) < conf:
            raise Wrong(f"{len(lines)} lines with {len(scores)} detections")

    return check


def _pictures(name: str) -> Callable[[str, Path], None]:
    def check(printed: str, folder: Path) -> None:
        found = sorted(path.name for path in (folder / name).iterdir())
        if len(found) != 3:
            raise Wrong(f"{name} holds {found}")

    return check


def _report(name: str, output: str) -> Callable[[str, Path], None]:
    def check(printed: str, folder: Path) -> None:
        report = json.loads((folder / name).read_text(encoding="utf-8"))
        if report["sources"][0]["frames_processed"] != _FRAMES or not (folder / output).stat().st_size:
            raise Wrong(f"{name} counts {report['sources'][0]}")

    return check


def _first_frames(program: Installation, against: str | None, work: Path, rounds: int) -> dict[str, object]:
    """Takes the time to the first annotated frame with an empty and a filled cache, in turns with another program."""
    program.cache = work / "first"
    cold_s = _first_frame_s(program, work)
    programs = {"this": program}
    if against is not None:
        programs["the other"] = Installation(program.python, work / "other", against.split())
        _first_frame_s(programs["the other"], work)
    times: Mapping[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, each in programs.items():
            times[name].append(_first_frame_s(each, work))
    taken = {name: median(each) for name, each in times.items()}
    said = f"First annotated frame after {cold_s:.2f} s with an empty cache, then {taken['this']:.2f} s"
    if against is not None:
        said += f"; {taken['the other']:.2f} s with the other, ratio {taken['this'] / taken['the other']:.2f}"
    return {"cold_s": cold_s, "first_frame_s": taken, "said": f"{said} (median of {rounds})."}


def _first_frame_s(program: Installation, work: Path) -> float:
    """Returns the time from the start of the process until the first annotated picture is written, seconds."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        out = Path(temporary, "frames")
        line = ["nanodet-stream", "--source", str(_CLIP), "--output", f"{out}/", "--max-frames", "1"]
        began_s = time.perf_counter()
        process = subprocess.Popen(
            program.program(line), env=program.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not (out.is_dir() and any(path.suffix == ".jpg" for path in out.iterdir())):
                if process.poll() is not None and not out.is_dir():
                    raise Wrong(f"exit status {process.returncode} without a picture")
                time.sleep(0.002)
            return time.perf_counter() - began_s
        finally:
            process.wait(_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main())
