from __future__ import annotations

import errno
import logging
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from calibration.run_folder.results_table import EpochResult
from calibration.run_folder.tensorboard import EventWriter
from tests.media import write_image


def events_in(folder: Path) -> list[Any]:
    """Returns all events in the files of a folder: length and its checksum, content and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return events


RESULT = EpochResult(2, 40, loss=1.5, AP=30.0, int8_AP=None, lr=0.01, images_per_s=100.0, dfl=float("nan"))


class TestEvents:
    @pytest.fixture(autouse=True)
    def _needs_tensorboardx(self) -> None:
        pytest.importorskip("tensorboardX", reason="events are written by tensorboardX")

    def test_scalars_are_named_by_group_and_missing_ones_left_out(self, tmp_path: Path) -> None:
        with EventWriter(tmp_path / "events") as events:
            events.add_result(RESULT)
        version, event = events_in(tmp_path / "events")
        assert version.file_version == "brain.Event:2"
        assert event.step == 40
        assert {value.tag: value.simple_value for value in event.summary.value} == pytest.approx(
            {"train/loss": 1.5, "train/lr": 0.01, "val/AP": 30.0, "speed/images_per_s": 100.0}
        )

    def test_pictures(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        picture = write_image(tmp_path / "a.png")
        with EventWriter(tmp_path / "events") as events:
            events.add_picture("curves/PR", picture, 7)
            events.add_picture("curves/none", tmp_path / "none.png", 7)
        (value,) = events_in(tmp_path / "events")[1].summary.value
        assert (value.tag, value.image.width, value.image.height) == ("curves/PR", 96, 64)
        assert value.image.encoded_image_string == picture.read_bytes()
        assert "none.png: can't read the picture" in caplog.text
        assert len(events_in(tmp_path / "events")) == 2

    def test_a_resumed_run_hides_what_came_after(self, tmp_path: Path) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog

        with EventWriter(tmp_path, first_step=40):
            pass
        event = events_in(tmp_path)[1]
        assert (event.step, event.session_log.status) == (40, SessionLog.START)

    def test_tensorboard_reads_them(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard", reason="reads the events back as its users do")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        with EventWriter(tmp_path) as events:
            events.add_result(RESULT)
            events.add_picture("curves/PR", write_image(tmp_path.parent / "a.png"), 7)
        read = EventAccumulator(str(tmp_path)).Reload()
        assert [(each.step, each.value) for each in read.Scalars("val/AP")] == [(40, 30.0)]
        assert [(each.width, each.height) for each in read.Images("curves/PR")] == [(96, 64)]

    def test_a_full_disk_costs_events_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        def fill(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with EventWriter(tmp_path) as events:
            monkeypatch.setattr(EventsWriter, "flush", fill)
            events.add_result(RESULT)
            events.add_result(RESULT)
            events.add_picture("a", tmp_path / "a.png", 1)
        assert caplog.text.count("TensorBoard events can't be written: No space left on device; free some space") == 1

    def test_a_folder_that_cant_be_made(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        with EventWriter(tmp_path / "file/events") as events:
            events.add_result(RESULT)
        assert caplog.text.count("TensorBoard events can't be written") == 1


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    caplog.set_level(logging.INFO)
    with EventWriter(tmp_path / "events", first_step=3) as events:
        events.add_result(RESULT)
        events.add_picture("a", write_image(tmp_path / "a.png"), 1)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "pip install tensorboardX" in caplog.text
    assert not (tmp_path / "events").exists()
