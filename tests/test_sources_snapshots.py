"""Snapshot URLs that are polled, and cameras that ask for a password."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import cv2
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.sources import SourceOptions, open_source
from streamer.sources.http.auth import Authenticator
from tests.http_camera import EVERY, HttpCamera, Reply, head, jpeg
from tests.media import SIZE_WH, number_of, picture


def snapshot(numbers: Iterator[int], suffix: str = ".jpg", content_type: str = "image/jpeg") -> Reply:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        content = bytes(cv2.imencode(suffix, picture(next(numbers)))[1])
        send(head(content_type, f"Content-Length: {len(content)}") + content)

    return reply


FAST = replace(EVERY, fps=200.0)


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


@pytest.mark.parametrize(("stall_timeout_s", "least_s"), [(1.0, 0.5), (1000.0, 2.0)])
def test_an_unchanged_snapshot_is_given_again_only_now_and_then(stall_timeout_s: float, least_s: float) -> None:
    options = replace(FAST, stall_timeout_s=stall_timeout_s)
    with HttpCamera(snapshot(itertools.repeat(3))) as camera, open_source(camera.url, options=options) as source:
        first, again = islice(source, 2)
    assert number_of(first.image) == number_of(again.image) == 3
    assert again.captured_at_s - first.captured_at_s >= least_s
    assert len(camera.requests) > 2


def test_a_changed_snapshot_is_given_and_an_unchanged_one_left_out() -> None:
    shown = itertools.chain([0, 0, 0, 0, 1, 1, 1], itertools.repeat(2))
    with HttpCamera(snapshot(shown)) as camera, open_source(camera.url, options=FAST) as source:
        numbers = itertools.groupby(number_of(frame.image) for frame in source)
        assert [number for number, _ in islice(numbers, 3)] == [0, 1, 2]


def test_a_snapshot_comes_back() -> None:
    numbers = itertools.count()
    good = snapshot(numbers)

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        if len(camera.requests) in (3, 4):
            send(b"HTTP/1.1 503 Busy\r\n\r\n")
        else:
            good(request, send)

    options = SourceOptions(overflow_policy=OverflowPolicy.BLOCK, fps=200.0, stall_timeout_s=30.0)
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
            with pytest.raises(SourceError, match="requires a user and password, or others than these") as caught:
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
    login = Authenticator("a", "b")
    assert login.header("http://c/") is None
    assert login.accept(['Digest realm="r", nonce="1"'], was_sent=False)
    assert 'nonce="1"' in (login.header("http://c/") or "")
    assert login.accept(['Digest realm="r", nonce="2", stale=TRUE'], was_sent=True)
    assert 'nonce="2"' in (login.header("http://c/") or "")
    assert not login.accept(['Digest realm="r", nonce="3"'], was_sent=True)
    assert not Authenticator("", "").accept(['Digest realm="r", nonce="1"'], was_sent=False)
    useless = ("", "Negotiate", ",,=,", "Digest", 'Digest nonce="1"', 'Digest realm="r"', 'Digest ,=,a="')
    unknown = ('Digest realm="r", nonce="1", algorithm=XYZ', 'Digest realm="r", nonce="1", qop="auth-int"')
    for challenge in (*useless, *unknown):
        assert not Authenticator("a", "b").accept([challenge], was_sent=False)


@pytest.mark.parametrize(
    "rest", ["algorithm=md5", 'opaque=, algorithm=, qop=""', 'qop = "AUTH"', "qop=auth", 'opaque=""'], ids=str
)
def test_a_digest_is_answered_however_it_is_written(rest: str) -> None:
    login = Authenticator("a", "b")
    assert login.accept([f'digest  realm = "r",nonce="1" , {rest}'], was_sent=False)
    given = login.header("http://c/x") or ""
    assert 'username="a", realm="r", nonce="1", uri="/x"' in given and ("qop=auth" in given) == ("auth" in rest.lower())


def test_a_login_that_is_always_stale_is_given_up() -> None:
    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="r", nonce="1", stale=true\r\n\r\n')

    with HttpCamera(reply) as camera:
        with pytest.raises(SourceError, match="requires a user and password"):
            open_source(camera.url.replace("//", "//a:b@"), options=FAST)
        assert len(camera.requests) == 4


def test_a_redirect_to_the_same_host_written_otherwise_keeps_the_login() -> None:
    good = snapshot(itertools.count())

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        host = request.partition("Host: ")[2].split("\r")[0].replace("localhost", "LOCALHOST")
        if "Authorization" not in request:
            send(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="cam"\r\n\r\n')
        elif "/moved" not in request:
            send(f"HTTP/1.1 302 Found\r\nLocation: http://{host}/moved\r\n\r\n".encode())
        else:
            good(request, send)

    with HttpCamera(reply) as camera:
        url = camera.url.replace("//127.0.0.1", "//a:b@localhost")
        with open_source(url, options=FAST) as source:
            next(iter(source))
