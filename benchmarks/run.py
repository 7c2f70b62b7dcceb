"""``python -m benchmarks.run``: this program and its peers, one after another in one process."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bound import STAGES, bound_fps, measure_stages
from benchmarks.clips import ENCODING, FPS, SIZE_WH, find_footage, write_clip
from benchmarks.contenders import (
    CODEC,
    CONF,
    IOU,
    Contender,
    Loop,
    Streamer,
    SupervisionLoop,
    TutorialLoop,
    VidgearLoop,
    onnxruntime_of,
    openvino_of,
)
from benchmarks.machine import describe_machine
from benchmarks.measure import Figures, Miscounted, measure
from benchmarks.options import parser_of, positive, write_results
from benchmarks.quality import loop_psnr, streamer_psnr
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.models.file import load_model
from streamer.models.zoo import resolve_model

WANTED_OF_BOUND = 0.85
WANTED_PSNR_DB = 36.0
_WARM_UP_FRAMES = 30
_PSNR_FRAMES = 40


@dataclass(frozen=True)
class Comparison:
    """What one model's rounds gave.

    Attributes:
        model: its name.
        engine: engine and precision that this program ran.
        figures: each contender's, this program's first.
        stages_cpu_s: processor seconds a frame of this program's stages, each alone, medians of all rounds.
        left_out: contenders that couldn't run, and why.
        streaming_fps: this program's, opening the model left out; median of all rounds.
    """

    model: str
    engine: str
    figures: list[Figures]
    stages_cpu_s: dict[str, float]
    left_out: list[str]
    streaming_fps: float

    @property
    def bound_fps(self) -> float:
        """The most this machine's cores allow this program's stages."""
        return bound_fps(available_cores(), self.stages_cpu_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status: 0 done, 1 failed. Missing what is wanted is no failure."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (1 if options.smoke else 3)
    frames = options.frames or (60 if options.smoke else 3 * 377)
    machine = describe_machine()
    try:
        with tempfile.TemporaryDirectory() as folder:
            footage = options.clip or find_footage(smoke=options.smoke)
            clip, short = Path(folder, "clip.mp4"), Path(folder, "warm-up.mp4")
            different = write_clip(footage, clip, frames)
            write_clip(footage, short, min(frames, _WARM_UP_FRAMES))
            conditions = _conditions(footage, frames, different, rounds, machine)
            print(conditions, flush=True)
            compared = [compare(model, clip, short, rounds) for model in options.model or [DEFAULT_MODEL]]
    except (StreamerError, Miscounted, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = "\n\n".join(report(one) for one in compared)
    print(f"\n{text}")
    figures = {"machine": machine, "conditions": conditions, "models": [_plain(one) for one in compared]}
    write_results(options, figures, {"benchmarks.run": f"{conditions}\n\n{text}"})
    return 0


def compare(model: str, clip: Path, short: Path, rounds: int) -> Comparison:
    """Measures this program and its peers in turn, round after round.

    Args:
        model: name or file.
        clip: what each run reads.
        short: a short clip for one unmeasured run of each.
        rounds: how often each runs.

    Raises:
        StreamerError: if this program can't run.
        Miscounted: if a contender lost or repeated frames.
    """
    path, spec = resolve_model(model)
    loaded = load_model(path, spec)
    with open_detector(model, device="cpu") as detector:
        engine, precision = detector.info.name, detector.info.precision
    onnxruntime, openvino = onnxruntime_of(loaded), openvino_of(loaded, precision)
    streamer = Streamer(model)
    contenders: list[Contender] = [
        streamer,
        TutorialLoop(loaded, onnxruntime, wanted=1.8),
        SupervisionLoop(loaded, onnxruntime, wanted=1.3),
        SupervisionLoop(loaded, openvino, wanted=1.1),
        VidgearLoop(loaded, onnxruntime),
    ]
    left_out = [f"{one.name}: {', '.join(one.missing())} not installed" for one in contenders if one.missing()]
    contenders = [one for one in contenders if not one.missing()]
    figures = [Figures(one.name, one.wanted, []) for one in contenders]
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.mp4")
        for one in contenders:
            measure(one, short, output)
        for number in range(1, rounds + 1):
            for one, figure in zip(contenders, figures, strict=True):
                last = measure(one, clip, output)
                figure.rounds.append(last)
                figure.size_bytes = output.stat().st_size
                print(f"round {number}: {one.name}: {last.frames / last.wall_s:.1f} fps", file=sys.stderr, flush=True)
                if isinstance(one, Streamer):  # at once: a machine's speed drifts
                    stages.append(measure_stages(model, clip, Path(folder, f"stages-{number}.mp4")))
                if number == rounds:
                    step = max(1, last.frames // _PSNR_FRAMES)
                    figure.psnr_db = (
                        loop_psnr(one, clip, output, step)
                        if isinstance(one, Loop)
                        else streamer_psnr(model, clip, Path(folder, "kept.mp4"), step)
                    )
    costs = {stage: median(round_[stage] for round_ in stages) for stage in STAGES}
    streaming_fps = median(streamer.streaming_fps[-rounds:])
    return Comparison(path.stem, f"{engine} {precision}", figures, costs, left_out, streaming_fps)


def report(comparison: Comparison) -> str:
    """Returns one model's table, its bound and what was wanted of it, as Markdown."""
    ours = comparison.figures[0]
    rows = []
    verdicts = []
    for figure in comparison.figures:
        ratio = ours.fps.median / figure.fps.median
        fps, cpu = figure.fps, figure.cpu_ms_per_frame
        rows.append(
            [
                figure.name,
                f"{fps.median:.1f}",
                f"{fps.min:.1f} - {fps.max:.1f}",
                f"{cpu.median:.1f}",
                "-" if figure.others_cores is None else f"{figure.others_cores:.2f}",
                f"{ratio:.2f}",
                f"{figure.psnr_db[0]:.1f} / {figure.psnr_db[1]:.1f}" if figure.psnr_db else "-",
                f"{figure.size_bytes / 1e6:.1f}",
            ]
        )
        if figure.wanted is not None:
            verdicts.append(_verdict(f"(a) / {figure.name}", ratio, figure.wanted))
    whole, streaming = ours.fps.median / comparison.bound_fps, comparison.streaming_fps / comparison.bound_fps
    verdicts.append(
        _verdict(f"(a) / its bound, opening left out ({comparison.streaming_fps:.1f} fps)", streaming, WANTED_OF_BOUND)
    )
    verdicts.append(_verdict("(a) / its bound, whole run", whole, WANTED_OF_BOUND))
    if ours.psnr_db:
        verdicts.append(_verdict("PSNR of (a), dB", ours.psnr_db[0], WANTED_PSNR_DB))
    head = ["contender", "fps", "min - max", "CPU ms/frame", "others' cores", "(a) is times", "PSNR dB, worst", "MB"]
    costs = " + ".join(f"{stage} {seconds * 1e3:.2f}" for stage, seconds in comparison.stages_cpu_s.items())
    total_ms = sum(comparison.stages_cpu_s.values()) * 1e3
    bound = (
        f"Bound of (a): {available_cores()} cores / ({costs} = {total_ms:.2f} CPU ms a frame) "
        f"= {comparison.bound_fps:.1f} fps."
    )
    title = f"### {comparison.model}, (a) on {comparison.engine}"
    notes = [f"Left out: {reason}." for reason in comparison.left_out]
    return "\n\n".join([title, markdown_table(head, rows), bound, "\n".join(f"- {line}" for line in verdicts), *notes])


def _verdict(what: str, got: float, wanted: float) -> str:
    return f"{what}: {got:.2f}, wanted {wanted:g}: {'reached' if got >= wanted else 'missed'}"


def _conditions(footage: Sequence[Path], frames: int, different: int, rounds: int, machine: dict[str, str]) -> str:
    width, height = SIZE_WH
    names = ", ".join(path.name for path in footage)
    looped = f"the {different} different frames of {names}, looped" if different < frames else f"from {names}"
    encoding = ", ".join(f"{key} {value}" for key, value in ENCODING.items())
    return "\n".join(
        [
            f"- Clip: {frames} frames, {width}x{height}, {FPS} a second, H.264 (x264 {encoding}), {looped}.",
            f"- {rounds} round{'s' * (rounds != 1)} in one process, contenders in turn after one short unmeasured run "
            "of each; medians. Wall time runs from opening the model to the closed file; imports are left out.",
            f"- Thresholds: score {CONF:g}, IoU {IOU:g}. (a) writes H.264 with its live figures drawn; the peers write "
            f"{CODEC} through OpenCV and draw boxes and labels only.",
            f"- Machine: {', '.join(f'{name} {value}' for name, value in machine.items())}.",
        ]
    )


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        "model": comparison.model,
        "engine": comparison.engine,
        "contenders": [
            asdict(figure) | {"fps": asdict(figure.fps), "cpu_ms_per_frame": asdict(figure.cpu_ms_per_frame)}
            for figure in comparison.figures
        ],
        "stages_cpu_s": comparison.stages_cpu_s,
        "bound_fps": comparison.bound_fps,
        "streaming_fps": comparison.streaming_fps,
        "left_out": comparison.left_out,
    }


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.run", __doc__)
    parser.add_argument("--rounds", type=positive, help="runs of each contender (3; 1 with --smoke)")
    parser.add_argument("--frames", type=positive, help="length of the clip (1131; 60 with --smoke)")
    parser.add_argument("--model", action="append", help=f"name or ONNX file, repeatable ({DEFAULT_MODEL})")
    parser.add_argument("--smoke", action="store_true", help="one short round, to see that everything runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
