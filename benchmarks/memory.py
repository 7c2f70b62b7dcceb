"""``python -m benchmarks.memory``: whether this program's memory grows over 20,000 frames."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clips import count_frames, find_footage, repeat_clip, write_clip
from benchmarks.contenders import CONF, IOU
from benchmarks.isolated import isolated
from benchmarks.machine import describe_machine, machine_line
from benchmarks.options import parser_of, positive, write_results
from benchmarks.process import resident_bytes
from benchmarks.table import markdown_table
from streamer.common.errors import StreamerError
from streamer.detector import DEFAULT_MODEL
from streamer.runtime.pipeline import Pipeline

_LOOP_FRAMES = 377
_SAMPLES = 10
_SPARE_FRAMES = 500  # so that the last sample is read while the run goes on
_WANTED_GROWTH = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status: 0 done, 1 failed."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            footage = options.clip or find_footage(smoke=False)
            once, clip = Path(folder, "once.mp4"), Path(folder, "clip.mp4")
            loop = min(_LOOP_FRAMES, options.frames)
            different = write_clip(footage, once, loop)
            repeat_clip(once, clip, (options.frames + _SPARE_FRAMES) // loop + 1)
            # A process of its own: what preparing the clip took must not be in the figure.
            samples = isolated(watch, options.model, clip, Path(folder, "out.mp4"), options.frames)
            print(f"{count_frames(clip)} frames in the clip, {different} of them different")
    except (StreamerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = report(options.model, samples)
    print(text)
    figures = {"machine": describe_machine(), "model": options.model, "rss_bytes": samples}
    write_results(options, figures, {"benchmarks.memory": text})
    return 0


def watch(model: str, clip: Path, output: Path, frames: int) -> dict[int, int]:
    """Runs this program on `clip` and reads its resident size at every tenth of `frames` processed.

    Returns:
        Resident size in bytes by the number of frames processed when it was read.
    """
    from streamer.app.config import StreamConfig
    from streamer.app.run import run
    from streamer.sinks.spec import OutputSpec
    from streamer.sources.spec import SourceSpec

    samples: dict[int, int] = {}

    def on_poll(pipeline: Pipeline) -> None:
        processed = pipeline.streams[0].stats.processed
        if len(samples) < _SAMPLES and processed >= (len(samples) + 1) * frames // _SAMPLES:
            samples[processed] = resident_bytes()

    run(
        StreamConfig(
            source=(SourceSpec.parse(str(clip)),),
            output=(OutputSpec.parse(str(output)),),
            model=model,
            device="cpu",
            conf=CONF,
            iou=IOU,
            pace="max",
            progress=False,
        ),
        on_poll,
    )
    return samples


def report(model: str, samples: dict[int, int]) -> str:
    """Returns the table of resident sizes and the verdict.

    Args:
        model: what ran.
        samples: resident bytes by frames processed; the first is what the others are held against.
    """
    base = next(iter(samples.values()))
    rows = [[f"{frames:,}", f"{size / 2**20:.1f}", f"{size / base - 1:+.2%}"] for frames, size in samples.items()]
    growth = list(samples.values())[-1] / base - 1
    machine = machine_line()
    verdict = f"Growth {growth:+.2%}; wanted at most {_WANTED_GROWTH:+.0%}."
    table = markdown_table(["frames processed", "resident MiB", "above the first"], rows)
    return f"Model {Path(model).stem}, 1280x720, video file to video file. {machine}.\n\n{table}\n\n{verdict}"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.memory", __doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or ONNX file (%(default)s)")
    parser.add_argument("--frames", type=positive, default=20_000, help="frames to process (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
