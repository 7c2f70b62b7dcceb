"""Messages: the queue on the disk, and receivers that get each one in order."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.app.event_options import EventOptions
from streamer.common.errors import ConfigError
from streamer.events.command import CommandReceiver
from streamer.events.lines import LinesReceiver
from streamer.events.message import Event, Message, Phase, QueuedMessage, time_ordered_id
from streamer.events.mqtt import BrokerAddress, MqttReceiver
from streamer.events.queue import MessageQueue, QueueLimits
from streamer.events.receiver import DeliveryError, Receiver, Sender
from streamer.events.sink import EventSink
from streamer.events.webhook import SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookReceiver, signature
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.sinks.clips.trigger import LabelTrigger
from streamer.sources.backoff import Backoff
from streamer.sources.base import SourceInfo
from tests.test_json_schemas import check

QUICK = Backoff(first_delay_s=0.01, max_delay_s=0.02, max_long_delay_s=0.02)
DEADLINE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def numbered(source: str, number: int) -> Message:
    return Message(source, json.dumps({"message_id": f"{source}-{number}", "number": number}))


def numbers(bodies: Sequence[str]) -> list[int]:
    """Returns the numbers without repetitions, in the order of their first arrival."""
    return list(dict.fromkeys(json.loads(body)["number"] for body in bodies))


class Taken(Receiver):
    """Keeps what it takes."""

    def __init__(self, name: str = "taken") -> None:
        self.name = name
        self.bodies: list[str] = []

    def deliver(self, messages: Sequence[QueuedMessage], acknowledge: Callable[[int], None]) -> None:
        for queued in messages:
            self.bodies.append(queued.message.body)
            acknowledge(queued.sequence)

    def close(self) -> None: ...


def test_every_receiver_gets_everything_and_the_disk_is_empty_then(tmp_path: Path) -> None:
    one, other = Taken("one"), Taken("other")
    with MessageQueue(tmp_path / "q", ["one", "other"]) as queue:
        with Sender(queue, one), Sender(queue, other):
            for number in range(300):
                assert queue.put(numbered("door", number))
            wait_for(lambda: len(one.bodies) == len(other.bodies) == 300)
        assert queue.flush()
    assert numbers(one.bodies) == numbers(other.bodies) == list(range(300))
    rows = sqlite3.connect(tmp_path / "q").execute("SELECT count(*) FROM message").fetchone()
    assert rows == (0,)


def test_what_waits_is_delivered_by_the_next_run(tmp_path: Path) -> None:
    with MessageQueue(tmp_path / "q", ["taken"]) as queue:
        for number in range(50):
            queue.put(numbered("door", number))
    taken = Taken()
    with MessageQueue(tmp_path / "q", ["taken"]) as queue, Sender(queue, taken):
        wait_for(lambda: len(taken.bodies) == 50)
    assert numbers(taken.bodies) == list(range(50))


def test_telemetry_is_dropped_before_events(tmp_path: Path) -> None:
    with MessageQueue(tmp_path / "q", ["taken"], QueueLimits(rows=10)) as queue:
        for number in range(8):
            queue.put(numbered("door", number))
            queue.put(Message("door", f'{{"number": {100 + number}}}', is_telemetry=True))
        assert queue.flush()
        assert queue.dropped == 6
        with queue.reader() as reader:
            kept = numbers([each.message.body for each in reader.next_messages(0, 100)])
    assert [number for number in kept if number < 100] == list(range(8))
    assert [number for number in kept if number >= 100] == [106, 107]


def test_bytes_are_bounded(tmp_path: Path) -> None:
    with MessageQueue(tmp_path / "q", ["taken"], QueueLimits(size_bytes=10_000)) as queue:
        for _ in range(100):
            queue.put(Message("door", "x" * 1000))
        assert queue.flush()
        assert queue.dropped == 90


def test_a_full_hand_over_is_counted(tmp_path: Path) -> None:
    with MessageQueue(tmp_path / "q", ["taken"], QueueLimits(pending=5)) as queue:
        blocker = sqlite3.connect(tmp_path / "q", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")  # the disk takes nothing
        assert sum(queue.put(numbered("door", number)) for number in range(12)) == 5
        assert queue.overflowed == 7
        blocker.execute("ROLLBACK")
        assert queue.flush(DEADLINE_S)


def test_a_full_disk_loses_nothing_that_has_a_place(tmp_path: Path) -> None:
    taken = Taken()
    with MessageQueue(tmp_path / "q", ["taken"]) as queue:
        pages = queue._connection.execute("PRAGMA page_count").fetchone()[0]
        queue._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk full"
        for number in range(200):
            queue.put(Message("door", json.dumps({"number": number, "fill": "x" * 500})))
        assert not queue.flush(0.2)
        queue._connection.execute("PRAGMA max_page_count = 1000000")
        with Sender(queue, taken):
            wait_for(lambda: len(taken.bodies) == 200)
    assert numbers(taken.bodies) == list(range(200))


def test_a_damaged_file_is_moved_aside_and_its_readable_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "q"
    with MessageQueue(path, ["taken"]) as queue:
        for number in range(2000):
            queue.put(Message("door", json.dumps({"number": number, "fill": "x" * 200})))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(content)
    with MessageQueue(path, ["taken"]) as queue, queue.reader() as reader:
        kept = numbers([each.message.body for each in reader.next_messages(0, 5000)])
    assert len(kept) > 1000 and kept == sorted(kept)
    assert (tmp_path / "q.damaged-1").is_file()


def test_messages_after_a_rescue_count_as_new(tmp_path: Path) -> None:
    path, receivers = tmp_path / "q", ["taken", "away"]
    with MessageQueue(path, receivers) as queue, queue.reader() as reader:
        for number in range(2000):
            queue.put(Message("door", json.dumps({"number": number, "fill": "x" * 200})))
        queue.flush()
        queue.acknowledge("taken", reader.next_messages(0, 5000)[-1].sequence)
    content = bytearray(path.read_bytes())
    newest = len(content) * 6 // 10 // 4096 * 4096
    content[newest:] = b"\xff" * (len(content) - newest)
    path.write_bytes(content)
    with MessageQueue(path, receivers) as queue, queue.reader() as reader:
        assert (tmp_path / "q.damaged-1").is_file()
        queue.put(Message("door", json.dumps({"number": 2000})))
        queue.flush()
        waiting = reader.next_messages(queue.position("taken"), 5000)
    assert numbers([each.message.body for each in waiting]) == [2000]


KILLED = """
import json, sys
from pathlib import Path
from streamer.events.lines import LinesReceiver
from streamer.events.message import Message
from streamer.events.queue import MessageQueue
from streamer.events.receiver import Sender
folder, first = Path(sys.argv[1]), int(sys.argv[2])
with MessageQueue(folder / "q", ["lines"]) as queue, Sender(queue, LinesReceiver("lines", folder / "out")):
    for number in range(first, first + 100000):
        queue.put(Message("door", json.dumps({"number": number})))
        if number % 10 == 0:
            queue.flush()
            print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_sigkill_loses_nothing_that_is_committed(kills: int, tmp_path: Path) -> None:
    committed = -1
    for _ in range(kills):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(committed + 1)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
        assert process.stdout is not None
        for _ in range(8):
            committed = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        committed = int(([str(committed)] + process.stdout.read().split())[-1])
        process.wait()
    with MessageQueue(tmp_path / "q", ["lines"]) as queue:
        last = queue.newest
        with Sender(queue, LinesReceiver("lines", tmp_path / "out")):
            wait_for(lambda: queue.position("lines") >= last)
    arrived = [json.loads(line)["number"] for line in (tmp_path / "out").read_text().splitlines() if line]
    assert set(range(committed + 1)) <= set(arrived)
    first = list(dict.fromkeys(arrived))
    assert first == sorted(first)


@contextmanager
def web_server(status: Callable[[int], int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Yields a URL, and the requests that it has answered with 2xx; `status` gets each request's number."""
    taken: list[tuple[dict[str, str], bytes]] = []
    requests = iter(range(1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = status(next(requests))
            if 200 <= answer < 300:
                taken.append((dict(self.headers), body))
            self.send_response(answer)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", taken
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_that_fails_half_of_the_time_gets_all_in_order_and_signed(tmp_path: Path) -> None:
    with web_server(lambda number: (204, 503)[number % 2]) as (url, taken):
        receiver = WebhookReceiver("webhook", url, "much secret")
        with MessageQueue(tmp_path / "q", ["webhook"]) as queue, Sender(queue, receiver, QUICK):
            for number in range(40):
                queue.put(numbered("door", number))
            wait_for(lambda: queue.position("webhook") >= 40)
    assert numbers([body.decode() for _, body in taken]) == list(range(40))
    for headers, body in taken:
        assert headers[SIGNATURE_HEADER] == signature("much secret", headers[TIMESTAMP_HEADER], body)
    assert "much secret" not in repr(receiver) and url not in repr(receiver)


@pytest.mark.parametrize("answer", [400, 302])
def test_what_a_webhook_refuses_becomes_a_dead_letter(answer: int, tmp_path: Path) -> None:
    with web_server(lambda number: answer if number < 2 else 200) as (url, taken):
        receiver = WebhookReceiver("webhook", url, most_attempts=2)
        with MessageQueue(tmp_path / "q", ["webhook"]) as queue, Sender(queue, receiver, QUICK):
            for number in range(3):
                queue.put(numbered("door", number))
            wait_for(lambda: queue.position("webhook") >= 3)
    assert numbers([body.decode() for _, body in taken]) == [1, 2]
    rows = sqlite3.connect(tmp_path / "q").execute("SELECT receiver, reason FROM dead_letter").fetchall()
    assert rows == [("webhook", f"status {answer}")]


def test_a_command_gets_a_message_on_its_standard_input(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'out')!r}, 'a').write(sys.stdin.read())"
    receiver = CommandReceiver("exec", (sys.executable, "-c", code))
    receiver.deliver([QueuedMessage(1, numbered("door", 0)), QueuedMessage(2, numbered("door", 1))], lambda _: None)
    assert numbers((tmp_path / "out").read_text().splitlines()) == [0, 1]


@pytest.mark.parametrize(
    ("code", "says"), [("raise SystemExit(3)", "status 3"), ("import time; time.sleep(60)", "longer than")]
)
def test_a_command_that_fails_is_tried_again(code: str, says: str) -> None:
    receiver = CommandReceiver("exec", (sys.executable, "-c", code), 1.0 if "sleep" in code else 60.0)
    with pytest.raises(DeliveryError, match=says):
        receiver.deliver([QueuedMessage(1, numbered("door", 0))], lambda _: None)


def test_lines_rotate_and_end_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text('{"cut')
    receiver = LinesReceiver("lines", path, max_bytes=100, backups=1)
    for number in range(9):
        receiver.deliver([QueuedMessage(number + 1, numbered("door", number))], lambda _: None)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["out", "out.1"]
    assert numbers([*(tmp_path / "out.1").read_text().splitlines(), *path.read_text().splitlines()])[-1] == 8


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def broker(port: int, folder: Path) -> Iterator[None]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto isn't installed")
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(port))
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def subscribed(port: int) -> Iterator[list[tuple[str, str]]]:
    mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt isn't installed")
    got: list[tuple[str, str]] = []
    ready = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = lambda _, __, message: got.append((message.topic, message.payload.decode()))
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(DEADLINE_S)
    try:
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


def event(phase: Phase) -> Event:
    at = "2026-11-23T12:33:05.123Z"
    return Event("01890000-0000-7000-8000-000000000000", phase, "front/door", "person", 0.9, (1, 2, 3, 4), at, at)


def test_a_broker_that_is_restarted_gets_all_in_order(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt isn't installed")
    port = free_port()
    receiver = MqttReceiver("mqtt", BrokerAddress.parse(f"mqtt://127.0.0.1:{port}/cameras"))
    with MessageQueue(tmp_path / "q", ["mqtt"]) as queue, Sender(queue, receiver, QUICK):
        for number in range(50):
            queue.put(numbered("door", number))
        with broker(port, tmp_path), subscribed(port) as first:
            wait_for(lambda: queue.position("mqtt") >= 50)
        for number in range(50, 100):
            queue.put(numbered("door", number))
        with broker(port, tmp_path), subscribed(port) as second:
            wait_for(lambda: queue.position("mqtt") >= 100)
            wait_for(lambda: ("cameras/status", "online") in second)
    assert ("cameras/status", "online") in first
    sequence = [body for topic, body in first + second if topic == "cameras/events/door"]
    assert numbers(sequence) == sorted(numbers(sequence))
    assert len(numbers(sequence)) > 0


def test_home_assistant_finds_a_source_and_its_state(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt isn't installed")
    port = free_port()
    address = BrokerAddress.parse(f"mqtt://127.0.0.1:{port}/cameras")
    with broker(port, tmp_path), subscribed(port) as got:
        receiver = MqttReceiver("mqtt", address, discovery="homeassistant")
        with MessageQueue(tmp_path / "q", ["mqtt"]) as queue, Sender(queue, receiver, QUICK):
            queue.put(event(Phase.START).message())
            queue.put(event(Phase.END).message())
            wait_for(lambda: queue.position("mqtt") >= 2)
        wait_for(lambda: ("cameras/status", "offline") in got)
        found = dict(got)
        device = json.loads(found["homeassistant/device/cameras_front_door/config"])
        component = device["components"]["person"]
        states = [body for topic, body in got if topic == component["state_topic"]]
    assert states == ["ON", "OFF"]
    assert device["availability_topic"] == "cameras/status"


def test_detections_become_an_event_with_one_id_and_one_beginning(tmp_path: Path) -> None:
    info = SourceInfo("door", "door", fps=10.0, live=True)
    with MessageQueue(tmp_path / "q", ["taken"]) as queue, queue.reader() as reader:
        with EventSink(queue, info, ["person"], LabelTrigger(["person"], {"person": 0.5}, 2), update_s=1.0) as sink:
            for number in range(30):
                frame = Frame(np.zeros((48, 64, 3), np.uint8), "door", number, number / 10, time.perf_counter())
                count = int(2 <= number < 25)
                boxes = np.array([[1, 2, 30, 40]], np.float32)[:count]
                sink.write(frame, Detections(boxes, np.full(count, 0.9, np.float32), np.zeros(count, np.int64)))
        assert queue.flush()
        told = [json.loads(each.message.body) for each in reader.next_messages(0, 100)]
    assert [each["phase"] for each in told] == ["start", "update", "update", "end"]
    assert len({each["event_id"] for each in told}) == len({each["begin_utc"] for each in told}) == 1
    for each in told:
        check(each, "event")


def test_an_event_is_as_its_schema_says() -> None:
    for phase in Phase:
        check(json.loads(event(phase).message().body), "event")


def test_ids_are_ordered_by_time_also_where_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time_ordered_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert time_ordered_id()[:13] >= before[:13] and before[14] == "7"


@pytest.mark.parametrize("text", ["mqtt://host", "mqtt:///topic", "mqtt://host/a/#", "http://host/a", "mqtt://h:x/a"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        BrokerAddress.parse(text)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "p@ss/word")
    values = {"receivers": [{"mqtt": "mqtts://me:${BROKER_PASSWORD}@host/cameras"}]}
    options = EventOptions.model_validate(values)
    address = BrokerAddress.parse(options.receivers[0].mqtt or "")
    assert address.password == "p@ss/word" and address.port == 8883
    assert "p@ss" not in repr(options) + repr(address) and "p%40ss" not in repr(options)
