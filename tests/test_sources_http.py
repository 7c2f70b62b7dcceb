"""MJPEG over HTTP in every form that cameras send."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.common.errors import SourceError
from streamer.frames.yuv import Yuv420
from streamer.sources import SourceOptions, open_source
from streamer.sources.http.jpeg_scanner import JpegScanner
from tests.http_camera import EVERY, MIXED, HttpCamera, Reply, head, jpeg, part_of, stream
from tests.media import SIZE_WH, number_of, write_clip

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
        assert source.dropped > 0
        assert number_of(first.image) > 0


def test_pictures_above_the_limit_end_the_stream() -> None:
    with HttpCamera(FORMS["standard"]) as camera, pytest.raises(SourceError, match="is too large: .* above the limit"):
        open_source(camera.url, options=SourceOptions(reconnect=0, max_pixels=99))


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
        assert not [thread for thread in threading.enumerate() if thread.name == f"read {camera.url}"]


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
