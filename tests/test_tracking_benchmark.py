"""The measurement of trackers: a short run, and its true boxes."""

from __future__ import annotations

import json

import pytest

from benchmarks import tracking
from tests.test_tracking import sample


def test_a_short_run_prints_each_tracker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tracking, "detect", lambda model, frames: sample()[:12])

    assert tracking.main([]) == 0
    rows = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("| bytetrack", "| ocsort", "| botsort"))
    ]
    assert len(rows) == 12


def test_true_boxes_are_of_each_frame_and_lie_in_the_picture() -> None:
    truth = json.loads(tracking._TRUTH.read_text())

    assert len(truth["frames"]) == 300
    for row in truth["frames"]:
        for of, left, top, right, bottom in row:
            assert str(of) in truth["labels"] and 0 <= left < right <= 1280 and 0 <= top < bottom <= 720
