"""Recordings over HTTP: found on disk by a run's own names, in ranges, while they are written, and by no path."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import httpx
import pytest
from fastapi import FastAPI

from streamer.sinks.files import open_file
from streamer.sinks.retention import segment_path
from streamer.web.clips import ClipStore
from streamer.web.control import RecordingSeries
from streamer.web.event_routes import EventLog, FinishedFiles
from streamer.web.problems import handle_problems
from streamer.web.recording_routes import recording_router
from streamer.web.recordings import RecordingIndex
from streamer.web.security import AccessRules, PageGuard
from tests.fakes import wait_for
from tests.recordings import even, frames, info, write
from tests.web_server import connection, read_to_end, served

BEGUN = datetime(2026, 11, 23, 12, 33, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of two seconds."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write(path, info(), frames(even(60)))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, video: bytes) -> Path:
    """Two segments of door, one of yard, and what is none of theirs."""
    found = tmp_path / "recordings"
    found.mkdir()
    for minute, name in ((33, "door"), (34, "door"), (35, "yard")):
        path = segment_path(found / f"{name}.mp4", BEGUN.replace(minute=minute))
        path.write_bytes(video)
        path.with_suffix(".jsonl").write_text('{"pts_s": 0}\n')
        path.with_suffix(".vtt").write_text(
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n2 person, 1 traffic light\n\n"
            "00:00:01.000 --> 00:00:02.000\n1 person, 1 a &amp; b\n\n"
        )
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (found / "doorbell-20261123T123305.000Z.mp4").write_bytes(b"of another output")
    (found / "door-20261123T123305.000Z.mkv").write_bytes(b"another form")
    (found / "door.txt").write_text("secret")
    (found / "door-20261123T120000.000Z.mp4").symlink_to(tmp_path / "secret.mp4")
    (found / "door-20261123T110000.000Z.mp4").mkdir()
    return found


@pytest.fixture
def index(folder: Path) -> RecordingIndex:
    return RecordingIndex(
        lambda: [RecordingSeries(name, folder / f"{name}.mp4") for name in ("door", "yard")]
    )  # fmt: skip


@pytest.fixture
def port(index: RecordingIndex) -> Iterator[int]:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    handle_problems(app)
    app.include_router(recording_router(index))
    with served(PageGuard(app, AccessRules(requests_burst=1e6))) as found:
        yield found


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as opened:
        yield opened


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def listed(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/recordings", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_recordings_are_listed_newest_first_with_what_is_known(client: httpx.Client, video: bytes) -> None:
    found = listed(client)
    assert [(each["source"], each["begin_utc"]) for each in found] == [
        ("yard", "2026-11-23T12:35:05.000Z"),
        ("door", "2026-11-23T12:34:05.000Z"),
        ("door", "2026-11-23T12:33:05.000Z"),
    ]
    newest = found[0]
    assert newest["duration_s"] == pytest.approx(2, abs=0.1)
    assert newest["size_bytes"] == len(video)
    assert newest["labels"] == ["person", "traffic light", "a & b"]
    assert newest["has_detections"] and newest["has_captions"] and not newest["is_open"]
    assert newest == client.get(f"/api/recordings/{newest['id']}").json()


def test_they_are_chosen_by_source_and_time(client: httpx.Client) -> None:
    assert len(listed(client, source="door")) == 2
    assert listed(client, source="nobody") == []
    assert [each["source"] for each in listed(client, to="2026-11-23T12:33:30Z")] == ["door"]
    assert [each["source"] for each in listed(client, to="2026-11-23T13:33:30+01:00")] == ["door"]
    assert len(listed(client, **{"from": "2026-11-23T12:00:00"})) == 3  # without a zone: UTC
    assert listed(client, **{"from": "2200-01-01T00:00:00Z"}) == []
    assert len(listed(client, limit=1)) == 1


def test_files_are_answered_whole_and_beside(client: httpx.Client, video: bytes) -> None:
    place = f"/api/recordings/{listed(client)[0]['id']}"
    answer = client.get(f"{place}/video")
    assert answer.content == video
    assert (answer.headers["content-type"], answer.headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert answer.headers["cache-control"] == "no-store" and "content-disposition" not in answer.headers
    assert "attachment" in client.get(f"{place}/video", params={"download": True}).headers["content-disposition"]
    lines = client.get(f"{place}/detections.jsonl")
    assert (lines.headers["content-type"], json.loads(lines.text)) == ("application/jsonl", {"pts_s": 0})
    captions = client.get(f"{place}/captions.vtt")
    assert captions.headers["content-type"].startswith("text/vtt") and captions.text.startswith("WEBVTT")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)), ("bytes=10-", 206, slice(10, None)), ("bytes=-10", 206, slice(-10, None)),
        ("bytes=5-5", 206, slice(5, 6)), ("bytes=0-99999999", 206, slice(0, None)), ("bytes=0-", 206, slice(0, None)),
        ("bytes=-99999999", 206, slice(0, None)), ("bytes=9-5", 200, slice(0, None)), ("bytes=-", 200, slice(0, None)),
        ("bytes=0-1,3-4", 200, slice(0, None)), ("lines=0-1", 200, slice(0, None)), ("bytes=a-b", 200, slice(0, None)),
        ("bytes=99999999-", 416, None), ("bytes=-0", 416, None), (f"bytes={'9' * 19}-", 416, None),
        (f"bytes={'9' * 5000}-", 200, slice(0, None)),
    ],
)  # fmt: skip
def test_ranges(client: httpx.Client, video: bytes, asked: str, status: int, part: slice | None) -> None:
    place = f"/api/recordings/{listed(client)[0]['id']}/video"
    answer = client.get(place, headers={"Range": asked})
    assert answer.status_code == status
    if part is None:
        assert answer.headers["content-range"] == f"bytes */{len(video)}"
        assert answer.json()["error"]["code"] == "range_not_satisfiable"
        return
    wanted = video[part]
    assert answer.content == wanted
    if status == 206:
        begin, end, _ = part.indices(len(video))
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(video)}"


def test_a_range_of_another_file_is_the_whole_file(client: httpx.Client, video: bytes) -> None:
    place = f"/api/recordings/{listed(client)[0]['id']}/video"
    etag = client.get(place).headers["etag"]
    for tag, status in ((etag, 206), ('"other"', 200)):
        assert client.get(place, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == status


def test_one_that_is_written_is_told_so_and_can_be_played(client: httpx.Client, folder: Path, video: bytes) -> None:
    path = segment_path(folder / "door.mp4", BEGUN.replace(hour=20))
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, video)
        newest = listed(client)[0]
        assert newest["is_open"]
        place = f"/api/recordings/{newest['id']}/video"
        assert client.get(place).content == video
        os.write(descriptor, b"more")
        assert client.get(place, headers={"Range": f"bytes={len(video)}-"}).content == b"more"
        assert listed(client)[0]["size_bytes"] == len(video) + 4
    finally:
        os.close(descriptor)
    assert not listed(client)[0]["is_open"]


def test_one_that_is_played_survives_its_deletion(client: httpx.Client, index: RecordingIndex, video: bytes) -> None:
    newest = index.files()[0]
    with client.stream("GET", f"/api/recordings/{newest.id}/video") as answer:
        newest.path.unlink()
        assert b"".join(answer.iter_bytes()) == video
    assert client.get(f"/api/recordings/{newest.id}/video").status_code == 404


def test_whole_files_and_numbered_ones_are_listed(client: httpx.Client, folder: Path, video: bytes) -> None:
    for name in ("yard.mp4", "yard-2.mp4", "yard-3-20261123T123305.000Z.mp4"):
        (folder / name).write_bytes(video)
    found = listed(client, source="yard")
    assert len(found) == 4
    whole = found[0]
    begun = datetime.fromisoformat(whole["begin_utc"]).timestamp()
    assert begun == pytest.approx((folder / "yard-2.mp4").stat().st_mtime - 2, abs=5)


def test_what_is_no_video_yet_is_listed_without_a_length(client: httpx.Client, folder: Path) -> None:
    path = segment_path(folder / "door.mp4", BEGUN.replace(hour=21))
    path.write_bytes(b"")
    newest = listed(client)[0]
    assert (newest["duration_s"], newest["labels"], newest["has_captions"]) == (None, [], False)
    place = f"/api/recordings/{newest['id']}"
    assert client.get(f"{place}/video").content == b""
    assert client.get(f"{place}/video", headers={"Range": "bytes=0-"}).status_code == 416
    assert client.get(f"{place}/captions.vtt").status_code == 404


PATHS = (
    "../secret.mp4", "..%2fsecret.mp4", "%2e%2e/secret.mp4", "%2e%2e%2fsecret.mp4", "..%5csecret.mp4",
    "....//secret.mp4",
    "%252e%252e%252fsecret.mp4", "..%c0%afsecret.mp4", "..;/secret.mp4", "%00", "door.txt", "/etc/passwd",
    "%2fetc%2fpasswd", "file:%2f%2f%2fetc%2fpasswd", "%uff0e%uff0e/secret.mp4", "．．/secret.mp4", "0" * 24, "0" * 25,
    "x" * 5000, "0" * 23 + "%0a",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
@pytest.mark.parametrize("ending", ["", "/video", "/detections.jsonl", "/captions.vtt"])
def test_no_path_leads_to_the_disk(port: int, path: str, ending: str) -> None:
    target = f"/api/recordings/{quote(path, safe='/%.;:')}{ending}"
    with connection(port) as client:  # as it is: httpx would tidy it
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        found = read_to_end(client)
    status = int(found.split(b" ", 2)[1])
    assert status in (400, 404)
    assert b"secret" not in found.partition(b"\r\n\r\n")[2] and b"root:" not in found


def test_a_link_in_place_of_a_recording_is_not_followed(
    client: httpx.Client, index: RecordingIndex, tmp_path: Path
) -> None:
    newest = index.files()[0]
    lines = newest.beside(".jsonl")
    lines.unlink()
    lines.symlink_to(tmp_path / "secret.mp4")
    assert client.get(f"/api/recordings/{newest.id}/detections.jsonl").status_code == 404


def test_a_folder_that_is_gone_has_no_recordings(tmp_path: Path) -> None:
    assert RecordingIndex(lambda: [RecordingSeries("door", tmp_path / "gone" / "door.mp4")]).find() == []


def test_finished_recordings_are_told_once(folder: Path, index: RecordingIndex, video: bytes) -> None:
    events = EventLog()
    finished = FinishedFiles(index, ClipStore(list), events)
    path = segment_path(folder / "door.mp4", BEGUN.replace(hour=22))
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, video)
    for _ in range(2):
        finished.look()
    assert events.since(0) == []
    os.close(descriptor)
    for _ in range(2):
        finished.look()
    (event,) = events.since(0)
    assert (event.kind, event.data["begin_utc"]) == ("recording", "2026-11-23T22:33:05.000Z")


def test_readers_leave_no_files_open(port: int, folder: Path, index: RecordingIndex, video: bytes) -> None:
    newest = index.files()[0]
    newest.path.write_bytes(video + bytes(8 << 20))
    before = open_files()

    def leave_early() -> None:
        with connection(port) as client:
            client.sendall(f"GET /api/recordings/{newest.id}/video HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            client.recv(100)

    threads = [threading.Thread(target=leave_early) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: open_files() <= before)


def test_a_video_is_what_it_was(client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(client.get(f"/api/recordings/{listed(client)[0]['id']}/video").content)
    with av.open(str(path)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 60
