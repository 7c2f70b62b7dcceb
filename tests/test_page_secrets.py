"""No answer of the page, cookie, log line or file that others may read holds a camera's password or the token."""

from __future__ import annotations

import contextlib
import logging
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from streamer.app.config import StreamConfig, read_config
from streamer.app.run import Run
from streamer.common.errors import StreamerError
from tests.fakes import wait_for
from tests.rtsp.server import RtspServer

SECRET = "hunter2p@ss/w"
ENCODED = "hunter2p%40ss%2Fw"
TOKEN = "correct horse battery"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[httpx.Client, Path]]:
    """A run of a real camera with a password, a page with a token, and a recording."""
    monkeypatch.setenv("CAMERA_PASSWORD", SECRET)
    config_file = tmp_path / "fleet.yaml"
    with RtspServer(credentials=f"admin:{SECRET}") as camera:
        place = camera.url.removeprefix("rtsp://")
        config_file.write_text(
            f"source: {{door: 'rtsp://admin:${{CAMERA_PASSWORD}}@{place}'}}\noutput: http://127.0.0.1:0\n"
            f"record: {tmp_path}/{{source}}.mp4\nsegment: 1s\nweb_token: {TOKEN}\nbatch: 1\nself_check: false\n"
        )

        def reread() -> StreamConfig:
            return read_config(config_file, {}, names_source=True)

        with Run.open(reread(), config_file, reread) as run:

            def execute() -> None:
                with contextlib.suppress(StreamerError):  # a camera that was added gave no frame
                    run.execute()

            thread = threading.Thread(target=execute, daemon=True)
            thread.start()
            wait_for(lambda: run.pipeline is not None and run.pipeline.processed)
            (address,) = [opened.address for opened in run.pages]
            with httpx.Client(base_url=str(address), timeout=60) as client:
                yield client, config_file
            assert run.pipeline is not None
            run.pipeline.stop()
            thread.join(60)


def every_answer(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """Yields what is answered to all routes that read, with real names and ids, and to some that fail."""
    recordings = client.get("/api/recordings").json()
    ids = [each["id"] for each in recordings][:1] or ["0" * 24]
    for path, operations in client.get("/api/openapi.json").json()["paths"].items():
        for method in operations:
            if path.endswith(("/events", "/live.mjpg")) or method == "delete" or path == "/api/logout":
                continue
            place = path.replace("{name}", "door").replace("{recording_id}", ids[0]).replace("{clip_id}", "0" * 10)
            answer = client.request(method, place, params={"stream": "door"}, json={} if method != "get" else None)
            yield f"{method} {place}", answer.text + str(answer.headers)
    with client.stream("GET", "/api/events", params={"most": 1}) as events:
        yield "events", events.read().decode()
    for place in ("/", "/nowhere", "/api/streams/x", "/api/streams/%00"):
        yield place, client.get(place).text


@pytest.mark.slow
def test_the_password_is_in_no_answer_log_or_file(
    page: tuple[httpx.Client, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client, config_file = page
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    wait_for(lambda: client.get("/api/recordings").json())
    bad = {"name": "bad", "uri": f"rtsp://admin:{ENCODED}@127.0.0.1:9/1"}
    added = client.post("/api/streams", json=bad)
    assert added.status_code == 201, added.text
    wait_for(lambda: client.get("/api/streams/bad").json()["state"]["state"] != "running")
    wrong = client.post("/api/streams", json={"name": "worse", "uri": f"rtmp://admin:{ENCODED}@127.0.0.1:9/1"})
    assert wrong.status_code == 400
    answers = [("add", added.text), ("wrong", wrong.text), *every_answer(client)]
    assert len(answers) > 20
    for secret in (SECRET, ENCODED, TOKEN):
        for place, text in answers:
            assert secret not in text, place
        for record in caplog.records:
            if record.name.startswith("streamer"):
                assert secret not in record.getMessage()
    assert client.get("/api/streams/door").json()["uri"].startswith("rtsp://***@127.0.0.1:")
    kept = config_file.with_name("fleet.page.yaml")
    assert ENCODED in kept.read_text() and SECRET not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.slow
def test_nothing_of_the_environment_can_be_asked_for(page: tuple[httpx.Client, Path]) -> None:
    client, _ = page
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    for changes in ({"classes": ["${CAMERA_PASSWORD}"]}, {"conf": {"${CAMERA_PASSWORD}": 0.5}}):
        answer = client.patch("/api/streams/door", json=changes)
        assert answer.status_code == 400 and SECRET not in answer.text
    for uri in ("rtsp://${CAMERA_PASSWORD}@127.0.0.1:9/1", "${CAMERA_PASSWORD}", "${file:/etc/hostname}"):
        answer = client.post("/api/streams", json={"name": "c", "uri": uri})
        assert answer.status_code == 400 and SECRET not in answer.text
