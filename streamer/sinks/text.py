"""Detections as text, one or more lines a frame: one file for the whole run, or segments."""

from __future__ import annotations

import abc
from pathlib import Path

from streamer.common.errors import SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.base import Sink, StopRequested, WriteError
from streamer.sinks.files import reason
from streamer.sinks.lines import Pipe, StandardOutput, open_lines
from streamer.sinks.paths import Claim, OutputPaths
from streamer.sinks.retention import SegmentRetention
from streamer.sinks.segmented import SegmentedSink
from streamer.sources.base import SourceInfo


class TextFormat(abc.ABC):
    """What a file holds for each frame.

    Attributes:
        header: the first line of each file, newline included, or empty.
    """

    header: str = ""

    @abc.abstractmethod
    def text(self, frame: Frame, detections: Detections) -> str:
        """Returns a frame's lines, newlines included; empty where a frame has none.

        Raises:
            SinkError: if a detection holds NaN or Inf.
        """


class TextSink(Sink):
    """Writes one UTF-8 file, device or pipe, unbuffered: a killed run leaves whole lines."""

    needs_pixels = False

    def __init__(self, path: Path, text_format: TextFormat, *, paths: OutputPaths | None = None) -> None:
        """Opens `path`, replacing what it holds; a named pipe is opened once it has a reader.

        Raises:
            ConfigError: if another run is writing it.
            SinkError: if it can't be written.
        """
        self._claim = (paths or OutputPaths()).claim_file(path)
        self._path = self._claim.path
        try:
            self._writer = TextWriter(self._claim, text_format)
        except OSError as error:
            self._claim.close()
            raise SinkError(f"can't write {self._path}: {reason(error)}; choose another output") from error

    def write(self, frame: Frame, detections: Detections) -> None:
        self._writer.write(frame, detections)

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._claim.close()

    def interrupt(self) -> None:
        self._writer.interrupt()

    @property
    def written(self) -> tuple[Path, ...]:
        return (self._path,)


class StandardOutputSink(Sink):
    """Writes to standard output, which outputs of several sources share; the run ends when its reader does."""

    needs_pixels = False

    def __init__(self, text_format: TextFormat) -> None:
        """Takes standard output as it is."""
        self._format = text_format
        self._output = StandardOutput()

    def write(self, frame: Frame, detections: Detections) -> None:
        """Writes a frame's lines.

        Raises:
            StopRequested: when its reader has closed it, as ``head -1`` does.
            SinkError: if they can't be written.
        """
        try:
            self._output.write(self._format.text(frame, detections))
        except BrokenPipeError:
            raise StopRequested from None
        except OSError as error:
            raise WriteError(f"standard output broke off: {reason(error)}; the lines before are complete") from error

    def interrupt(self) -> None:
        self._output.interrupt()

    def close(self) -> None:
        """Leaves standard output open."""


class TextSegmentsSink(SegmentedSink["TextWriter"]):
    """Writes text in segments; see `SegmentedSink`."""

    needs_pixels = False

    def __init__(
        self,
        path: Path,
        source: SourceInfo,
        text_format: TextFormat,
        length_s: float,
        retention: SegmentRetention | None = None,
        *,
        paths: OutputPaths | None = None,
    ) -> None:
        """Takes what `SegmentedSink` does, the source, and the format of each file."""
        super().__init__(path, length_s, source.fps, retention, paths=paths)
        self._format = text_format

    def _open(self, path: Path, first: Frame) -> TextWriter:
        try:
            return TextWriter(Claim(path, replaces=False), self._format)
        except FileExistsError:
            raise
        except OSError as error:
            raise WriteError(f"can't write {path}: {reason(error)}; nothing was kept") from error


class TextWriter:
    """One file of lines while it is written.

    Attributes:
        is_kept: whether it has a frame.
    """

    def __init__(self, claim: Claim, text_format: TextFormat) -> None:
        """Opens the file, pipe or device; raises OSError if that fails."""
        self._path = claim.path
        self._format = text_format
        self._lines = open_lines(claim)
        self._header = text_format.header
        self.is_kept = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Appends the frame's lines; raises WriteError if the file can't take them, and as `TextFormat.text`."""
        text = self._header + self._format.text(frame, detections)
        try:
            self._lines.write(text)
        except OSError as error:
            raise self._broken(error) from error
        self._header = ""
        self.is_kept = True

    def close(self, next_s: float | None = None) -> None:
        """Closes the file; raises WriteError if that fails. Safe to call twice."""
        try:
            self._lines.close()
        except OSError as error:
            raise self._broken(error) from error

    def interrupt(self) -> None:
        """Makes a `write` that waits for the reader of a pipe fail soon."""
        if isinstance(self._lines, Pipe):
            self._lines.interrupt()

    def _broken(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path} broke off: {reason(error)}; the lines before are complete")
