"""What of live figures and clock is drawn for which output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from streamer.common.clock_zone import ClockZone
from streamer.frames.detections import Detections
from streamer.frames.draw import Annotator
from streamer.frames.frame import Frame
from streamer.frames.label_layout import Corner
from streamer.frames.viewport import Viewport
from streamer.runtime.pipeline import Pipeline
from streamer.runtime.stream_spec import StreamSpec
from streamer.sinks.base import LiveFigures
from streamer.sinks.images import ImagesSink
from streamer.sinks.window.sink import ViewerSink
from streamer.sources.base import Source, SourceInfo
from tests.fakes import CountingSource, MemorySink, SlowDetector


class ShownSink(MemorySink):
    """A sink that wants pixels, of any kind."""

    def __init__(self, figures: LiveFigures, viewport: Viewport | None = None) -> None:
        super().__init__(needs_pixels=True)
        self.live_figures = figures
        self._viewport = viewport

    @property
    def viewport(self) -> Viewport | None:
        return self._viewport


class Pictures(Source):
    """Frames of picture files."""

    info = SourceInfo("photos", "photos/")

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(np.zeros((480, 640, 3), np.uint8), "photos", 0, 0.0, time.perf_counter(), "a.jpg")

    def close(self) -> None:
        pass


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments with which frames are drawn on; the drawn frames are named after their number."""
    calls: list[dict[str, Any]] = []

    def annotate(self: Annotator, frame: Frame, found: Detections, lines: Any = (), **more: Any) -> Frame:
        calls.append({"index": frame.index, "lines": tuple(lines), **more})
        return Frame(frame.image, frame.source, frame.index, frame.pts_s, frame.captured_at_s, str(len(calls) - 1))

    monkeypatch.setattr(Annotator, "annotate", annotate)
    return calls


def run(source: Source, *sinks: MemorySink, run_overlay: bool | None = None, **options: Any) -> None:
    spec = StreamSpec(source, [(str(at), sink) for at, sink in enumerate(sinks)], **options)
    Pipeline([spec], SlowDetector(), overlay=run_overlay).run()


def figures_of(sink: MemorySink, drawn: list[dict[str, Any]]) -> bool:
    """Whether the sink's only frame has live figures."""
    (frame,) = sink.frames
    return any("fake f32" in line for line in drawn[int(frame.name or 0)]["lines"])


@pytest.mark.parametrize(
    ("overlay", "in_window", "in_recording"), [(None, True, False), (True, True, True), (False, False, False)]
)
def test_windows_have_live_figures_recordings_on_request_and_pictures_never(
    overlay: bool | None, in_window: bool, in_recording: bool, drawn: list[dict[str, Any]]
) -> None:
    window, recording, pictures = (ShownSink(figures) for figures in LiveFigures)
    run(CountingSource(1), window, recording, pictures, overlay=overlay)
    assert [figures_of(sink, drawn) for sink in (window, recording, pictures)] == [in_window, in_recording, False]
    assert len(drawn) == 1 + (in_window != in_recording or in_recording)  # once for all that look alike


@pytest.mark.parametrize(("of_run", "own", "expected"), [(True, None, True), (False, True, True), (True, False, False)])
def test_a_source_has_its_own_wish(of_run: bool, own: bool | None, expected: bool, drawn: list[dict[str, Any]]) -> None:
    recording = ShownSink(LiveFigures.ON_REQUEST)
    run(CountingSource(1), recording, run_overlay=of_run, overlay=own)
    assert figures_of(recording, drawn) is expected


def test_which_outputs_are_which() -> None:
    assert ViewerSink.live_figures is LiveFigures.BY_DEFAULT
    assert ImagesSink.live_figures is LiveFigures.NEVER
    assert MemorySink.live_figures is LiveFigures.ON_REQUEST


def test_still_pictures_have_neither_figures_nor_a_clock(drawn: list[dict[str, Any]]) -> None:
    run(Pictures(), ShownSink(LiveFigures.BY_DEFAULT), overlay=True, clock_zone=ClockZone("utc"))
    assert [(call["lines"], call["stamp"]) for call in drawn] == [((), None)]


def test_a_clock_is_drawn_for_every_output_and_the_figures_go_elsewhere(drawn: list[dict[str, Any]]) -> None:
    window, recording = ShownSink(LiveFigures.BY_DEFAULT), ShownSink(LiveFigures.ON_REQUEST)
    run(CountingSource(1, name="door"), window, recording, clock_zone=ClockZone("utc"))
    assert {call["stamp"] for call in drawn} == {"0:00:00.0  door"}
    assert [call["corner"] for call in drawn if call["lines"]] == [Corner.TOP_RIGHT]


def test_frames_are_drawn_for_the_size_at_which_they_are_seen(drawn: list[dict[str, Any]]) -> None:
    small = Viewport((320, 180), (50, 15))
    run(CountingSource(1), ShownSink(LiveFigures.ON_REQUEST, small), ShownSink(LiveFigures.ON_REQUEST))
    assert [call["viewport"] for call in drawn] == [small, None]


def test_a_tile_that_has_its_name_has_neither_the_figures_nor_the_name_again(drawn: list[dict[str, Any]]) -> None:
    tile = ShownSink(LiveFigures.BY_DEFAULT, Viewport((320, 180), (50, 15)))
    run(CountingSource(1, name="door"), tile, clock_zone=ClockZone("utc"))
    assert [(call["corner"], call["stamp"]) for call in drawn] == [(Corner.TOP_RIGHT, "0:00:00.0")]


def test_the_figures_stay_in_their_corner_until_a_box_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    corners: list[Corner] = []
    asked: list[Corner] = []

    def free_corner(self: Annotator, frame: Frame, found: Detections, lines: Any, each: Any, viewport: Any) -> Corner:
        asked.append(each[0])
        return each[2] if frame.index == 2 else each[0]  # a box comes with frame 2

    def annotate(self: Annotator, frame: Frame, found: Detections, lines: Any = (), **more: Any) -> Frame:
        corners.append(more["corner"])
        return frame

    monkeypatch.setattr(Annotator, "free_corner", free_corner)
    monkeypatch.setattr(Annotator, "annotate", annotate)
    run(CountingSource(5), ShownSink(LiveFigures.BY_DEFAULT))
    assert corners == [Corner.TOP_LEFT] * 2 + [Corner.TOP_RIGHT] * 3
    assert asked == [Corner.TOP_LEFT] * 3 + [Corner.TOP_RIGHT] * 2
