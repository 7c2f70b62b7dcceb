"""Servers that send nothing, too much or too slowly, or lead elsewhere."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.common.errors import SourceError
from streamer.sources import SourceOptions, open_source
from tests.http_camera import EVERY, HURRY, MIXED, HttpCamera, Reply, head, jpeg
from tests.media import write_clip


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda request, send: send(b"HTTP/1.1 404 Not Found\r\n\r\n"), "answered: 404 Not Found"),
        (lambda request, send: send(b"HTTP/1.1 500 Oops\r\n\r\n"), "answered: 500 Internal Server Error"),
        (lambda request, send: None, "closed the connection without an answer"),
        (lambda request, send: send(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), "redirects too often"),
        (
            lambda request, send: send(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n"),
            "redirects .* HTTP;",
        ),
        (
            lambda request, send: send(b"HTTP/1.1 302 Found\r\nLocation: rtsp://127.0.0.1/\r\n\r\n"),
            "redirects .* HTTP;",
        ),
        (lambda request, send: send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101), "no valid HTTP response"),
        (lambda request, send: send(b"HTTP/1.1 200 OK\r\nX: " + bytes(70_000)), "no valid HTTP response"),
        (
            lambda request, send: send(head("image/jpeg", "Content-Length: 9") + b"no picture"),
            "gives no picture: damaged",
        ),
        (lambda request, send: send(head(MIXED) + bytes(2 << 20)), "sent .* bytes without a JPEG picture"),
        (lambda request, send: send(head(MIXED) + jpeg(1)[:-9]), "ended: the other side closed"),
        (lambda request, send: send(head("image/jpeg", "Transfer-Encoding: chunked") + b"zz\r\n"), "broke off"),
    ],
)
def test_answers_without_pictures(reply: Reply, words: str) -> None:
    with HttpCamera(reply) as camera, pytest.raises(SourceError, match=words) as caught:
        open_source(camera.url, options=EVERY)
    assert "\n" not in str(caught.value)


def endless(*parts: bytes) -> Reply:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        for data in itertools.chain(parts[:-1], itertools.repeat(parts[-1])):
            send(data)

    return reply


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "no valid HTTP response"),
        (endless(head(MIXED), b"Content-Type: image/jpeg\r\n"), "bytes without a JPEG picture"),
        (endless(head(MIXED), jpeg(1)[:-2], bytes(1 << 16)), "sent a picture of more than 1000000 bytes"),
        (endless(head("image/jpeg"), jpeg(1)[:-2], bytes(1 << 16)), "sent a picture of more than 1000000 bytes"),
        (endless(head("image/jpeg", "Content-Length: 99999999999"), bytes(1 << 16)), "picture of more than 1000000"),
        (endless(head("audio/mpegurl"), b"#EXTM3U\n", b"#EXTINF:1,\na.ts\n" * 99_999), "is a playlist of more than"),
    ],
)
def test_endless_answers_are_bounded(reply: Reply, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ("jpeg_scanner.MAX_IMAGE", "snapshot.MAX_IMAGE", "opening.MAX_IMAGE")
    for module in modules:
        monkeypatch.setattr(f"streamer.sources.http.{module}_BYTES", 1_000_000)
    with HttpCamera(reply) as camera, pytest.raises(SourceError, match=words):
        open_source(camera.url, options=EVERY)


def test_an_answer_that_is_always_announced_is_given_up() -> None:
    continues = endless(b"HTTP/1.1 100 Continue\r\n\r\n")
    with HttpCamera(continues) as camera, pytest.raises(SourceError, match="did not answer within 0.5 s"):
        open_source(camera.url, options=HURRY)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", "did not answer within 0.5 s"),
        (head(MIXED) + b"--b\r\nX: ", "sent data for 0.5 s but no complete picture|sent nothing"),
        (head("image/jpeg", "Content-Length: 99999"), "sent no whole picture within 0.5 s"),
        (head("application/octet-stream"), "broke off .timed out|sent no picture within 0.5 s"),
    ],
)
def test_an_answer_that_drips_is_given_up(start: bytes, words: str) -> None:
    stop = threading.Event()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(start)
        while not stop.wait(0.05):
            send(b"\0")

    with HttpCamera(reply) as camera, pytest.raises(SourceError, match=words):
        try:
            open_source(camera.url, options=HURRY)
        finally:
            stop.set()


@pytest.mark.parametrize("whole_bytes", [500, 20_000])
def test_a_video_that_drips_is_given_up(whole_bytes: int, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", 300).read_bytes()
    stop = threading.Event()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head("video/mp2t") + clip[:whole_bytes])
        for at in range(whole_bytes, len(clip)):
            if stop.wait(0.05):
                return
            send(clip[at : at + 1])

    options = SourceOptions(reconnect=0, open_timeout_s=0.5, key_frame_timeout_s=20.0, stall_timeout_s=0.5)
    with HttpCamera(reply) as camera, pytest.raises(SourceError, match=r"sent no picture within 0.5 s|gave no picture"):
        try:
            with open_source(f"{camera.url}/feed", options=options) as source:
                list(source)
        finally:
            stop.set()


def playlist_of(clip: Path) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()


def test_a_playlist_on_a_web_server_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    playlist = playlist_of(write_clip(tmp_path / "clip.ts", 30))

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head("application/vnd.apple.mpegurl", f"Content-Length: {len(playlist)}") + playlist)

    with HttpCamera(reply) as camera, pytest.raises(SourceError, match=r"can't be opened|holds no video"):
        open_source(f"{camera.url}/live.m3u8", options=SourceOptions(reconnect=0))


def test_a_playlist_over_tcp_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    playlist = playlist_of(write_clip(tmp_path / "clip.ts", 30))

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(playlist)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with pytest.raises(SourceError, match=r"can't be opened|holds no video"):
            open_source(f"tcp://127.0.0.1:{server.getsockname()[1]}", options=SourceOptions(reconnect=0))
        thread.join(20)
