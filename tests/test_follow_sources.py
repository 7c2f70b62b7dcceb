"""Sources that a followed configuration file adds, changes and removes while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.app.config import StreamConfig
from streamer.common.errors import ConfigError, SourceError
from streamer.detector.base import DetectTimes
from streamer.detector.filter_options import ClassThresholds
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.pipeline import StreamSpec
from streamer.sources.spec import SourceSpec
from tests.fakes import CountingSource, MemorySink, SlowDetector, wait_for
from tests.following import Following, following


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Following]:
    """A run of the sources a and b."""
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    with following(path) as started:
        yield started


def test_sources_come_and_go_with_the_file(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run.write("source: {b: two, c: three}\n")
    wait_for(lambda: run.names == ["b", "c"])
    run.flows("b")
    run.flows("c")
    assert len(run.opened["b"]) == 1  # it went on undisturbed
    indices = run.opened["b"][0][1].indices
    assert indices == list(range(len(indices)))
    assert run.opened["a"][0][1].closed == 1
    assert run.streams.released == ["a"]
    assert "source 'a' is removed" in caplog.messages
    assert "source 'c' is added" in caplog.messages


def test_another_uri_begins_anew(run: Following) -> None:
    run.write("source: {a: elsewhere, b: two}\n")
    wait_for(lambda: len(run.opened["a"]) == 2)
    assert run.opened["a"][1][0] == "elsewhere"
    assert run.opened["a"][0][1].closed == 1  # the old one had finished before the new one was opened
    run.flows("a")
    assert len(run.opened["b"]) == 1


def test_all_may_be_exchanged_though_opening_takes_a_while(run: Following) -> None:
    run.streams.gate = threading.Event()
    run.write("source: {x: slow}\n")
    wait_for(lambda: run.names == [])
    assert not run.result
    run.streams.gate.set()
    wait_for(lambda: run.names == ["x"])
    run.flows("x")


def test_priority_and_budget_change_without_a_break(run: Following) -> None:
    run.write("source: {a: {uri: one, priority: 3, detect_every: 2}, b: two}\n")
    (a,) = [stream for stream in run.pipeline.streams if stream.name == "a"]
    wait_for(lambda: a.inference.input.priority == 3)
    count = len(run.opened["a"][0][1].detections)
    wait_for(lambda: any(found.is_reused for found in run.opened["a"][0][1].detections[count:]))
    assert len(run.opened["a"]) == 1


def test_areas_to_ignore_change_without_a_break(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    sink = run.opened["a"][0][1]
    wait_for(lambda: any(len(found) for found in sink.detections))
    run.write("source: {a: {uri: one, ignore: '0,0 1,0 1,1 0,1'}, b: two}\n")
    wait_for(lambda: not len(sink.detections[-1]))
    run.write("source: {a: {uri: one, ignore: gone.png}, b: two}\n")
    wait_for(lambda: any("can't be followed: ignore: can't read 'gone.png'" in line for line in caplog.messages))
    assert not len(sink.detections[-1])
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: len(sink.detections[-1]) > 0)
    assert len(run.opened["a"]) == 1


def test_a_source_that_is_put_back_while_it_drains(run: Following) -> None:
    gate, writes = threading.Event(), threading.Event()

    def blocked(_: int) -> None:
        writes.set()
        gate.wait(20)

    run.streams.sinks["drains"] = MemorySink(before=blocked)
    run.write("source: {a: drains, b: two}\n")
    assert writes.wait(20)
    run.write("source: {b: two}\n")
    (a,) = [stream for stream in run.pipeline.streams if stream.name == "a"]
    wait_for(lambda: a.is_removed)
    assert run.names == ["a", "b"]  # what it had captured is still being written
    run.write("source: {a: {uri: again, priority: 2}, b: two}\n")
    for _ in range(20):
        run.flows("b")
    gate.set()
    wait_for(lambda: len(run.opened["a"]) == 3)
    run.flows("a")
    assert [stream.inference.input.priority for stream in run.pipeline.streams if stream.name == "a"] == [2]


def test_a_priority_that_changes_while_the_source_is_opened(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run.streams.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one, b: two, c: {uri: slow, priority: 4, detect_every: 3}}\n")
    wait_for(lambda: any("source 'c' has changed" in line for line in caplog.messages))
    run.streams.gate.set()
    wait_for(lambda: run.names == ["a", "b", "c"])
    (c,) = [stream for stream in run.pipeline.streams if stream.name == "c"]
    assert (c.inference.input.priority, c.inference.detect_every) == (4, 3)
    assert len(run.opened["c"]) == 1


def test_an_entry_that_changes_there_and_back_while_it_is_opened(run: Following) -> None:
    run.streams.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: sum(thread.name == "open c" for thread in threading.enumerate()) == 1)
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: "c" in run.streams.released)
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: sum(thread.name == "open c" for thread in threading.enumerate()) == 2)
    run.streams.gate.set()
    wait_for(lambda: sorted(source.closed for uri, source in run.streams.sources if uri == "slow") == [0, 1])
    wait_for(lambda: run.names == ["a", "b", "c"])
    assert len(run.opened["c"]) == 1


def test_what_is_said_for_all_sources_holds_for_each(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: {uri: two, detect_every: 5}}\ndetect_every: 2\n")
    streams = {stream.name: stream for stream in run.pipeline.streams}
    wait_for(lambda: (streams["a"].inference.detect_every, streams["b"].inference.detect_every) == (2, 5))
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: (streams["a"].inference.detect_every, streams["b"].inference.detect_every) == (1, 1))
    assert not any("can't change" in line for line in caplog.messages)
    assert len(run.opened["a"]) == len(run.opened["b"]) == 1


def test_names_may_be_exchanged(run: Following) -> None:
    run.write("source: {a: two, b: one}\n")
    wait_for(lambda: len(run.opened["a"]) == len(run.opened["b"]) == 2)
    assert (run.opened["a"][1][0], run.opened["b"][1][0]) == ("two", "one")
    run.flows("a")
    run.flows("b")


def test_an_opening_that_breaks_ends_nothing(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two, c: broken}\n")
    wait_for(lambda: any("'c' can't be added: ValueError: no such thing" in line for line in caplog.messages))
    run.flows("a")
    run.write("source: {a: one, b: two, c: {uri: broken, priority: 1}}\n")  # any change has it tried again
    wait_for(lambda: sum("'c' can't be added" in line for line in caplog.messages) == 2)
    assert run.names == ["a", "b"]


def test_what_cannot_change_is_told(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: one, b: two}\nmodel: other\niou: 0.9\n")
    wait_for(lambda: any("iou, model can't change" in line for line in caplog.messages))
    assert run.names == ["a", "b"]


def test_a_source_that_cannot_be_opened_is_told_and_may_be_mended(
    run: Following, caplog: pytest.LogCaptureFixture
) -> None:
    run.write("source: {a: one, b: two, c: refused}\n")
    wait_for(lambda: any("'c' can't be added" in line for line in caplog.messages))
    run.flows("a")
    assert [error.where for error in run.pipeline.report().errors] == ["c"]
    run.write("source: {a: one, b: two, c: three}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])
    assert not run.pipeline.report().errors


def test_a_replacement_that_cannot_be_opened_leaves_the_old_one_recording(run: Following, caplog: Any) -> None:
    run.write("source: {a: refused, b: two}\n")
    wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["a"])
    said = "source 'a' can't be replaced, the old one continues: source 'refused' refused the connection"
    assert said in run.pipeline.report().errors[0].what
    run.flows("a")
    assert [uri for uri, _ in run.opened["a"]] == ["one"] and not run.opened["a"][0][1].closed
    run.write("source: {a: one, b: two}\n")  # back at what runs
    wait_for(lambda: not run.pipeline.report().errors)
    run.write("source: {a: three, b: two}\n")
    wait_for(lambda: [uri for uri, _ in run.opened["a"]] == ["one", "three"])
    run.flows("a")
    indices = run.opened["a"][0][1].indices
    assert indices == list(range(len(indices)))


def test_a_replacement_whose_outputs_are_refused_leaves_the_old_one_recording(run: Following, caplog: Any) -> None:
    run.streams.refused = {"three", "one"}
    for text in ("source: {a: three, b: two}\n", "source: {a: {uri: one, policy: every-frame}, b: two}\n"):
        run.write(text)
        wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["a"])
        assert "several sources can't share it" in run.pipeline.report().errors[0].what
        run.flows("a")
        assert len(run.opened["a"]) == 1 and not run.opened["a"][0][1].closed
        run.write("source: {a: one, b: two}\n")
        wait_for(lambda: not run.pipeline.report().errors)
    assert [source.closed for uri, source in run.streams.sources if uri == "three"] == [1]


def test_a_lost_source_ends_before_its_replacement_opens(run: Following) -> None:
    (a,) = [source for uri, source in run.streams.sources if uri == "one"]
    a.lost_for_s = 3.0
    run.write("source: {a: refused, b: two}\n")
    wait_for(lambda: run.names == ["b"])
    wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["a"])
    assert "source 'a' can't be added: source 'refused' refused" in run.pipeline.report().errors[0].what


@pytest.mark.parametrize(("before", "after", "is_beside"), [("0", "/dev/video0", False), ("0", "1", True)])
def test_a_webcam_is_not_opened_twice(before: str, after: str, is_beside: bool, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"source: {{a: {before}, b: two}}\n")
    run = Following(path)
    old = run.streams.sources[0][1]
    closed: list[int] = []
    open_source = run.streams.open_source

    def noting(config: StreamConfig, spec: SourceSpec, *, patient: bool = True) -> CountingSource:
        closed.append(old.closed)
        return open_source(config, spec, patient=patient)

    run.streams.open_source = noting  # type: ignore[method-assign]
    run.write(f"source: {{a: {after}, b: two}}\n")
    wait_for(lambda: len(run.opened["a"]) == 2)
    assert (closed[0] == 0) == is_beside
    run.finish()


def test_a_source_that_cannot_be_added_fails_the_run(run: Following) -> None:
    run.write("source: {b: two, c: refused}\n")
    wait_for(lambda: [error.where for error in run.pipeline.report().errors] == ["c"])
    run.pipeline.stop()
    run.thread.join(20)
    assert isinstance(run.result[0], SourceError) and run.result[0].exit_code == 1


def test_a_source_that_could_not_be_added_is_tried_again_when_another_goes(run: Following, caplog: Any) -> None:
    """The one that goes may be what was in its way."""
    open_stream = run.streams.open_stream

    def refusing(config: StreamConfig, source: CountingSource) -> StreamSpec:
        if len(config.source) > 1:
            raise ConfigError("several sources can't share it")
        return open_stream(config, source)

    run.streams.open_stream = refusing  # type: ignore[method-assign]
    run.write("source: {a: one, b: two, c: three}\n")
    wait_for(lambda: "several sources can't share it" in caplog.text)
    run.write("source: {c: three}\n")
    wait_for(lambda: run.names == ["c"])
    run.flows("c")


def test_an_entry_that_changes_while_it_is_opened(run: Following) -> None:
    run.streams.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one, b: two, c: quick}\n")
    wait_for(lambda: run.names == ["a", "b", "c"])
    run.streams.gate.set()
    wait_for(lambda: [source.closed for uri, source in run.streams.sources if uri == "slow"] == [1])
    assert [uri for uri, _ in run.opened["c"]] == ["quick"]
    run.flows("c")


def test_one_that_is_taken_back_before_it_could_begin(run: Following) -> None:
    run.streams.gate = threading.Event()
    run.write("source: {a: one, b: two, c: slow}\n")
    wait_for(lambda: any(thread.name == "open c" for thread in threading.enumerate()))
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])
    run.streams.gate.set()
    wait_for(lambda: [source.closed for uri, source in run.streams.sources if uri == "slow"] == [1])
    assert run.names == ["a"] and "c" not in run.opened


def test_a_source_that_ended_may_be_begun_again(run: Following) -> None:
    run.write("source: {a: one, c: short}\n")
    wait_for(lambda: run.opened.get("c") and run.opened["c"][0][1].closed)
    run.write("source: {a: one}\n")
    wait_for(lambda: run.names == ["a"])
    run.write("source: {a: one, c: short}\n")
    wait_for(lambda: len(run.opened["c"]) == 2 and run.opened["c"][1][1].closed)
    assert [sink.indices for _, sink in run.opened["c"]] == [[0, 1, 2]] * 2


class LoweredDetector(SlowDetector):
    """Finds two boxes, of which it reports what it is told to."""

    can_report_more = True

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[float] = []
        self._lowest = 0.4

    def report(self, conf: ClassThresholds, classes: Sequence[str] | None) -> None:
        self.reported.append(conf.default)
        self._lowest = conf.default

    def collect(self) -> tuple[Frame, Detections, DetectTimes]:
        frame, _, times = super().collect()
        boxes, scores = np.array([[1, 2, 3, 4]] * 2, np.float32), np.array([0.5, 0.2], np.float32)
        found = Detections(boxes, scores, np.zeros(2, np.int64))
        return frame, found.where(scores > self._lowest), times


def test_a_lower_score_is_detected_and_only_its_source_reports_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("source: {a: one, b: two}\n")
    detector = LoweredDetector()
    with following(path, detector) as run:
        sinks = {name: run.opened[name][0][1] for name in "ab"}
        run.flows("a")
        assert {len(found) for found in sinks["a"].detections} == {1}
        run.write("source: {a: {uri: one, conf: 0.1}, b: two}\n")
        wait_for(lambda: len(sinks["a"].detections[-1]) == 2)
        run.flows("b")
        assert {len(found) for found in sinks["b"].detections} == {1}
        run.write("source: {a: one, b: two}\nconf: 0.15\n")  # the run's: found already
        wait_for(lambda: len(sinks["b"].detections[-1]) == 2)
        run.write("source: {a: one, b: two}\n")
        wait_for(lambda: len(sinks["a"].detections[-1]) == len(sinks["b"].detections[-1]) == 1)
        assert detector.reported == [0.1]
        assert len(run.opened["a"]) == len(run.opened["b"]) == 1
    assert not any("restart" in line for line in caplog.messages)


def test_a_detector_that_cannot_report_more_is_told_of(run: Following, caplog: pytest.LogCaptureFixture) -> None:
    run.write("source: {a: {uri: one, conf: 0.1}, b: two}\n")
    wait_for(lambda: any("'a' wants scores or classes that this run doesn't detect" in m for m in caplog.messages))
    run.flows("a")


def test_figures_on_recordings_change_without_a_break(run: Following) -> None:
    (a,) = [stream for stream in run.pipeline.streams if stream.name == "a"]
    run.write("source: {a: {uri: one, overlay: true}, b: two}\n")
    wait_for(lambda: a.fan_out.figures is True)
    run.write("source: {a: one, b: two}\noverlay: false\n")
    wait_for(lambda: a.fan_out.figures is False)
    run.write("source: {a: one, b: two}\n")
    wait_for(lambda: a.fan_out.figures is None)
    assert len(run.opened["a"]) == 1
