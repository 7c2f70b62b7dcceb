"""Motion JPEG and snapshots: encoded once for all who want the same, and over when a viewer leaves or the run ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import cv2
import av
import numpy as np
import pytest

from streamer.common.errors import EngineError
from streamer.frames.detections import Detections
from streamer.frames.frame import DevicePixels, Frame
from streamer.frames.yuv import Yuv420
from streamer.sinks.base import Sink
from streamer.sinks.page_address import PageAddress
from streamer.sources.base import SourceInfo
from streamer.web import pictures
from streamer.web.page import LivePage
from streamer.web.pictures import PictureKind
from tests.fakes import wait_for
from tests.page_viewers import client

WHOLE = Detections(np.array([[8, 8, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage(PageAddress("http", "127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture
def sink(page: LivePage) -> Sink:
    return page.open_sink(SourceInfo("door", "rtsp://camera", live=True), ("cat",))


def frame(grey: int, size_wh: tuple[int, int] = (64, 48), pixel_aspect: Fraction = Fraction(1)) -> Frame:
    width, height = size_wh
    return Frame(np.full((height, width, 3), grey, np.uint8), "door", grey, grey / 10, 0.0, pixel_aspect=pixel_aspect)


class OnGpu(DevicePixels):
    """A picture that a GPU gives, or not."""

    def __init__(self, grey: int, *, fails: bool = False) -> None:
        self.size_wh, self.gpu = (64, 48), 0
        self._grey, self._fails = grey, fails

    def to_host(self) -> Yuv420:
        if self._fails:
            raise EngineError("the GPU has failed")
        picture = av.VideoFrame.from_ndarray(np.full((72, 64), self._grey, np.uint8), format="yuv420p")
        return Yuv420(picture)


class MotionJpeg:
    """Reads motion JPEG on a thread of its own.

    Attributes:
        greys: the mean of each picture so far.
        is_over: whether the server has ended it.
    """

    def __init__(self, page: LivePage, query: str = "") -> None:
        self.greys: list[int] = []
        self.is_over = self._leaves = False
        self._page, self._query = page, query
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def leave(self) -> None:
        """Closes the connection, at the next picture."""
        self._leaves = True

    def _read(self) -> None:
        url = f"/api/streams/door/live.mjpg?fps=30&{self._query}"
        with client(self._page) as http, http.stream("GET", url) as answer:
            assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=picture"
            content = b""
            for part in answer.iter_bytes():
                content += part
                while (picture := self._first(content)) is not None:
                    content = content[len(picture[0]) + picture[1] + 2 :]
                    if self._leaves:
                        return
            self.is_over = True

    def _first(self, content: bytes) -> tuple[bytes, int] | None:
        """Returns the head and the size of the first part, once it is there whole."""
        head, divider, _ = content.partition(b"\r\n\r\n")
        if not divider:
            return None
        size = int(head.rpartition(b"Content-Length: ")[2])
        begin = len(head) + 4
        if len(content) < begin + size + 2:
            return None
        shown = cv2.imdecode(np.frombuffer(content[begin : begin + size], np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        self.greys.append(round(float(shown.mean())))
        return head + divider, size


def test_each_viewer_gets_the_newest_picture_until_the_end(page: LivePage, sink: Sink) -> None:
    viewers = [MotionJpeg(page, "boxes=0"), MotionJpeg(page, "boxes=0")]
    for grey in (20, 60, 100):
        sink.write(frame(grey), WHOLE)
        wait_for(lambda grey=grey: all(each.greys and abs(each.greys[-1] - grey) < 3 for each in viewers))
    assert page.hub.statuses()[0].viewers == 2
    sink.close()
    for each in viewers:
        each.thread.join(60)
        assert each.is_over
    wait_for(lambda: page.hub.statuses()[0].viewers == 0)


def test_a_picture_is_encoded_once_for_all_of_a_kind(
    page: LivePage, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PictureKind] = []
    encode = pictures.jpeg_of

    def counted(*args: object) -> bytes:
        made.append(args[1])  # type: ignore[arg-type]
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures, "jpeg_of", counted)
    viewers = [MotionJpeg(page, query) for query in ("boxes=1", "boxes=1", "boxes=0")]
    wait_for(lambda: page.hub.statuses()[0].viewers == 3)
    sink.write(frame(20), WHOLE)
    wait_for(lambda: all(each.greys for each in viewers))
    with client(page) as http:
        assert http.get("/api/streams/door/snapshot.jpg").status_code == 200
    assert sorted(kind.has_boxes for kind in made) == [False, True]
    sink.close()


def test_a_viewer_who_has_left_is_noticed(page: LivePage, sink: Sink) -> None:
    stream = page.hub.get("door")
    assert stream is not None
    viewer = MotionJpeg(page)
    wait_for(lambda: stream.viewers == 1)
    viewer.leave()
    sink.write(frame(20), WHOLE)
    viewer.thread.join(60)
    wait_for(lambda: stream.viewers == 0 and not stream._watchers)


def test_closing_the_page_ends_motion_jpeg(page: LivePage, sink: Sink) -> None:
    viewer = MotionJpeg(page)
    sink.write(frame(20), WHOLE)
    wait_for(lambda: viewer.greys)
    page.close()
    viewer.thread.join(60)
    assert viewer.is_over and not page._thread.is_alive()


def test_pictures_have_square_pixels_and_a_bounded_size(page: LivePage, sink: Sink) -> None:
    def size_of(**params: object) -> tuple[int, int]:
        answer = http.get("/api/streams/door/snapshot.jpg", params=params)  # type: ignore[arg-type]
        found = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert found is not None
        return found.shape[1], found.shape[0]

    with client(page) as http:
        sink.write(frame(20, (720, 576), Fraction(16, 11)), WHOLE)
        assert size_of() == (1047, 576)
        assert size_of(width=400) == (416, 229)
        sink.write(frame(20, (2560, 1440)), WHOLE)
        assert size_of() == (1280, 720)
        for wrong in ("width=9", "width=9999", "width=x", "boxes=2"):
            assert http.get(f"/api/streams/door/snapshot.jpg?{wrong}").status_code == 400
        assert http.get("/api/streams/door/live.mjpg?fps=31").status_code == 400
        assert http.get("/api/streams/none/live.mjpg").status_code == 404


def test_a_frame_on_a_gpu_is_copied_when_somebody_asks_and_not_kept_past_the_end(page: LivePage, sink: Sink) -> None:
    stream = page.hub.get("door")
    assert stream is not None
    with client(page) as http:
        for fails, status in ((True, 503), (False, 200)):
            sink.write(replace(frame(20), pixels=OnGpu(128, fails=fails)), WHOLE)
            assert http.get("/api/streams/door/snapshot.jpg").status_code == status
        sink.close()
        assert stream.newest is None
        assert http.get("/api/streams/door/snapshot.jpg").status_code == 503


def test_the_last_frame_on_the_host_is_kept(page: LivePage, sink: Sink) -> None:
    sink.write(frame(20), WHOLE)
    sink.close()
    with client(page) as http:
        assert http.get("/api/streams/door/snapshot.jpg").status_code == 200
