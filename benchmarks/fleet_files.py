"""Part "files" of ``benchmarks.fleet``: many files through one engine, as fast as they go."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks.bound import bound_fps, measure_finding
from benchmarks.clips import repeat_clip, write_clip
from benchmarks.isolated import isolated
from benchmarks.machine import busy_core_s
from benchmarks.measure import Miscounted, Spread
from benchmarks.process import peak_resident_bytes
from benchmarks.table import markdown_table
from streamer.common.cpu_info import available_cores
from streamer.detector import DEFAULT_MODEL, open_detector

WANTED_OF_BEST = 0.95
WANTED_BYTES_A_STREAM = 40e6


@dataclass(frozen=True)
class FilesRound:
    """One run of some streams, in a process of its own.

    Attributes:
        frames: unique frames that reached the sinks, of all streams.
        fps: as the report has it: `frames` over the time from the threads' start to the closed files.
        whole_s: seconds of the whole run, opening the model and the files included; imports are not in it.
        cpu_s: processor seconds of all threads of the process in `whole_s`.
        peak_bytes: most resident size of the process.
        others_cores: cores that the rest of the machine kept busy meanwhile; None where that can't be told.
    """

    frames: int
    fps: float
    whole_s: float
    cpu_s: float
    peak_bytes: int
    others_cores: float | None


@dataclass(frozen=True)
class Files:
    """What all rounds gave.

    Attributes:
        rounds: by the number of streams.
        requests: the best number of parallel requests, as measured here, by the number of streams.
        costs_s: processor seconds a frame of reading and finding alone, one for each round, by stage.
    """

    rounds: dict[int, list[FilesRound]]
    requests: dict[int, int]
    costs_s: list[dict[str, float]]

    @property
    def fps(self) -> dict[int, Spread]:
        """Total frames a second, by the number of streams."""
        return {count: Spread.of([one.fps for one in rounds]) for count, rounds in self.rounds.items()}

    @property
    def peak_bytes(self) -> dict[int, float]:
        """Median of the peak resident sizes, by the number of streams."""
        return {count: median(one.peak_bytes for one in rounds) for count, rounds in self.rounds.items()}


def measure(footage: Sequence[Path], counts: Sequence[int], frames: int, rounds: int) -> Files:
    """Runs each number of streams in turn, round after round.

    Args:
        footage: real clips.
        counts: numbers of streams, ascending.
        frames: of all streams together, in each run.
        rounds: how often each number of streams runs.

    Raises:
        Miscounted: if a stream lost or repeated frames.
        StreamerError: if a run fails.
    """
    found: dict[int, list[FilesRound]] = {count: [] for count in counts}
    costs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(footage, Path(folder), counts, frames)
        requests = isolated(choose_requests, counts)  # ahead, so that no round's memory has the choosing in it
        for _ in range(rounds):
            for count in counts:
                found[count].append(isolated(run_files, clips[:count], frames // count))
            costs.append(isolated(measure_finding, clips[-1], counts[-1]))
    return Files(found, requests, costs)


def write_clips(
    footage: Sequence[Path], folder: Path, counts: Sequence[int], frames: int, *, loop_frames: int = 377
) -> list[Path]:
    """Writes a clip for each stream, each beginning elsewhere in the footage and as long as it is ever needed.

    A clip repeats after `loop_frames`.
    """
    streams = max(counts)
    loop = min(loop_frames, frames)
    clips = []
    for number in range(streams):
        once, clip = folder / f"once-{number}.mp4", folder / f"clip-{number}.mp4"
        write_clip(footage, once, loop, first=number * loop // streams)
        longest = frames // min(count for count in counts if count > number)
        repeat_clip(once, clip, -(-longest // loop))
        once.unlink()
        clips.append(clip)
    return clips


def run_files(clips: Sequence[Path], frames: int) -> FilesRound:
    """Runs this program once as its command line does, `frames` of each clip, to JSON lines.

    Raises:
        Miscounted: if a stream's lines are more or fewer.
        StreamerError: if the run fails.
    """
    from streamer.app.config import StreamConfig
    from streamer.app.run import run
    from streamer.sinks.spec import OutputSpec
    from streamer.sources.spec import SourceSpec

    with tempfile.TemporaryDirectory() as folder:
        config = StreamConfig(
            source=tuple(SourceSpec.parse(str(clip), name=f"s{number}") for number, clip in enumerate(clips)),
            output=(OutputSpec.parse(f"{folder}/{{source}}.jsonl"),),
            device="cpu",
            pace="max",
            max_frames=frames,
            progress=False,
        )
        busy_s, cpu_s, began_s = busy_core_s(), time.process_time(), time.perf_counter()
        report = run(config)
        whole_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        others_s = (busy_core_s() or 0.0) - busy_s - cpu_s if busy_s is not None else None
        for source in report.sources:
            lines = Path(folder, f"{source.name}.jsonl").read_text(encoding="utf-8").count("\n")
            if not lines == source.frames_processed == frames:
                raise Miscounted(
                    f"{source.name}: wanted {frames} frames, it says {source.frames_processed}, its file has {lines}"
                )
    return FilesRound(
        frames * len(clips),
        report.fps,
        whole_s,
        cpu_s,
        peak_resident_bytes(),
        max(0.0, others_s / whole_s) if others_s is not None else None,
    )


def choose_requests(counts: Sequence[int]) -> dict[int, int]:
    """Returns how many parallel requests the engine has for that many files."""
    chosen = {}
    for count in counts:
        batch: Literal["auto"] | None = "auto" if count > 1 else None
        with open_detector(DEFAULT_MODEL, device="cpu", batch=batch, streams=count, live=False) as detector:
            chosen[count] = detector.depth
    return chosen


def slope(values: Mapping[int, float]) -> float:
    """Returns how much each stream adds from the fewest streams to the most.

    Args:
        values: by the number of streams, at least two of them.

    Raises:
        ValueError: if there are fewer.
    """
    if len(values) < 2:
        raise ValueError(f"wanted values of at least two numbers of streams, got {len(values)}")
    least, most = min(values), max(values)
    return (values[most] - values[least]) / (most - least)


def costs_line(costs_s: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    """Returns the medians of several measurements of the stages as text, and their sum in seconds."""
    medians = {stage: median(one[stage] for one in costs_s) for stage in costs_s[0]}
    total_s = sum(medians.values())
    stages = " + ".join(f"{stage} {seconds * 1e3:.2f}" for stage, seconds in medians.items())
    return f"{stages} = {total_s * 1e3:.2f} CPU ms a frame", total_s


def report(files: Files) -> str:
    """Returns the table, the bound, and what was wanted."""
    costs, cost_s = costs_line(files.costs_s)
    bound = bound_fps(available_cores(), {"all": cost_s})
    fps = files.fps
    best = max(spread.median for spread in fps.values())
    rows = []
    for count, rounds in files.rounds.items():
        others = [one.others_cores for one in rounds if one.others_cores is not None]
        rows.append(
            [
                str(count),
                str(files.requests[count]),
                f"{fps[count].median:.1f}",
                f"{fps[count].min:.1f} - {fps[count].max:.1f}",
                f"{fps[count].median / best:.2f}",
                f"{fps[count].median / bound:.2f}",
                f"{median(one.frames / one.whole_s for one in rounds):.1f}",
                f"{median(one.cpu_s / one.frames for one in rounds) * 1e3:.1f}",
                f"{max(others):.2f}" if others else "-",
                f"{files.peak_bytes[count] / 1e6:.0f}",
            ]
        )
    head = [
        "streams",
        "requests",
        "total fps",
        "min - max",
        "of the best",
        "of the bound",
        "with opening",
        "CPU ms/frame",
        "others' cores",
        "peak MB",
    ]
    least, most = min(fps), max(fps)
    share, added = fps[most].median / best, slope(files.peak_bytes)
    rounds_of_one = files.rounds[least]
    verdicts = [
        f"- {most} streams / the best: {share:.2f}, wanted {WANTED_OF_BEST:g}: "
        f"{'reached' if share >= WANTED_OF_BEST else 'missed'}",
        f"- Memory that each stream adds, from {least} to {most}: {added / 1e6:.1f} MB, wanted under "
        f"{WANTED_BYTES_A_STREAM / 1e6:g} MB: {'reached' if added < WANTED_BYTES_A_STREAM else 'missed'}",
    ]
    return "\n\n".join(
        [
            f"{rounds_of_one[0].frames:,} frames of 1280x720 H.264 in each run, all streams together, each stream from "
            f"another place of the footage; to JSON lines; {len(rounds_of_one)} "
            f"round{'s' * (len(rounds_of_one) != 1)}, numbers of streams in turn, medians.",
            markdown_table(head, rows),
            f"Bound: {available_cores()} cores / ({costs}) = {bound:.1f} fps.",
            "\n".join(verdicts),
        ]
    )
