"""Streams from real servers on loopback: RTSP, HTTP files and MJPEG; and servers that fail in every way."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.frames.yuv import Yuv420
from streamer.sources import SourceOptions, open_source
from tests.media import SIZE_WH, number_of, picture, write_clip
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

HURRY = SourceOptions(open_timeout_s=1.0, key_frame_timeout_s=1.0)
NO_SILENCE = SourceOptions(open_timeout_s=30.0, stall_timeout_s=1.0, reconnect=0, overflow_policy=OverflowPolicy.BLOCK)
NO_SECOND_TRY = SourceOptions(reconnect=0, overflow_policy=OverflowPolicy.BLOCK)
EVERY = SourceOptions(overflow_policy=OverflowPolicy.BLOCK)
SILENT = r"(sent nothing|gave no picture) for 1 s; check its network and power"


@pytest.fixture(scope="module")
def camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(fps=60)) as server:
        yield server


@pytest.fixture(scope="module")
def guarded_camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(fps=60), credentials="admin:hunter2") as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_rtsp_gives_frames_from_the_first(camera: RtspServer) -> None:
    with open_source(camera.url, options=EVERY) as source:
        frames = list(islice(source, 12))
        info = source.info
    assert info.live and info.size_wh == SIZE_WH and info.fps == 60.0
    assert (info.name, info.uri) == ("127.0.0.1", camera.url)
    assert (info.path, info.frame_count, info.duration_s) == (None, None, None)
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    first, second, *later = (frame.pts_s for frame in frames)
    assert first == 0 <= second < 1 / 60 + 1e-3  # FFmpeg may give the first picture without a time stamp
    assert later == pytest.approx([second + number / 60 for number in range(1, 11)], abs=1e-3)
    assert isinstance(frames[0].pixels, Yuv420)


def test_a_scheme_in_capitals(camera: RtspServer) -> None:
    with open_source(camera.url.replace("rtsp", "RTSP")) as source:
        assert source.info.live and source.info.uri == camera.url


def test_rtsp_with_long_pictures_and_two_readers() -> None:
    with (
        RtspServer(Loop(size_wh=(640, 480), fps=60)) as server,
        open_source(server.url, name="a", options=EVERY) as first,
        open_source(server.url, name="b", options=EVERY) as second,
    ):
        for source in (first, second):
            assert [number_of(frame.image) for frame in islice(source, 11)] == list(range(11))
            assert source.skipped == ()


def test_rtsp_with_a_password(guarded_camera: RtspServer) -> None:
    url = guarded_camera.url.replace("rtsp://", "rtsp://admin:hunter2@")
    with open_source(url, options=EVERY) as source:
        assert source.info.uri == guarded_camera.url.replace("rtsp://", "rtsp://***@")
        assert number_of(next(iter(source)).image) == 0


@pytest.mark.parametrize("user", ["", "admin:hunter3@", "hunter2:x@"])
def test_rtsp_with_a_wrong_password(guarded_camera: RtspServer, user: str) -> None:
    with pytest.raises(SourceError, match="requires a user and password, or others than these") as caught:
        open_source(guarded_camera.url.replace("rtsp://", f"rtsp://{user}"))
    assert "hunter3" not in str(caught.value)


def test_rtsp_path_that_is_not_there(camera: RtspServer) -> None:
    with pytest.raises(SourceError, match="404 Not Found; check the path"):
        open_source(camera.url.replace("/live", "/nothing"))


def test_nobody_listens() -> None:
    with pytest.raises(SourceError, match="refused the connection; check the port") as caught:
        open_source(f"rtsp://admin:hunter2@127.0.0.1:{free_port()}/live")
    assert "rtsp://***@127.0.0.1" in str(caught.value)
    shown: list[BaseException | None] = [caught.value]
    while (error := shown[-1]) is not None:  # all that a traceback would print
        assert "hunter2" not in str(error)
        shown.append(error.__cause__ or (None if error.__suppress_context__ else error.__context__))


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp", "tcp"])
def test_a_server_that_never_answers(scheme: str) -> None:
    silence = pytest.raises(SourceError, match="did not answer within 1 s")
    with socket.create_server(("127.0.0.1", 0)) as mute, silence:
        open_source(f"{scheme}://127.0.0.1:{mute.getsockname()[1]}/live", options=HURRY)


def test_no_host_by_that_name() -> None:
    with pytest.raises(SourceError, match="can't be opened .*; check its address"):
        open_source("rtsp://admin:hunter2@camera.invalid/live", options=HURRY)


def test_a_camera_that_hangs_up() -> None:
    with RtspServer(Loop(fps=60), hang_up_after=15) as server, open_source(server.url, options=NO_SECOND_TRY) as source:
        frames = iter(source)
        numbers = [number_of(next(frames).image) for _ in range(15)]
        with pytest.raises(SourceError, match=f"'{re.escape(server.url)}' (ended|broke off)"):
            next(frames)
    assert numbers == list(range(15))


def test_a_camera_that_falls_silent() -> None:
    with RtspServer(Loop(fps=60), silent_after=15) as server, open_source(server.url, options=NO_SILENCE) as source:
        numbers = []
        with pytest.raises(SourceError, match=SILENT):
            for frame in source:
                numbers.append(number_of(frame.image))
    # The last picture waits in FFmpeg's parser for the next one's beginning, unless all came while it was probing.
    assert numbers == list(range(len(numbers)))
    assert len(numbers) in (14, 15)


def test_a_stream_joined_between_key_frames() -> None:
    with RtspServer(Loop(fps=60, first=3)) as server, open_source(server.url, options=EVERY) as source:
        assert [number_of(frame.image) for frame in islice(source, 12)] == list(range(10, 22))
        assert source.skipped == ()


def test_a_stream_that_cannot_be_joined() -> None:
    vain = pytest.raises(SourceError, match="sent data for 1 s but no complete picture")
    film = Loop()
    film.pictures = film.pictures[1:10]  # no key frame
    with RtspServer(film) as server, vain:
        open_source(server.url, options=HURRY)


def test_closing_while_a_read_waits() -> None:
    with RtspServer(Loop(fps=60), silent_after=15) as server:
        source = open_source(server.url, options=NO_SILENCE)
        ended: list[str] = []
        last = threading.Event()

        def read() -> None:
            try:
                for frame in source:
                    if frame.index == 13:
                        last.set()
                ended.append("closed")
            except SourceError as error:
                ended.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        assert last.wait(30)
        source.close()
        reader.join(30)
        assert len(ended) == 1 and ("closed" in ended[0] or re.search(SILENT, ended[0]))


class _Pages(http.server.BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/mjpeg":
            self._send_mjpeg()
            return
        content = self.folder / path[1:].removeprefix("short-").replace("live", "clip")
        if not content.is_file():
            self.send_error(404)
            return
        body = content.read_bytes()
        self.send_response(200)
        if "live" not in path:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if "short-" not in path else body[: len(body) // 2])

    def _send_mjpeg(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        for number in range(40):
            jpeg = cv2.imencode(".jpg", picture(number))[1].tobytes()
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may leave early."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web")
    write_clip(folder / "clip.mp4", 60, size_wh=(320, 240), container_options={"movflags": "faststart"})
    write_clip(folder / "clip.ts", 12)
    (folder / "page.html").write_text("<html>no video here</html>")
    _Pages.folder = folder
    with _Server(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_clip_over_http_is_a_file(web: str) -> None:
    with open_source(f"{web}/clip.mp4?token=hunter2") as source:
        info = source.info
        assert [number_of(frame.image) for frame in source] == list(range(60))
    assert not info.live and info.path is None and info.frame_count == 60
    assert info.uri == f"{web}/clip.mp4?token=***"


def test_a_clip_over_http_that_breaks_off(web: str) -> None:
    with open_source(f"{web}/short-clip.mp4") as source, pytest.raises(SourceError, match="broke off|is damaged"):
        list(source)


def test_a_clip_without_a_duration_over_http_is_a_file_too(web: str) -> None:
    with open_source(f"{web}/clip.ts") as source:
        assert not source.info.live and source.info.duration_s is None
        assert [number_of(frame.image) for frame in source] == list(range(12))


def test_a_live_stream_over_http_ends_with_an_error(web: str) -> None:
    with open_source(f"{web}/live.ts", options=NO_SECOND_TRY) as source:
        assert source.info.live and source.info.duration_s is None
        frames = iter(source)
        assert [number_of(next(frames).image) for _ in range(12)] == list(range(12))
        with pytest.raises(SourceError, match="ended: the other side closed the stream|broke off"):
            next(frames)


def test_mjpeg_over_http_is_stamped_at_arrival(web: str) -> None:
    with open_source(f"{web}/mjpeg", options=EVERY) as source:
        assert source.info.live and source.info.fps is None  # FFmpeg would make up 25
        frames = list(islice(source, 30))
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    arrived = [frame.captured_at_s - frames[0].captured_at_s for frame in frames]
    assert [frame.pts_s for frame in frames] == pytest.approx(arrived)
    assert isinstance(frames[0].pixels, Yuv420)


@pytest.mark.parametrize(("page", "words"), [("none.mp4", "404 Not Found"), ("page.html", "can't be opened")])
def test_http_without_a_video(web: str, page: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        open_source(f"{web}/{page}?password=hunter2")
    assert "hunter2" not in str(caught.value)
