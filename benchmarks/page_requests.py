"""Requests that no page makes: what a run's HTTP interface does with them, and what it still holds afterwards.

Requests that schemathesis makes from the OpenAPI document, valid and not; raw bytes, random and almost HTTP, on
sockets; and clients that send slowly. The run has a camera with a password that can't be reached, a film, recordings,
and a token. Afterwards everything that was added is taken back, and what the process holds is compared with what it
held before.

    python -m benchmarks.page_requests                  # 10,000 requests, 2,000 sockets, 200 slow clients
    python -m benchmarks.page_requests --requests 1000
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import httpx
import numpy as np

from benchmarks.options import positive, results_parser, write_results
from benchmarks.program import STREAMER, Program
from streamer.common.errors import StreamerError

TOKEN = "correct horse battery"
SECRET = "hunter2pass"
_BEARER = {"Authorization": f"Bearer {TOKEN}"}
_START_S, _SETTLE_S = 180.0, 75.0
_OPERATIONS = 30
_A_SECOND = 90  # the page gives one client a hundred
_LINES = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /api/streams HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n{",
    b"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /api/streams/door/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET //../../etc/passwd HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://evil.example/api/state HTTP/1.1\r\nHost: evil.example\r\n\r\n",
)


@dataclass(frozen=True)
class Held:
    """What the run's process holds: resident bytes, threads of the system, file descriptors."""

    resident_bytes: int
    threads: int
    descriptors: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Returns what a process holds now."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return cls(int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), descriptors)


@dataclass(frozen=True)
class Outcome:
    """What was sent, what came back, and what the process held before and after.

    Attributes:
        generated: requests of schemathesis, by the status that was answered.
        faults: of those, what its checks found wrong, in words.
        sockets: connections with raw bytes, by the status that was answered, or ``closed``.
        slow_clients: connections that were slow.
        slow_left: of those, how many the server still had at the end.
        leaks: places where the camera's password was found.
        before, after: what was held.
    """

    generated: Mapping[str, int]
    faults: tuple[str, ...]
    sockets: Mapping[str, int]
    slow_clients: int
    slow_left: int
    leaks: tuple[str, ...]
    before: Held
    after: Held


def measure(requests: int, sockets: int, slow_clients: int, *, seed: int = 0) -> Outcome:
    """Starts a run, sends all that, and returns what came of it.

    Raises:
        StreamerError: if the run doesn't start, or ends.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = _free_port()
        _write_film(folder / "film.avi")
        (folder / "run.yaml").write_text(
            f"source: {{door: film.avi, yard: 'rtsp://admin:{SECRET}@127.0.0.1:9/1'}}\n"
            f"output: http://127.0.0.1:{port}\nrecord: '{{source}}.mp4'\nsegment: 10s\nretain: 1MB\n"
            f"web_token: {TOKEN}\ndetect_every: 10\nreconnect: forever\nbatch: 1\n"
        )
        command = [*STREAMER, "--config", "run.yaml", "--no-progress", "--no-self-check"]
        with Program(command, folder) as program, httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=_BEARER, timeout=60
        ) as client:  # fmt: skip
            _wait_until_frames(client, program)
            leaks = _leaks(client, program)
            _schemathesis(port, max(60, requests // 10), folder, seed)  # what is loaded on first use
            _noise(port, max(20, sockets // 10), seed)
            _settle(client, program)
            before = Held.by(program.pid)
            generated, faults = _schemathesis(port, requests, folder, seed + 1)
            _guess_tokens(port)
            answered = _noise(port, sockets, seed + 1)
            slow_left = _slow_clients(port, slow_clients)
            _settle(client, program)
            after = Held.by(program.pid)
            leaks += _leaks(client, program)
            program.cost()  # raises if it has ended
        return Outcome(generated, faults, answered, slow_clients, slow_left, leaks, before, after)


def _write_film(path: Path) -> None:
    """Writes twenty minutes of small pictures."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(12_000):
            picture = np.full((64, 96, 3), number % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        out.mux(stream.encode(None))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait_until_frames(client: httpx.Client, program: Program) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        program.cost()
        with contextlib.suppress(httpx.HTTPError):
            if any(each["frames"] for each in client.get("/api/state").json()["streams"]):
                return
        time.sleep(0.2)
    raise StreamerError(f"the run gives no frames: {program.said[-400:]}")


def _settle(client: httpx.Client, program: Program) -> None:
    """Takes back what was added, and waits until what served it is gone."""
    deadline_s = time.monotonic() + _SETTLE_S
    while client.delete("/api/changes").status_code != 200:  # this client's requests, or wrong tokens, are used up
        if time.monotonic() > deadline_s:
            raise StreamerError("what was added can't be taken back")
        time.sleep(5)
    before, deadline_s = Held.by(program.pid), time.monotonic() + _SETTLE_S
    for _ in range(1000):
        time.sleep(5)
        now = Held.by(program.pid)
        if (now.threads, now.descriptors) == (before.threads, before.descriptors) or time.monotonic() > deadline_s:
            return
        before = now


def _schemathesis(port: int, requests: int, folder: Path, seed: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Sends about that many requests; returns how often each status was answered, and what was wrong."""
    har = folder / "answers.har"
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{port}/api/openapi.json",
        "-H", f"Authorization: Bearer {TOKEN}", "--rate-limit", f"{_A_SECOND}/s",
        "-n", str(-(-requests // _OPERATIONS)),
        "--exclude-path-regex", "(/events|/live|/api/login)", "--continue-on-failure", "--no-shrink",
        "--warnings", "off", "--phases", "coverage,fuzzing" if requests >= 1000 else "fuzzing", "--seed", str(seed),
        # an unknown class, a name that is taken and a file of the machine are refused, though they fit the document;
        # and after a few wrong tokens no request with a token would be looked at
        "--exclude-checks", "positive_data_acceptance,ignored_auth",
        "--report", "har", "--report-har-path", str(har),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
    if not har.exists():
        raise StreamerError(f"schemathesis sent nothing: {(done.stdout + done.stderr)[-400:]}")
    entries = json.loads(har.read_text(encoding="utf-8"))["log"]["entries"]
    answers = Counter(str(entry["response"]["status"]) for entry in entries)
    har.unlink()
    faults = tuple(re.findall(r"^- (ST\d+ .*)$", done.stdout, re.MULTILINE))
    return dict(answers.most_common()), faults or (() if done.returncode == 0 else (done.stdout[-400:],))


def _guess_tokens(port: int) -> None:
    """Guesses at both places for a token; only a few may be looked at."""
    url = f"http://127.0.0.1:{port}/api"
    answers: Counter[int] = Counter()
    for number in range(50):
        answers[httpx.post(f"{url}/login", json={"token": f"{TOKEN}{number}"}, timeout=60).status_code] += 1
        bearer = {"Authorization": f"Bearer {TOKEN}{number}"}
        answers[httpx.get(f"{url}/state", headers=bearer, timeout=60).status_code] += 1
    if set(answers) - {401, 429} or answers[429] < 50:
        raise StreamerError(f"wrong tokens are answered {dict(answers)}")


def _noise(port: int, sockets: int, seed: int) -> dict[str, int]:
    """Sends raw bytes on that many connections; returns how often each status was answered."""
    random_ = random.Random(seed)
    answers: Counter[str] = Counter()
    for _ in range(sockets):
        sent = bytearray(random_.choice(_LINES) * random_.randint(1, 3))
        for _ in range(random_.randint(0, 8)):
            sent[random_.randrange(len(sent))] = random_.randrange(256)
        if random_.random() < 0.2:
            sent = bytearray(random_.randbytes(random_.randint(1, 100_000)))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            found = b""
            with contextlib.suppress(OSError):
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                found = client.recv(64)
            answers[found.split()[1].decode("latin-1") if found.startswith(b"HTTP/1.1 ") else "closed"] += 1
    return dict(answers.most_common())


def _slow_clients(port: int, count: int) -> int:
    """Opens connections that send a byte now and then, or read nothing; returns how many the server hasn't closed."""
    head = f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(count)]
        left = set(range(count))
        for second in range(15):
            for number in list(left):
                try:
                    clients[number].sendall(head[second : second + 1])
                except OSError:
                    left.discard(number)
            time.sleep(1)
        return len(left)


def _leaks(client: httpx.Client, program: Program) -> tuple[str, ...]:
    """Returns which answers of all routes, and whether the log, hold the camera's password."""
    found = ["the log"] if SECRET in program.said else []
    document = client.get("/api/openapi.json").json()
    for path, operations in document["paths"].items():
        if "get" not in operations or path.endswith(("/events", "/live.mjpg")):
            continue
        place = re.sub(r"\{name\}", "yard", re.sub(r"\{(recording|clip)_id\}", "0" * 24, path))
        answer = client.get(place, params={"stream": "yard"} if path.endswith("/history") else None)
        if SECRET in answer.text + str(answer.headers):
            found.append(place)
    with client.stream("GET", "/api/events", params={"most": 1}) as events:
        if SECRET in events.read().decode():
            found.append("/api/events")
    return tuple(found)


def main() -> None:
    parser = results_parser("benchmarks.page_requests", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=positive, default=10_000, help="of schemathesis, about (default: 10000)")
    parser.add_argument("--sockets", type=positive, default=2_000, help="with raw bytes (default: 2000)")
    parser.add_argument("--slow", type=positive, default=200, help="slow clients at a time (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = measure(options.requests, options.sockets, options.slow, seed=options.seed)
    print(f"{sum(outcome.generated.values())} requests, answered {outcome.generated}")
    print(f"{len(outcome.faults)} faults {'; '.join(outcome.faults)}")
    print(f"raw bytes on {sum(outcome.sockets.values())} sockets, answered {outcome.sockets}")
    print(f"{outcome.slow_clients} slow clients, {outcome.slow_left} of them still connected after 15 s")
    print(f"the camera's password in {len(outcome.leaks)} places {' '.join(outcome.leaks)}")
    for name, before in asdict(outcome.before).items():
        after = getattr(outcome.after, name)
        print(f"{name.replace('_', ' ')}: {before} before, {after} after ({after - before:+d})")
    write_results(options, asdict(outcome), {})


if __name__ == "__main__":
    main()
