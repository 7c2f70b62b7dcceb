"""The table of a run's results: one CSV row an epoch, which survives a killed process and a full disk."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from calibration.files import write_whole
from calibration.run_folder.folder import reason_and_remedy
from streamer.common.errors import ConfigError


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave; None is a figure that wasn't measured.

    Attributes:
        epoch: number of epochs done, from 1.
        step: number of optimiser steps done.
        time_s: since the start of the run, without the time between a stop and its resumption.
        lr: learning rate of the last step.
        loss: mean over the epoch, of all terms with their weights.
        qfl: quality focal loss.
        bbox: GIoU loss.
        dfl: distribution focal loss.
        aux_qfl: the same terms of the auxiliary head, where there is one.
        aux_bbox: see `aux_qfl`.
        aux_dfl: see `aux_qfl`.
        AP: COCO AP x 100 of the float model on the validation pictures, as are the next two.
        AP50: at IoU 0.5.
        AP75: at IoU 0.75.
        int8_AP: AP x 100 of the INT8 model.
        int8_AP50: at IoU 0.5.
        images_per_s: training pictures a second, validation not counted.
        data_wait_share: share of the training time in which the device waited for pictures, 0 to 1.
        gpu_memory_mb: greatest memory allocated on the GPU, in MB.
    """

    epoch: int
    step: int
    time_s: float | None = None
    lr: float | None = None
    loss: float | None = None
    qfl: float | None = None
    bbox: float | None = None
    dfl: float | None = None
    aux_qfl: float | None = None
    aux_bbox: float | None = None
    aux_dfl: float | None = None
    AP: float | None = None
    AP50: float | None = None
    AP75: float | None = None
    int8_AP: float | None = None
    int8_AP50: float | None = None
    images_per_s: float | None = None
    data_wait_share: float | None = None
    gpu_memory_mb: float | None = None

    def figures(self) -> dict[str, float]:
        """Returns the measured, finite figures by name, without `epoch` and `step`."""
        values = {name: getattr(self, name) for name in COLUMNS if name not in _WHOLE}
        return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


COLUMNS = tuple(field.name for field in fields(EpochResult))
"""The columns of the table; those of the auxiliary head are left out for a network without one."""
_WHOLE = ("epoch", "step")


class ResultsTable:
    """Appends to the table of one run. The file is opened for each row, so nothing has to be closed."""

    def __init__(self, path: Path, *, auxiliary: bool) -> None:
        """Prepares a table; nothing is written before the first row.

        Args:
            path: the CSV file.
            auxiliary: whether the network has an auxiliary head, whose losses then have columns.
        """
        self.path = path
        self._columns = tuple(name for name in COLUMNS if auxiliary or not name.startswith("aux_"))

    def append(self, result: EpochResult) -> None:
        """Adds one row, whole and flushed to the disk; a last line that was cut off is removed first.

        Raises:
            ConfigError: the file can't be written; its earlier rows are kept.
        """
        row = _lines([self._cells(result)])
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            with open(descriptor, "r+b", buffering=0) as file:
                end = _end_of_last_line(file)
                file.truncate(end)
                file.seek(end)
                content = row if end else _lines([self._columns]) + row
                try:
                    if file.write(content) != len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(end)
                    raise
        except OSError as error:
            raise ConfigError(f"{self.path}: can't add a row: {reason_and_remedy(error)}") from error

    def trim(self, last_epoch: int) -> tuple[EpochResult, ...]:
        """Removes the rows of later epochs, which a resumed run repeats, and damaged ones; returns those kept.

        Raises:
            ConfigError: the file can't be written, or isn't such a table.
        """
        kept = tuple(result for result in read_results(self.path) if result.epoch <= last_epoch)
        if kept or self.path.exists():
            write_whole(self.path, _lines([self._columns, *(self._cells(result) for result in kept)]))
        return kept

    def _cells(self, result: EpochResult) -> list[str]:
        figures = result.figures()
        return [
            str(getattr(result, name)) if name in _WHOLE else repr(figures[name]) if name in figures else ""
            for name in self._columns
        ]


def read_results(path: Path) -> tuple[EpochResult, ...]:
    """Reads a table of results, also one that was cut off or edited by hand.

    Damaged rows and a last line without an end are passed over, as are unknown columns; what isn't a finite number
    counts as not measured. A row whose epoch isn't later than those before it replaces them.

    Returns:
        The results, epochs ascending; none for a missing or empty file.

    Raises:
        ConfigError: the file can't be read, or its first line names no column ``epoch``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{path}: can't read the results: {error.strerror or error}") from error
    text = content[: content.rfind(b"\n") + 1].decode("utf-8-sig", "replace").replace("\0", "\ufffd")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ()
    header, *rows = ([cell.strip() for cell in _split(line)] for line in lines)
    if "epoch" not in header:
        raise ConfigError(f"{path}: not a table of results: its first line names no column 'epoch'; move the file")
    results: list[EpochResult] = []
    for cells in rows:
        result = _result(header, cells)
        if result is None:
            continue
        while results and results[-1].epoch >= result.epoch:
            results.pop()
        results.append(result)
    return tuple(results)


def _split(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a cell of over 128 KiB
        return []


def _result(header: Sequence[str], cells: Sequence[str]) -> EpochResult | None:
    """Returns one row, or None for a damaged one."""
    if len(cells) != len(header):
        return None
    found = dict(zip(header, cells, strict=True))
    whole = {name: found.get(name, "0") for name in _WHOLE}
    if not all(text.isascii() and text.isdigit() and len(text) < 18 for text in whole.values()):
        return None
    figures = {name: _number(found[name]) for name in COLUMNS if name in found and name not in _WHOLE}
    return EpochResult(int(whole["epoch"]), int(whole["step"]), **figures)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _end_of_last_line(file: io.FileIO) -> int:
    """Returns the length of the file up to its last line end."""
    file.seek(0)
    return file.readall().rfind(b"\n") + 1
