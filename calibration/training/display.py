"""What a person sees while a network trains: a progress bar, a line a validation, pictures and events."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from calibration.run_folder.drawings import draw_batch
from calibration.run_folder.results_plot import draw_results
from calibration.run_folder.results_table import EpochResult, read_results
from calibration.run_folder.tensorboard import EventWriter
from calibration.training.job import Job, State
from calibration.training.length import Length
from calibration.training.loader import Batch
from calibration.training.photometry import as_pictures, network_inputs
from streamer.common.closeable import Closeable

_BATCHES = 2
_MOST_DRAWN = 16
_DRAW_EVERY_S = 30.0
_SHOWN = ("loss", "qfl", "bbox", "dfl")


class Display(Closeable):
    """Shows a run's progress on the terminal, in its folder and in TensorBoard's events."""

    def __init__(self, job: Job, length: Length, *, events: EventWriter) -> None:
        """Begins the bar, where standard error is a terminal."""
        self._job, self._length, self._events = job, length, events
        self._drawn_at_s = -_DRAW_EVERY_S
        self._drawn_batches = 0
        self._bar = tqdm(total=1000, unit="", disable=None, bar_format="{desc} {percentage:5.1f} %|{bar}| {postfix}")

    def on_batch(self, batch: Batch) -> None:
        """Draws the first batches as they are augmented."""
        if self._drawn_batches == _BATCHES:
            return
        job, truth, drawn = self._job, batch.truth, slice(_MOST_DRAWN)
        pictures = as_pictures(network_inputs(batch.images, job.spec, batch.colour)[drawn], job.spec)
        kept = [valid.numpy() for valid in truth.is_valid[drawn]]
        boxes, labels, ignored = (
            [values.numpy()[mask] for values, mask in zip(tensor[drawn], kept, strict=True)]
            for tensor in (truth.boxes, truth.labels, truth.is_ignored)
        )
        path = job.folder.training_picture(self._drawn_batches)
        draw_batch(pictures, boxes, labels, job.spec.labels, path, ignored)
        self._events.add_picture(f"train/batch_{self._drawn_batches}", path, batch.step)
        self._drawn_batches += 1

    def on_step(self, state: State, losses: dict[str, float]) -> None:
        """Moves the bar."""
        left_s = self._length.expected_s(state)
        eta = "" if left_s is None else f", {_duration(left_s)} left"
        shown = " ".join(f"{name} {losses[name]:.3f}" for name in _SHOWN if name in losses)
        self._bar.set_description_str(f"epoch {state.epoch + 1}, step {state.step}{eta}", refresh=False)
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.n = min(1000, round(1000 * self._length.share(state)))
        self._bar.refresh()

    def on_row(self, row: EpochResult) -> None:
        """Prints and draws the results of an epoch with a validation, and writes all to the events."""
        self._events.add_result(row)
        if row.AP is None:
            return
        int8 = "" if row.int8_AP is None else f", simulated INT8 {row.int8_AP:.2f}"
        loss = "" if row.loss is None else f", loss {row.loss:.3f}"
        with self._bar.external_write_mode(file=sys.stdout):
            print(
                f"epoch {row.epoch}, step {row.step}: AP {row.AP:.2f}, AP50 {row.AP50:.2f}{int8}{loss},"
                f" {row.images_per_s:.0f} images/s",
                flush=True,
            )
        if time.monotonic() - self._drawn_at_s < _DRAW_EVERY_S:
            return
        self._drawn_at_s = time.monotonic()
        folder = self._job.folder
        draw_results(read_results(folder.results), folder.results_picture, folder.path.name)
        self._events.add_picture("results", folder.results_picture, row.step)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
