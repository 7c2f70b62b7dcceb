"""The live page's server: its address, its own files, snapshots, and its end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import cv2
import httpx
import numpy as np
import pytest

from streamer.common.errors import ConfigError, SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks import open_sink
from streamer.sinks.page_address import PageAddress
from streamer.sinks.spec import OutputKind, OutputSpec
from streamer.sources.base import SourceInfo
from streamer.web.page import LivePage

ANY_PORT = PageAddress("http", "127.0.0.1", 0)
DOOR = SourceInfo("door", "rtsp://camera/1", live=True)
ONE = Detections(np.array([[8, 8, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage(ANY_PORT) as opened:
        yield opened


def frame(grey: int = 90) -> Frame:
    return Frame(np.full((48, 64, 3), grey, np.uint8), "door", 0, 0.0, 0.0)


def picture_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    found = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found


def test_an_address_is_parsed_once() -> None:
    spec = OutputSpec.parse("http://127.0.0.1:8080")
    assert (spec.kind, spec.address, spec.has_path) == (
        OutputKind.PAGE,
        PageAddress("http", "127.0.0.1", 8080),
        False,
    )
    assert str(PageAddress.parse("https://[::1]")) == "https://[::1]"
    assert [PageAddress.parse(f"http://{host}").is_loopback for host in ("localhost", "[::1]", "0.0.0.0", "nvr")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("wrong", ["http://", "http://a:b", "http://a:99999", "http://a/{source}", "http://u:p@a"])
def test_a_wrong_address_is_told(wrong: str) -> None:
    with pytest.raises(ConfigError, match="wanted http://127.0.0.1:8080"):
        OutputSpec.parse(wrong)


def test_a_page_is_no_sink_of_one_source() -> None:
    with pytest.raises(ConfigError, match="LivePage"):
        open_sink("http://127.0.0.1:8080", DOOR, labels=())


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SinkError, match=f"can't serve the live page at http://127.0.0.1:{port}: Address already"):
            LivePage(replace(ANY_PORT, port=port))


def test_files_of_the_page_are_a_fixed_table(page: LivePage) -> None:
    with httpx.Client(base_url=str(page.address)) as client:
        first = client.get("/")
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        assert client.get("/", headers={"if-none-match": first.headers["etag"]}).status_code == 304
        assert client.get("/assets/index.html").content == first.content
        for path in ("/assets/../page.py", "/assets/%2e%2e/page.py", "/assets//etc/passwd", "/assets/", "/page.py"):
            assert client.get(path).status_code == 404


def test_a_snapshot_is_the_newest_frame(page: LivePage) -> None:
    with httpx.Client(base_url=str(page.address)) as client:
        assert client.get("/api/streams/door/snapshot.jpg").status_code == 404
        sink = page.open_sink(DOOR, ("cat",))
        assert client.get("/api/streams/door/snapshot.jpg").status_code == 503
        sink.write(frame(30), Detections.empty())
        sink.write(frame(90), ONE)
        plain = picture_of(client.get("/api/streams/door/snapshot.jpg", params={"boxes": 0}))
        assert plain.shape == (48, 64, 3) and abs(plain.astype(int) - 90).max() < 4
        assert abs(picture_of(client.get("/api/streams/door/snapshot.jpg")).astype(int) - 90).max() > 60
        sink.close()
        assert page.hub.statuses()[0].is_ended
        page.remove("door")
        assert client.get("/api/streams/door/snapshot.jpg").status_code == 404
