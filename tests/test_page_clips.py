"""Clips over HTTP: by their index, in ranges, deleted, and by no path."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from streamer.sinks.clips.clip import Clip
from streamer.sinks.clips.index import ClipIndex
from streamer.web.clip_routes import clip_router
from streamer.web.clips import ClipStore
from streamer.web.event_routes import EventLog, FinishedFiles
from streamer.web.problems import handle_problems
from streamer.web.recordings import RecordingIndex
from streamer.web.security import AccessRules, PageGuard
from tests.web_server import served

BEGUN = datetime(2026, 11, 23, 12, 33, 5, tzinfo=UTC)


def clip(folder: Path, source: str, minute: int, *labels: str, is_complete: bool = True) -> Clip:
    """Makes the files of a clip, and returns its row."""
    begun = BEGUN.replace(minute=minute)
    own_id = f"{source}-{begun:%Y%m%dT%H%M%S}.000Z"
    files = [folder / f"{own_id}{ending}" for ending in (".mp4", ".jpg", ".jsonl")]
    for file in files:
        file.write_bytes(f"{own_id} {file.suffix}".encode())
    return Clip(
        own_id, source, begun, begun + timedelta(seconds=12), labels, labels[0], 0.75, *files, None, is_complete
    )  # fmt: skip


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ClipIndex]:
    """A folder with three clips, of which one is being written."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    with ClipIndex(folder, must_exist=False) as opened:
        opened.put(clip(folder, "door", 10, "person", "car"))
        opened.put(clip(folder, "türe 2", 20, "car"))
        opened.put(clip(folder, "door", 30, "person", is_complete=False))
        opened.flush()
        yield opened


@pytest.fixture
def store(index: ClipIndex, tmp_path: Path) -> Iterator[ClipStore]:
    with ClipStore(lambda: [index.folder, tmp_path / "none yet"]) as opened:
        yield opened


@pytest.fixture
def client(store: ClipStore) -> Iterator[httpx.Client]:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    handle_problems(app)
    app.include_router(clip_router(store))
    with served(PageGuard(app, AccessRules())) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as opened:
        yield opened


def listed(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/clips", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_clips_are_listed_newest_first_and_chosen(client: httpx.Client) -> None:
    newest, middle, oldest = listed(client)
    assert (newest["source"], newest["is_open"], newest["duration_s"]) == ("door", True, 12.0)
    assert (middle["source"], middle["is_open"]) == ("türe 2", False)
    assert oldest["labels"] == ["person", "car"] and oldest["best_score"] == 0.75
    assert oldest["has_snapshot"] and oldest["has_detections"] and not oldest["has_captions"]
    assert oldest == client.get(f"/api/clips/{oldest['id']}").json()
    assert [each["id"] for each in listed(client, label="person", source="door")] == [newest["id"], oldest["id"]]
    assert listed(client, to="2026-11-23T12:15:00Z") == [oldest]
    assert listed(client, limit=1) == [newest]


def test_files_of_a_clip(client: httpx.Client) -> None:
    place = f"/api/clips/{listed(client)[2]['id']}"
    video = client.get(f"{place}/video")
    assert video.headers["content-type"] == "video/mp4" and video.content.endswith(b" .mp4")
    assert client.get(f"{place}/video", headers={"Range": "bytes=0-3"}).content == b"door"
    assert client.get(f"{place}/snapshot.jpg").headers["content-type"] == "image/jpeg"
    assert client.get(f"{place}/detections.jsonl").content.endswith(b" .jsonl")
    assert client.get(f"{place}/captions.vtt").status_code == 404


def test_a_clip_is_deleted_with_its_files(client: httpx.Client, index: ClipIndex) -> None:
    place = f"/api/clips/{listed(client)[2]['id']}"
    assert client.delete(place).status_code == 200
    assert client.delete(place).status_code == client.get(place).status_code == 404
    assert len(listed(client)) == 2
    assert not list(index.folder.glob("door-20261123T1210*"))


@pytest.mark.parametrize(
    "wrong",
    ["x", "../../secret.mp4", "..%2f..%2fsecret.mp4", "0" * 30, "00000000Li4vc2VjcmV0", "%00", "00000000____",
     "0" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["", "/video", "/snapshot.jpg"])
def test_no_path_leads_to_the_disk(client: httpx.Client, wrong: str, ending: str) -> None:
    answer = client.get(f"/api/clips/{wrong}{ending}")
    assert answer.status_code in (400, 404) and "secret" not in answer.text


def test_a_row_that_names_a_file_elsewhere_is_not_followed(client: httpx.Client, index: ClipIndex) -> None:
    before = listed(client)
    with contextlib.closing(sqlite3.connect(index.folder / "clips.sqlite")) as damaged, damaged:
        damaged.execute("UPDATE clip SET video = '../secret.mp4', snapshot = '/etc/passwd'")
    for each in before:
        for ending in ("video", "snapshot.jpg"):
            answer = client.get(f"/api/clips/{each['id']}/{ending}")
            assert answer.status_code == 404 and b"secret" not in answer.content and b"root" not in answer.content


def test_a_clip_that_is_finished_is_told_once(index: ClipIndex, store: ClipStore) -> None:
    events = EventLog()
    finished = FinishedFiles(RecordingIndex(list), store, events)
    finished.look()
    index.put(clip(index.folder, "door", 30, "person"))
    index.flush()
    for _ in range(2):
        finished.look()
    (event,) = events.since(0)
    assert (event.kind, event.data["begin_utc"]) == ("clip", "2026-11-23T12:30:05.000Z")
