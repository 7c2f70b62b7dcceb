"""Pictures over HTTP: MJPEG in every form that cameras send, snapshots that are polled, logins, and hostile servers."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import SourceError
from streamer.sources import SourceOptions, open_source
from streamer.sources.http.jpegs import JpegScanner
from streamer.sources.http.login import Login
from streamer.yuv import Yuv420
from tests.http_camera import HttpCamera, Reply, head
from tests.media import SIZE_WH, number_of, picture, write_clip

EVERY = SourceOptions(freshest=False, reconnect=0, open_timeout_s=30.0, key_frame_timeout_s=30.0, stall_timeout_s=30.0)
HURRY = SourceOptions(reconnect=0, open_timeout_s=0.5, key_frame_timeout_s=0.5, stall_timeout_s=0.5)


def jpeg(number: int, *parameters: int) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(number), parameters)[1])


def stream(content_type: str, part: Callable[[bytes], bytes], *, first: bytes = b"", count: int = 6) -> Reply:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(content_type) + first)
        for number in range(count):
            send(part(jpeg(number)))

    return reply


def part_of(
    *lines: str, boundary: str = "--b", end: bytes = b"\r\n", line_end: str = "\r\n"
) -> Callable[[bytes], bytes]:
    def part(content: bytes) -> bytes:
        shown = [line.replace("LENGTH", str(len(content))) for line in lines]
        return line_end.join([boundary, *shown, "", ""]).encode() + content + end

    return part


MIXED = "multipart/x-mixed-replace; boundary=b"
FORMS: dict[str, Reply] = {
    "standard": stream(MIXED, part_of("Content-Type: image/jpeg", "Content-Length: LENGTH")),
    "image/jpg": stream(MIXED, part_of("Content-Type: image/jpg", "Content-Length: LENGTH")),
    "parameters": stream(MIXED, part_of("Content-Type: image/jpeg; charset=binary", "Content-Length: LENGTH")),
    "no length": stream(MIXED, part_of("Content-Type: image/jpeg")),
    "no type": stream(MIXED, part_of("Content-Length: LENGTH")),
    "no header": stream(MIXED, part_of()),
    "wrong length": stream(MIXED, part_of("Content-Type: image/jpeg", "Content-Length: 7")),
    "wrong boundary": stream(MIXED, part_of("Content-Type: image/jpeg", boundary="--other")),
    "boundary with dashes": stream("multipart/x-mixed-replace; boundary=--b", part_of("Content-Type: image/jpeg")),
    "quoted boundary": stream('multipart/x-mixed-replace;boundary="b"', part_of("Content-Type: image/jpeg")),
    "no boundary stated": stream("multipart/x-mixed-replace", part_of("Content-Type: image/jpeg")),
    "capitals": stream("MULTIPART/X-Mixed-Replace; Boundary=b", part_of("CONTENT-TYPE: IMAGE/JPEG")),
    "no first boundary": stream(MIXED, lambda content: b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n--b\r\n"),
    "line feeds alone": stream(MIXED, part_of("Content-Type: image/jpeg", line_end="\n", end=b"\n")),
    "no line end": stream(MIXED, part_of("Content-Type: image/jpeg", end=b"")),
    "preamble": stream(MIXED, part_of("Content-Type: image/jpeg"), first=b"hello\r\n\r\n"),
    "multipart/mixed": stream("multipart/mixed; boundary=b", part_of("Content-Type: image/jpeg")),
    "octets": stream("application/octet-stream", part_of("Content-Type: image/jpeg")),
    "no multipart": stream("image/jpeg", lambda content: content),
    "no end marker": stream(MIXED, lambda content: part_of("Content-Type: image/jpeg")(content[:-2]), count=7),
    "other parts": stream(
        MIXED,
        lambda content: part_of("Content-Type: text/plain")(b"18 C") + part_of("Content-Type: image/jpeg")(content),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_motion_jpeg_of_every_form(form: str) -> None:
    with HttpCamera(FORMS[form]) as camera, open_source(f"{camera.url}/video", options=EVERY) as source:
        frames = list(islice(source, 6))
        assert source.info.live and source.info.size_wh == SIZE_WH and source.info.fps is None
        assert source.damaged == 0
    assert [number_of(frame.image) for frame in frames] == list(range(6))
    assert [frame.index for frame in frames] == list(range(6))
    arrived = [frame.captured_at_s - frames[0].captured_at_s for frame in frames]
    assert [frame.pts_s for frame in frames] == pytest.approx(arrived)
    assert isinstance(frames[0].pixels, Yuv420)
    assert len(camera.requests) == 1  # small cameras serve one client at a time


def test_a_stream_without_a_status_line_is_left_to_ffmpeg() -> None:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(f"Content-Type: {MIXED}\r\n\r\n".encode())
        for number in range(60):
            send(part_of("Content-Type: image/jpeg", "Content-Length: LENGTH")(jpeg(number)))

    with HttpCamera(reply) as camera, open_source(camera.url, options=EVERY) as source:
        assert [number_of(frame.image) for frame in islice(source, 3)] == [0, 1, 2]


def test_a_stream_that_is_given_once_is_asked_for_once(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", 60).read_bytes()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        if len(camera.requests) == 1:
            send(head("application/octet-stream") + clip)

    with HttpCamera(reply) as camera, open_source(f"{camera.url}/feed", options=EVERY) as source:
        frames = iter(source)
        assert [number_of(frame.image) for frame in islice(frames, 60)] == list(range(60))
        assert source.info.live
        with pytest.raises(SourceError, match="ended: the other side closed the stream"):
            next(frames)
    assert len(camera.requests) == 1


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


def test_a_stream_that_ends_is_an_outage() -> None:
    with (
        HttpCamera(FORMS["standard"]) as camera,
        open_source(camera.url, options=EVERY) as source,
        pytest.raises(SourceError, match="ended: the other side closed the stream"),
    ):
        list(source)


def test_a_damaged_picture_is_passed_over_and_counted() -> None:
    broken = jpeg(1).replace(b"\xff\xc0", b"\xff\xfe")  # its frame header is a remark

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(MIXED))
        for content in (jpeg(0), broken, jpeg(2)):
            send(part_of()(content))

    with HttpCamera(reply) as camera, open_source(camera.url, options=EVERY) as source:
        assert [number_of(frame.image) for frame in islice(source, 2)] == [0, 2]
        assert source.damaged == 1


def test_who_is_slow_gets_the_newest_picture() -> None:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(MIXED) + b"".join(part_of()(jpeg(number, cv2.IMWRITE_JPEG_QUALITY, 20)) for number in range(10)))

    options = SourceOptions(reconnect=0, open_timeout_s=30.0, key_frame_timeout_s=30.0, stall_timeout_s=30.0)
    with HttpCamera(reply) as camera, open_source(camera.url, options=options) as source:
        first = next(iter(source))
        assert source.passed_over > 0
        assert number_of(first.image) > 0


def test_pictures_above_the_limit_end_the_stream() -> None:
    with HttpCamera(FORMS["standard"]) as camera, pytest.raises(SourceError, match="is too large: .* above the limit"):
        open_source(camera.url, options=SourceOptions(reconnect=0, max_pixels=99))


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
        (lambda request, send: send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101), "no proper HTTP answer"),
        (lambda request, send: send(b"HTTP/1.1 200 OK\r\nX: " + bytes(70_000)), "no proper HTTP answer"),
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
        (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "no proper HTTP answer"),
        (endless(head(MIXED), b"Content-Type: image/jpeg\r\n"), "bytes without a JPEG picture"),
        (endless(head(MIXED), jpeg(1)[:-2], bytes(1 << 16)), "sent a picture of more than 1000000 bytes"),
        (endless(head("image/jpeg"), jpeg(1)[:-2], bytes(1 << 16)), "sent a picture of more than 1000000 bytes"),
        (endless(head("image/jpeg", "Content-Length: 99999999999"), bytes(1 << 16)), "picture of more than 1000000"),
        (endless(head("audio/mpegurl"), b"#EXTM3U\n", b"#EXTINF:1,\na.ts\n" * 99), "is a playlist of more than"),
    ],
)
def test_endless_answers_are_bounded(reply: Reply, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("jpegs.MOST_PICTURE", "snapshot.MOST_PICTURE", "opening.MOST_PICTURE", "opening._MOST_PLAYLIST"):
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


def test_closing_does_not_wait_for_a_silent_camera() -> None:
    silent, left = threading.Event(), threading.Event()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head(MIXED) + part_of()(jpeg(0)))
        silent.set()
        left.wait(60)

    with HttpCamera(reply) as camera:
        source = open_source(camera.url, options=EVERY)
        frames = iter(source)
        next(frames)
        ended = threading.Thread(target=lambda: list(frames))
        ended.start()
        assert silent.wait(20)
        source.close()
        ended.join(20)
        left.set()
        assert not ended.is_alive()
        assert not source._connection.is_alive  # type: ignore[attr-defined]


def snapshot(numbers: Iterator[int], suffix: str = ".jpg", content_type: str = "image/jpeg") -> Reply:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        content = bytes(cv2.imencode(suffix, picture(next(numbers)))[1])
        send(head(content_type, f"Content-Length: {len(content)}") + content)

    return reply


FAST = SourceOptions(
    freshest=False, reconnect=0, fps=200.0, open_timeout_s=30.0, key_frame_timeout_s=30.0, stall_timeout_s=30.0
)


@pytest.mark.parametrize(
    ("suffix", "content_type"),
    [(".jpg", "image/jpeg"), (".jpg", "image/jpg"), (".png", "image/png"), (".jpg", "application/octet-stream")],
)
def test_a_snapshot_is_polled(suffix: str, content_type: str) -> None:
    with (
        HttpCamera(snapshot(itertools.count(), suffix, content_type)) as camera,
        open_source(f"{camera.url}/snapshot.jpg", options=FAST) as source,
    ):
        frames = list(islice(source, 5))
        assert source.info.live and (source.info.size_wh, source.info.fps) == (SIZE_WH, 200.0)
        assert source.reconnects == 0
    assert [number_of(frame.image) for frame in frames] == list(range(5))
    assert [frame.pts_s for frame in frames] == sorted({frame.pts_s for frame in frames})


@pytest.mark.parametrize("chunked", [False, True])
def test_a_snapshot_of_unknown_length(chunked: bool) -> None:
    numbers = itertools.count()

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        content = jpeg(next(numbers))
        if chunked:
            send(head("image/jpeg", "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        else:
            send(head("image/jpeg") + content)

    with HttpCamera(reply) as camera, open_source(camera.url, options=FAST) as source:
        assert [number_of(frame.image) for frame in islice(source, 3)] == [0, 1, 2]
        assert source.reconnects == 0


def test_the_default_rate_of_a_snapshot() -> None:
    with HttpCamera(snapshot(itertools.count())) as camera, open_source(camera.url, options=EVERY) as source:
        assert source.info.fps == 2.0


def test_an_unchanged_snapshot_is_given_again_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.sources.http.snapshot._LONGEST_UNCHANGED_S", 60.0)
    with (
        HttpCamera(snapshot(iter([0, 0, 0, 0, 1, 1, 1, 2, *[2] * 10_000]))) as camera,
        open_source(camera.url, options=SourceOptions(freshest=False, fps=200.0, stall_timeout_s=1000.0)) as source,
    ):
        assert [number_of(frame.image) for frame in islice(source, 3)] == [0, 1, 2]
    monkeypatch.setattr("streamer.sources.http.snapshot._LONGEST_UNCHANGED_S", 0.0)
    with HttpCamera(snapshot(itertools.repeat(3))) as camera, open_source(camera.url, options=FAST) as source:
        assert [number_of(frame.image) for frame in islice(source, 3)] == [3, 3, 3]


def test_a_snapshot_comes_back() -> None:
    numbers = itertools.count()
    good = snapshot(numbers)

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        if len(camera.requests) in (3, 4):
            send(b"HTTP/1.1 503 Busy\r\n\r\n")
        else:
            good(request, send)

    options = SourceOptions(freshest=False, fps=200.0, stall_timeout_s=30.0)
    with HttpCamera(reply) as camera, open_source(camera.url, options=options) as source:
        assert [number_of(frame.image) for frame in islice(source, 4)] == [0, 1, 2, 3]
        assert source.reconnects == 1


def test_a_damaged_snapshot_is_passed_over_and_counted() -> None:
    numbers = itertools.count()
    good = snapshot(numbers)

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        if len(camera.requests) == 2:
            send(head("image/jpeg", "Content-Length: 4") + b"oops")
        else:
            good(request, send)

    with HttpCamera(reply) as camera, open_source(camera.url, options=FAST) as source:
        assert [number_of(frame.image) for frame in islice(source, 3)] == [0, 1, 2]
        assert source.damaged == 1


def challenge(request: str, kind: str, uri: str) -> bytes | None:
    """Returns what a camera says to a request without the login `us er:p@ß:1`, None to one with it."""
    user, password, nonce = "us er", "p@ß:1", "abc"
    given = re.search(r"(?i)authorization: (\w+) (.*)\r", request)
    if kind == "basic":
        if given and base64.b64decode(given[2]).decode() == f"{user}:{password}":
            return None
        return b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n'
    hashes = {"md5": hashlib.md5, "sha-256": hashlib.sha256}

    def hashed(text: str) -> str:
        return hashes[kind](text.encode()).hexdigest()

    values = dict(re.findall(r'(\w+)="?([^",]*)"?', given[2])) if given and given[1] == "Digest" else {}
    if values:
        wanted = (nonce, values["nc"], values["cnonce"], "auth", hashed(f"GET:{uri}"))
        if values["response"] == hashed(":".join([hashed(f"{user}:cam:{password}"), *wanted])):
            return None
    return (
        'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="cam"\r\n'
        f'WWW-Authenticate: Digest realm="cam", nonce="{nonce}", qop="auth-int, auth", algorithm={kind.upper()}\r\n\r\n'
    ).encode()


@pytest.mark.parametrize("kind", ["basic", "md5", "sha-256"])
def test_a_camera_that_asks_for_a_password(kind: str) -> None:
    good = snapshot(itertools.count())

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        refused = challenge(request, kind, "/snap.cgi?channel=1")
        send(refused) if refused is not None else good(request, send)

    with HttpCamera(reply) as camera:
        url = camera.url.replace("//", "//us%20er:p%40%C3%9F%3A1@") + "/snap.cgi?channel=1"
        with open_source(url, options=FAST) as source:
            assert [number_of(frame.image) for frame in islice(source, 4)] == [0, 1, 2, 3]
        unasked = [request for request in camera.requests if "Authorization" not in request]
        assert len(unasked) == 1  # afterwards it is told beforehand
    with HttpCamera(reply) as camera:
        for login in ("", "us%20er:p%41@"):
            url = camera.url.replace("//", f"//{login}") + "/snap.cgi?channel=1"
            with pytest.raises(SourceError, match="wants a user and password, or others than given") as caught:
                open_source(url, options=FAST)
            assert "p%41" not in str(caught.value)
        assert len(camera.requests) == 1 + 2  # a wrong one is sent once: cameras lock who guesses


def test_a_password_is_not_sent_to_another_host() -> None:
    with HttpCamera(snapshot(itertools.count())) as other:
        login = {"is_asked": False}

        def reply(request: str, send: Callable[[bytes], None]) -> None:
            if "Authorization" not in request:
                login["is_asked"] = True
                send(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n')
            else:
                send(f"HTTP/1.1 302 Found\r\nLocation: {other.url}/\r\n\r\n".encode())

        with HttpCamera(reply) as camera, open_source(camera.url.replace("//", "//a:b@"), options=FAST) as source:
            next(iter(source))
        assert login["is_asked"] and other.requests
        assert not any("Authorization" in request for request in other.requests)


def test_a_stale_digest_is_answered_anew_and_a_wrong_one_once() -> None:
    login = Login("a", "b")
    assert login.header("http://c/") is None
    assert login.take(['Digest realm="r", nonce="1"'], was_sent=False)
    assert 'nonce="1"' in (login.header("http://c/") or "")
    assert login.take(['Digest realm="r", nonce="2", stale=TRUE'], was_sent=True)
    assert 'nonce="2"' in (login.header("http://c/") or "")
    assert not login.take(['Digest realm="r", nonce="3"'], was_sent=True)
    assert not Login("", "").take(['Digest realm="r", nonce="1"'], was_sent=False)
    for useless in ("", "Digest", "Negotiate", 'Digest realm="r", nonce="1", algorithm=XYZ', ",,=,"):
        assert not Login("a", "b").take([useless], was_sent=False)


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


JPEGS = [jpeg(1), jpeg(2, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), jpeg(3, cv2.IMWRITE_JPEG_RST_INTERVAL, 1)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(JPEGS), max_size=4), st.binary(max_size=30), st.integers(1, 5000))
def test_pictures_are_found_however_they_are_cut(pictures: list[bytes], between: bytes, size: int) -> None:
    between = between.replace(b"\xff", b"")
    content = b"".join(between + picture for picture in pictures) + between
    scanner = JpegScanner()
    found = [whole for at in range(0, len(content), size) for whole in scanner.feed(content[at : at + size])]
    assert found == pictures


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda", b"\xff\xc4\0\4", b"\xff", b"ab"]), max_size=40)
)
def test_any_bytes_are_survived_and_pictures_behind_them_found(pieces: list[bytes]) -> None:
    scanner = JpegScanner()
    for piece in pieces:
        scanner.feed(piece)
    found = [whole for _ in range(3) for whole in scanner.feed(bytes(70_000) + JPEGS[0])]
    assert found and found[-1].endswith(JPEGS[0])


def test_a_thumbnail_within_a_picture_is_no_picture() -> None:
    outer = JPEGS[0]
    with_thumbnail = outer[:2] + b"\xff\xe1" + (len(JPEGS[1]) + 2).to_bytes(2, "big") + JPEGS[1] + outer[2:]
    assert JpegScanner().feed(with_thumbnail * 2) == [with_thumbnail] * 2
