"""Streams, settings and changes of a run over HTTP: a real pipeline, file and server, made-up sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamer.app.page_changes import PageChanges, page_file
from streamer.sources.spec import SourceSpec
from tests.fakes import MemorySink, wait_for
from tests.following import Following, following, refuse

FILE = "source: {a: one, b: two}\noutput: 'http://127.0.0.1:0'\n"
TOKEN = "correct horse battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "fleet.yaml"
    found.write_text(FILE)
    return found


@pytest.fixture
def run(path: Path) -> Iterator[Following]:
    """A run of the sources a and b with a page."""
    with following(path) as started:
        yield started


@pytest.fixture
def client(run: Following) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(run.page.address), timeout=60) as opened:
        yield opened


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    return str(error["message"])


def settings_of(client: httpx.Client, name: str) -> dict[str, Any]:
    return dict(ok(client.get(f"/api/streams/{name}"))["settings"])


def test_streams_are_listed_with_real_figures(run: Following, client: httpx.Client) -> None:
    run.flows("a")
    wait_for(lambda: all(each["state"]["fps_processed"] > 0 for each in ok(client.get("/api/streams"))))
    one, other = ok(client.get("/api/streams"))
    assert (one["name"], other["name"]) == ("a", "b")
    assert one["uri"] is None  # nobody was asked for a token
    assert one["state"]["state"] == "running" and one["state"]["error"] is None
    assert one["state"]["latency_ms"]["p50"] <= one["state"]["latency_ms"]["p95"]
    state = ok(client.get("/api/state"))
    assert [each["name"] for each in state["streams"]] == ["a", "b"]
    assert state["run"]["engine"] == "fake" and state["run"]["fps"] > 0
    assert ok(client.get("/healthz")) == {"alive": True, "ready": True, "down": []}
    assert ok(client.get("/api/classes")) == [{"label": "thing", "colour": "#ff4d4d", "ink": "#ffffff"}]


def test_history_grows(run: Following, client: httpx.Client) -> None:
    wait_for(lambda: len(ok(client.get("/api/history", params={"stream": "a"}))) >= 2)
    first, second = ok(client.get("/api/history", params={"stream": "a"}))[:2]
    assert first["t_utc"] < second["t_utc"]
    assert set(first) == {"t_utc", "fps", "latency_p95_ms", "dropped", "counts"}
    refused(client.get("/api/history", params={"stream": "nobody"}), 404)
    refused(client.get("/api/history"), 400)


def test_events_bring_the_state(run: Following, client: httpx.Client) -> None:
    with client.stream("GET", "/api/events", params={"most": 2}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    states = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len(states) == 2 and states[0]["time_utc"] < states[1]["time_utc"]


def test_a_stream_changes_at_once_and_is_kept(run: Following, client: httpx.Client, path: Path) -> None:
    sink = run.opened["a"][0][1]
    wait_for(lambda: any(len(found) for found in sink.detections))
    answer = ok(client.patch("/api/streams/a", json={"min_size": 30, "top_k": 3, "priority": 2}))
    assert answer["changed"] == {"min_size": 30, "top_k": 3, "priority": 2}
    assert (answer["settings"]["min_size"], answer["settings"]["top_k"]) == ("30x30", 3)
    wait_for(lambda: not len(sink.detections[-1]))
    assert PageChanges.read(page_file(path)).summary == "a (min_size, top_k, priority)"
    assert len(run.opened["a"]) == 1  # without a break
    answer = ok(client.patch("/api/streams/a", json={"min_size": None}))
    assert answer["changed"] == {"top_k": 3, "priority": 2}
    wait_for(lambda: len(sink.detections[-1]) > 0)
    assert ok(client.get("/api/changes"))["streams"]["a"]["changed"] == {"top_k": 3, "priority": 2}
    ok(client.delete("/api/changes/a"))
    assert not page_file(path).exists()
    assert settings_of(client, "a")["priority"] == 0


def test_the_file_and_the_page_do_not_fight(run: Following, client: httpx.Client, path: Path) -> None:
    ok(client.patch("/api/streams/a", json={"detect_every": 4}))
    ok(client.patch("/api/settings", json={"top_k": 7, "overlay": True}))
    streams = {stream.name: stream for stream in run.pipeline.streams}
    assert streams["a"].inference.detect_every == 4
    run.write("source: {a: {uri: one, detect_every: 9, priority: 5}, b: two}\noutput: 'http://127.0.0.1:0'\ntop_k: 2\n")
    wait_for(lambda: streams["a"].inference.input.priority == 5)
    assert streams["a"].inference.detect_every == 4  # the page wins
    assert settings_of(client, "b")["top_k"] == 7
    ok(client.delete("/api/changes"))
    assert streams["a"].inference.detect_every == 9
    assert settings_of(client, "b")["top_k"] == 2
    assert len(run.opened["a"]) == len(run.opened["b"]) == 1


def test_streams_are_added_and_removed(run: Following, client: httpx.Client, path: Path) -> None:
    uri = "rtsp://admin:hunter2pass@192.0.2.1/1"
    answer = ok(client.post("/api/streams", json={"name": "new door", "uri": uri, "conf": 0.7}), 201)
    assert answer["is_added"] and answer["settings"]["conf"] == 0.7
    wait_for(lambda: run.names == ["a", "b", "new door"])
    assert "already" in refused(client.post("/api/streams", json={"name": "a", "uri": uri}), 409)
    assert PageChanges.read(page_file(path)).sources["new door"].uri == uri
    ok(client.patch("/api/streams/new%20door", json={"conf": 0.8}))
    ok(client.delete("/api/streams/new%20door"))
    ok(client.delete("/api/streams/a"))
    wait_for(lambda: run.names == ["b"])
    refused(client.get("/api/streams/a"), 404)
    assert "last stream" in refused(client.delete("/api/streams/b"), 409)
    ok(client.delete("/api/changes/a"))
    wait_for(lambda: run.names == ["a", "b"])
    for answer in (
        client.delete("/api/streams/x"),
        client.patch("/api/streams/x", json={}),
        client.delete("/api/changes/x"),
    ):
        refused(answer, 404)


def test_what_fails_to_open_is_told_without_places(run: Following, client: httpx.Client) -> None:
    tried: list[str] = []

    def refusing(spec: SourceSpec) -> Exception | None:
        tried.append(spec.name)
        return refuse(spec)

    run.streams.refuse = refusing
    ok(client.post("/api/streams", json={"name": "c", "uri": "rtsp://admin:hunter2pass@refused.example/1"}), 201)

    def state() -> dict[str, Any]:
        return dict(ok(client.get("/api/streams/c"))["state"])

    wait_for(lambda: state()["state"] == "failed")
    assert "refused the connection" in state()["error"] and "refused.example" not in state()["error"]
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"alive": True, "ready": False, "down": ["c"]})
    ok(client.patch("/api/streams/a", json={"conf": 0.6}))  # which tries no camera again
    run.flows("a")
    assert tried == ["c"]
    run.write(f"{FILE}top_k: 3\n")  # an edit of the file does
    wait_for(lambda: tried == ["c", "c"])
    ok(client.delete("/api/streams/c"))
    assert ok(client.get("/healthz"))["ready"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"conf": 2}, "conf"), ({"conf": True}, "conf"), ({"conf": "0.5"}, "conf"),
        ({"conf": {"person": 0.5}}, "no class 'person'"),
        ({"classes": []}, "classes"), ({"classes": ["cat"]}, "no class 'cat'"), ({"classes": "thing"}, "classes"),
        ({"classes": ["${HOME}"]}, "reference"), ({"min_size": "3x"}, "min_size"), ({"min_size": "1.2.3"}, "min_size"),
        ({"top_k": 0}, "top_k"), ({"top_k": 1.5}, "top_k"), ({"max_fps": 0}, "max_fps"),
        ({"detect_every": -1}, "detect_every"),
        ({"output": "x.mp4"}, "output"), ({"uri": "0"}, "uri"), ({"ignore": "/etc/passwd"}, "ignore"),
        ([], ""), (None, ""),
    ],
)  # fmt: skip
def test_wrong_changes_are_refused_and_change_nothing(
    run: Following, client: httpx.Client, path: Path, body: Any, says: str
) -> None:
    before = settings_of(client, "a")
    assert says in refused(client.patch("/api/streams/a", json=body), 400)
    assert settings_of(client, "a") == before
    assert not page_file(path).exists()


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd", "file:///etc/passwd", "../clip.mp4", "clip.mp4", "*.jpg", "-", "sample", "/dev/video0",
        "/dev/zero",
        "rtsp://${HOME}/1", "${file:/etc/passwd}", "$${HOME}", "udp://192.0.2.1:5", "tcp://192.0.2.1:5", "rtmp://h/1",
        "concat:/etc/passwd", "rtsp:/etc/passwd", "http:clip.mp4", "x=0", "00000", "", " ", "0\n1", "http://h/\0",
        "data:text/plain,x", "subfile,,start,0,end,9,,:/etc/passwd", "RTSP:", "/proc/self/environ",
    ],
)  # fmt: skip
def test_no_file_or_value_of_the_machine_can_be_added(run: Following, client: httpx.Client, uri: str) -> None:
    refused(client.post("/api/streams", json={"name": "c", "uri": uri}), 400)
    assert run.names == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", ".", "a\\b", "a:b", "x" * 65, " a", "a\0", "${HOME}", "*", "a\u202eb"]
)
def test_names_that_cannot_be_are_refused(run: Following, client: httpx.Client, name: str) -> None:
    refused(client.post("/api/streams", json={"name": name, "uri": "0"}), 400)


def test_files_of_a_named_folder_may_be_added(tmp_path: Path, path: Path) -> None:
    folder, outside = tmp_path / "clips", tmp_path / "private.mp4"
    folder.mkdir()
    for file in (folder / "ok.mp4", folder / "notes.txt", outside):
        file.write_text("x")
    (folder / "link.mp4").symlink_to(outside)
    path.write_text(f"{FILE}web_folder: {folder}\n")
    with following(path) as run, httpx.Client(base_url=str(run.page.address), timeout=60) as client:
        for wrong in (
            outside,
            folder / "link.mp4",
            folder / ".." / "private.mp4",
            folder / "notes.txt",
            folder / "no.mp4",
        ):
            refused(client.post("/api/streams", json={"name": "c", "uri": str(wrong)}), 400)
        ok(client.post("/api/streams", json={"name": "c", "uri": str(folder / "ok.mp4")}), 201)


def test_without_a_folder_to_write_into_changes_hold_for_the_run(
    run: Following, client: httpx.Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PageChanges, "write", full)
    answer = ok(client.patch("/api/streams/a", json={"top_k": 3}))
    assert answer["notices"] == ["this holds for the run only: No space left on device"]
    assert settings_of(client, "a")["top_k"] == 3


def test_scores_below_what_a_device_detects_are_told(run: Following, client: httpx.Client) -> None:
    (notice,) = ok(client.patch("/api/streams/a", json={"conf": 0.1}))["notices"]
    assert "after a restart" in notice
    assert ok(client.patch("/api/streams/a", json={"conf": 0.5}))["notices"] == []


def test_many_change_at_once(run: Following, client: httpx.Client, path: Path) -> None:
    """Sliders, an editor and cameras that come and go: the last of each counts, in the run and in the file."""

    def slide(name: str) -> None:
        with httpx.Client(base_url=str(run.page.address), timeout=60) as own:
            for number in range(1, 11):
                ok(own.patch(f"/api/streams/{name}", json={"top_k": number}))

    def come_and_go() -> None:
        with httpx.Client(base_url=str(run.page.address), timeout=60) as own:
            for _ in range(5):
                ok(own.post("/api/streams", json={"name": "c", "uri": "http://192.0.2.1/three"}), 201)
                ok(own.delete("/api/streams/c"))

    threads = [threading.Thread(target=slide, args=(name,)) for name in "ab"] + [threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    for number in range(5):
        run.write(f"{FILE}detect_every: {number + 1}\n")
        run.flows("a")
    for thread in threads:
        thread.join()
    wait_for(lambda: run.names == ["a", "b"])
    assert {name: settings_of(client, name)["top_k"] for name in "ab"} == {"a": 10, "b": 10}
    wait_for(lambda: settings_of(client, "a")["detect_every"] == 5)
    kept = PageChanges.read(page_file(path))
    assert {name: each.changes.top_k for name, each in kept.sources.items()} == {"a": 10, "b": 10}


def test_a_source_that_is_lost_is_told(run: Following, client: httpx.Client) -> None:
    source = run.streams.sources[0][1]
    source.lost_for_s = 3.25
    state = ok(client.get("/api/streams/a"))["state"]
    assert (state["state"], state["lost_s"]) == ("reconnecting", 3.2)
    assert client.get("/healthz").json()["down"] == ["a"]
    source.lost_for_s = None


def test_a_source_that_ends_or_fails_is_told(run: Following, client: httpx.Client) -> None:
    run.write("source: {a: one, b: two, c: short}\noutput: 'http://127.0.0.1:0'\n")
    wait_for(lambda: run.opened.get("c"))
    wait_for(lambda: ok(client.get("/api/streams/c"))["state"]["state"] == "ended")
    assert ok(client.get("/healthz"))["ready"]


def test_a_slow_output_does_not_stop_the_page(run: Following, client: httpx.Client) -> None:
    gate = threading.Event()
    run.streams.sinks["slow"] = MemorySink(before=lambda _: gate.wait(60) and None)
    run.write("source: {a: slow, b: two}\noutput: 'http://127.0.0.1:0'\n")
    wait_for(lambda: len(run.opened["a"]) == 2)
    assert len(ok(client.get("/api/streams"))) == 2
    gate.set()


def test_a_token_shows_redacted_addresses_and_names_what_is_down(path: Path) -> None:
    path.write_text(f"{FILE}web_token: {TOKEN}\n")
    with following(path) as run, httpx.Client(base_url=str(run.page.address), timeout=60) as client:
        assert client.get("/healthz").json()["down"] is None
        for url in (
            "/api/state",
            "/api/streams",
            "/api/events",
            "/api/openapi.json",
            "/api/recordings",
            "/api/settings",
        ):
            refused(client.get(url), 401)
        refused(client.post("/api/streams", json={"name": "c", "uri": "0"}), 401)
        refused(client.post("/api/login", json={"token": "wrong horse battery"}), 401)
        assert "set-cookie" not in client.post("/api/login", json={"token": "x"}).headers
        answer = client.post("/api/login", json={"token": TOKEN})
        assert ok(answer) == {"logged_in": True}
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert ok(client.get("/api/streams/a"))["uri"] == "one"
        uri = "rtsp://admin:hunter2pass@192.0.2.1/1"
        assert ok(client.post("/api/streams", json={"name": "c", "uri": uri}), 201)["uri"] == "rtsp://***@192.0.2.1/1"
        assert client.get("/healthz").json()["down"] is not None
        cookie = dict(client.cookies)
        ok(client.post("/api/logout"))
        refused(client.get("/api/state"), 401)
        client.cookies.update(cookie)
        refused(client.get("/api/state"), 401)
        assert ok(client.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"}))
