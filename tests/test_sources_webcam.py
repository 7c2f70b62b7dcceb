"""Cameras: the real error path of a device that isn't there; the rest with a stand-in for OpenCV's capture."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import cv2
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from streamer.sources.spec import SourceSpec
from streamer.sources.webcam import WebcamSource
from tests.media import number_of, picture

EVERY = SourceOptions(overflow_policy=OverflowPolicy.BLOCK)


class FakeCapture:
    """A camera that grants 640x480 or 320x240 at up to 30 frames a second, and whatever `plan` says."""

    opened = True
    pictures = 5
    made: ClassVar[list[FakeCapture]] = []

    def __init__(self, device: int | str, backend: int) -> None:
        self.device, self.backend = device, backend
        self.settings = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")),
        }
        self.asked: list[int] = []
        self.count = 0
        self.released = 0
        self.made.append(self)

    def isOpened(self) -> bool:
        return self.opened

    def set(self, key: int, value: float) -> bool:
        self.asked.append(key)
        if key == cv2.CAP_PROP_FRAME_WIDTH:
            self.settings[key] = 320.0 if value <= 320 else 640.0
        elif key == cv2.CAP_PROP_FRAME_HEIGHT:
            self.settings[key] = 240.0 if value <= 240 else 480.0
        elif key == cv2.CAP_PROP_FPS:
            self.settings[key] = min(value, 30.0)
        return True

    def get(self, key: int) -> float:
        return self.settings[key]

    def read(self) -> tuple[bool, Any]:
        if self.count >= self.pictures:
            return False, None
        self.count += 1
        size_wh = (int(self.settings[cv2.CAP_PROP_FRAME_WIDTH]), int(self.settings[cv2.CAP_PROP_FRAME_HEIGHT]))
        return True, picture(self.count - 1, size_wh)

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    class Capture(FakeCapture):
        made: ClassVar[list[FakeCapture]] = []

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    for name in ("exists", "access"):
        monkeypatch.setattr(os if name == "access" else os.path, name, lambda path, *mode: "/dev/video" in path)
    return Capture


def test_frames_of_a_camera(fake: type[FakeCapture]) -> None:
    with open_source("0", options=SourceOptions(overflow_policy=OverflowPolicy.BLOCK, reconnect=0)) as source:
        assert source.info.live
        assert (source.info.name, source.info.uri) == ("camera0", "0")
        assert (source.info.size_wh, source.info.fps) == ((640, 480), 30.0)
        frames = list(islice(source, 5))
        with pytest.raises(SourceError, match="camera '0' stopped giving pictures; check its cable"):
            next(iter(source))
    (capture,) = fake.made
    assert capture.device == 0 and capture.released >= 1
    assert cv2.CAP_PROP_BUFFERSIZE in capture.asked and cv2.CAP_PROP_FPS not in capture.asked
    assert [number_of(frame.image) for frame in frames] == list(range(5))
    assert [frame.index for frame in frames] == list(range(5))
    assert [frame.pts_s for frame in frames] == sorted(frame.pts_s for frame in frames)
    passed = frames[-1].captured_at_s - frames[0].captured_at_s
    assert frames[-1].pts_s - frames[0].pts_s == pytest.approx(passed)


def test_a_camera_that_is_plugged_in_again(fake: type[FakeCapture]) -> None:
    with open_source("0", options=EVERY) as source:
        frames = list(islice(source, 8))
        assert source.reconnects == 1
    assert [frame.index for frame in frames] == list(range(8))
    assert [frame.pts_s for frame in frames] == sorted(frame.pts_s for frame in frames)
    elapsed_s = frames[5].captured_at_s - frames[0].captured_at_s
    assert frames[5].pts_s == pytest.approx(elapsed_s)
    assert len(fake.made) == 2
    assert all(capture.released >= 1 for capture in fake.made)


def test_a_device_node_is_opened_by_its_name(fake: type[FakeCapture]) -> None:
    open_source("/dev/video3").close()
    assert fake.made[0].device == "/dev/video3"


def test_what_was_granted_is_logged(fake: type[FakeCapture], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamer")
    with open_source(
        "0", options=SourceOptions(overflow_policy=OverflowPolicy.BLOCK, width=320, height=240, fps=29.97)
    ) as source:
        assert source.info.size_wh == (320, 240)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "camera 0: 320x240 at 29.97 frames/s" in caplog.text


def test_what_was_not_granted_is_warned_of(fake: type[FakeCapture], caplog: pytest.LogCaptureFixture) -> None:
    with open_source(
        "0",
        options=SourceOptions(
            overflow_policy=OverflowPolicy.BLOCK, width=1920, height=1080, fps=120, pixel_format="MJPG"
        ),
    ) as source:
        assert source.info.size_wh == (640, 480) and source.info.fps == 30.0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert fake.made[0].asked[0] == cv2.CAP_PROP_FOURCC  # sizes and rates depend on it
    assert warnings == [
        "camera 0: asked for MJPG, got YUYV",
        "camera 0: asked for 1920x1080, got 640x480",
        "camera 0: asked for 120 frames/s, got 30",
    ]


def test_a_camera_in_use(fake: type[FakeCapture]) -> None:
    fake.opened = False
    with pytest.raises(SourceError, match="camera '0' can't be opened; close the program that uses it"):
        open_source("0", options=EVERY)
    assert fake.made[0].released == 1


def test_a_camera_without_pictures(fake: type[FakeCapture]) -> None:
    fake.pictures = 0
    with pytest.raises(SourceError, match="camera '0' opens but gives no picture"):
        open_source("0", options=EVERY)
    assert fake.made[0].released == 1


def test_closing_ends_the_iteration(fake: type[FakeCapture]) -> None:
    source = open_source("0", options=EVERY)
    frames = iter(source)
    assert next(frames).index == 0
    source.close()
    source.close()
    assert list(frames) == []


@pytest.mark.skipif(sys.platform != "linux", reason="device nodes are Linux's")
@pytest.mark.parametrize("uri", ["99", "/dev/video99"])
def test_a_camera_that_is_not_there(uri: str) -> None:
    with pytest.raises(SourceError, match=rf"camera '{uri}' isn't there \(/dev/video99\); (cameras here|the system)"):
        open_source(uri)


@pytest.mark.skipif(sys.platform != "linux", reason="device nodes are Linux's")
def test_a_node_that_is_no_camera(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    with pytest.raises(SourceError, match="video0' can't be opened; close the program that uses it"):
        WebcamSource(SourceSpec.parse(str(node), name="camera"))


def test_opencv_says_nothing_of_a_missing_camera() -> None:
    code = "\n".join(
        [
            "import streamer.sources.webcam as webcam",
            "from streamer.sources import SourceSpec",
            "from streamer.common.errors import SourceError",
            "import os; os.path.exists = os.access = lambda *_: True",  # let OpenCV itself find out
            "try: webcam.WebcamSource(SourceSpec.parse('99', name='c'))",
            "except SourceError as error: print(error)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("camera '99' can't be opened") and done.stderr == ""
