"""What stands in front of the page's routes: names of the server, other sites' pages, tokens, cookies, sizes, rates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from pydantic import BaseModel

from streamer.common.errors import ConfigError
from streamer.web.access import RateLimit, TokenAccess, client_of
from streamer.web.hosts import host_name, is_cross_origin, is_known_host
from streamer.web.problems import Problem, handle_problems
from streamer.web.security import MOST_BODY_BYTES, SECURITY_HEADERS, AccessRules, PageGuard, check_token
from tests.web_server import connection, read_to_end, served

TOKEN = "correct horse battery"


class Body(BaseModel):
    number: int


def application() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handle_problems(app)

    @app.get("/")
    async def page() -> str:
        return "page"

    @app.get("/api/asked")
    async def asked(request: Request) -> bool:
        return bool(request.state.has_token)

    @app.post("/api/write")
    async def write(body: Body) -> int:
        return body.number

    @app.post("/api/login")
    async def login(request: Request, token: str) -> None:
        check_token(request.state.access, token, request.state.client, request.state.logins)

    @app.get("/api/broken")
    async def broken() -> None:
        raise ValueError("rtsp://admin:hunter2pass@192.0.2.1/1 in /etc/secret")

    @app.get("/api/impossible")
    async def impossible() -> None:
        raise ConfigError("no: rtsp://admin:hunter2pass@192.0.2.1/1")

    @app.websocket("/api/socket")
    async def opened(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    return app


@contextlib.asynccontextmanager
async def client(rules: AccessRules, address: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(PageGuard(application(), rules), client=(address, 1), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as opened:
        yield opened


def with_client(
    body: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]], rules: AccessRules | None = None
) -> None:
    """Runs a coroutine with a client of a guarded application."""

    async def run() -> None:
        async with client(rules or AccessRules()) as opened:
            await body(opened)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("example.org", "example.org"), ("EXAMPLE.org.", "example.org"), ("example.org:8080", "example.org"),
        ("127.0.0.1:1", "127.0.0.1"), ("[::1]", "::1"), ("[2001:DB8::1]:443", "2001:db8::1"), ("::1", None),
        ("", None), ("a b", None), ("a/b", None), ("me@host", None), ("host:0", None), ("host:65536", None),
        ("host:", None), ("host:80:80", None), ("[::1", None), ("[::1%25eth0]", None), ("a,b", None),
        ("ho\u00adst", None),
    ],
)  # fmt: skip
def test_the_name_in_a_host_header(header: str, name: str | None) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("header", "is_known"),
    [
        ("127.0.0.1:8080", True), ("localhost", True), ("LOCALHOST:8080", True), ("[::1]:8080", True),
        ("192.0.2.7", True), ("camera.example:443", True), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("0.0.0.0:8080", False), ("[::]:8080", False), ("2130706433", False),
        ("127.1", False), ("0x7f.0.0.1", False), ("sub.camera.example", False), ("", False),
    ],
)  # fmt: skip
def test_which_names_are_served(header: str, is_known: bool) -> None:
    assert is_known_host(header, {"camera.example"}) == is_known


@pytest.mark.parametrize(
    ("method", "origin", "site", "host", "is_refused"),
    [
        ("POST", None, None, "h:1", False),  # curl
        ("POST", "http://h:1", "same-origin", "h:1", False),
        ("POST", "https://h", None, "h", False),  # a proxy that encrypts
        ("POST", "http://H:1", None, "h:1", False),
        ("POST", "http://[::1]:1", None, "[::1]:1", False),
        ("POST", "http://h:2", "same-site", "h:1", True),
        ("POST", "http://h", None, "h:1", True),
        ("POST", "http://evil", "cross-site", "h:1", True),
        ("POST", "null", None, "h:1", True),
        ("POST", "", None, "h:1", True),
        ("POST", "file://", None, "h:1", True),
        ("POST", "http://h:1.evil", None, "h:1", True),
        ("POST", None, "cross-site", "h:1", True),
        ("POST", None, "same-site", "h:1", True),
        ("POST", None, "none", "h:1", False),
        ("PATCH", "http://evil", None, "h:1", True),
        ("PUT", "http://evil", None, "h:1", True),
        ("DELETE", "http://evil", None, "h:1", True),
        ("WEBSOCKET", "http://evil", None, "h:1", True),
        ("WEBSOCKET", "http://h:1", None, "h:1", False),
        ("WEBSOCKET", None, None, "h:1", False),
        ("GET", "http://evil", "cross-site", "h:1", False),
    ],
)
def test_which_requests_come_from_elsewhere(
    method: str, origin: str | None, site: str | None, host: str, is_refused: bool
) -> None:
    assert is_cross_origin(method, origin, site, host) == is_refused


def test_without_a_token_everybody_who_reaches_it_is_served() -> None:
    async def body(client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/asked")
        assert (answer.status_code, answer.json()) == (200, False)
        assert answer.headers["cache-control"] == "no-store"
        assert "cache-control" not in (await client.get("/")).headers
        for path in ("/", "/api/asked", "/nowhere", "/api/broken"):
            assert SECURITY_HEADERS.items() <= dict((await client.get(path)).headers).items()

    with_client(body)


def test_refusals_and_failures_are_one_form_of_json_without_secrets() -> None:
    async def body(client: httpx.AsyncClient) -> None:
        twice = [("Host", "127.0.0.1"), ("Host", "evil.example")]
        foreign = {"Origin": "http://evil.example"}
        for sent, status, code in [
            (lambda: client.get("/api/asked", headers={"Host": "evil.example"}), 421, "wrong_host"),
            (
                lambda: client.get("/api/asked", headers=twice),
                400,
                "invalid",
            ),
            (
                lambda: client.post("/api/write", json={"number": 1}, headers=foreign),
                403,
                "forbidden",
            ),
            (lambda: client.get("/api/asked", headers={"Sec-Fetch-Site": "cross-site"}), 403, "forbidden"),
            (lambda: client.get("/nowhere"), 404, "not_found"),
            (lambda: client.get("/api/../api/asked/"), 404, "not_found"),
            (lambda: client.put("/api/asked"), 405, "method_not_allowed"),
            (lambda: client.post("/api/write", content=b"{"), 400, "invalid"),
            (lambda: client.post("/api/write", json={"number": "hunter2pass"}), 400, "invalid"),
            (lambda: client.post("/api/write", content=b"x" * (MOST_BODY_BYTES + 1)), 413, "too_large"),
            (lambda: client.get("/api/broken"), 500, "failed"),
            (lambda: client.get("/api/impossible"), 400, "invalid"),
        ]:
            answer = await sent()
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
            assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"code", "message"}
            assert "hunter2pass" not in answer.text and "/etc/secret" not in answer.text

    with_client(body)


def test_a_page_may_be_opened_from_a_link_elsewhere() -> None:
    async def body(client: httpx.AsyncClient) -> None:
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert (await client.get("/", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200
        assert (await client.get("/api/asked", headers=foreign)).status_code == 200

    with_client(body)


def test_a_body_without_a_length_is_bounded() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    async def body(client: httpx.AsyncClient) -> None:
        assert (await client.post("/api/write", content=parts())).status_code == 413
        assert (await client.post("/api/write", json={"number": 3})).json() == 3

    with_client(body)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
def test_a_token_is_asked_for_and_taken(header: str) -> None:
    async def body(client: httpx.AsyncClient) -> None:
        refused = await client.get("/api/asked")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for public in ("/", "/healthz", "/api/login", "/assets/x"):
            assert (await client.get(public)).status_code != 401
        for hidden in ("/api", "/api/openapi.json", "/API/asked", "//api/asked", "/assets", "/healthz/x", "/nowhere"):
            assert (await client.get(hidden)).status_code == 401
        answer = await client.get("/api/asked", headers={"Authorization": header})
        assert (answer.status_code, answer.json()) == (200, True)

    with_client(body, AccessRules(token=TOKEN))


def test_wrong_tokens_are_counted_and_then_none_is_looked_at() -> None:
    async def body(client: httpx.AsyncClient) -> None:
        wrong = {"Authorization": "Bearer wrong horse"}
        statuses = [(await client.get("/api/asked", headers=wrong)).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        right = {"Authorization": f"Bearer {TOKEN}"}
        answer = await client.get("/api/asked", headers=right)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert (await client.post("/api/login", params={"token": TOKEN})).status_code == 429

    with_client(body, AccessRules(token=TOKEN, logins_burst=2, logins_per_s=1e-6))


def test_right_tokens_cost_nothing() -> None:
    async def body(client: httpx.AsyncClient) -> None:
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert {(await client.get("/api/asked", headers=right)).status_code for _ in range(20)} == {200}

    with_client(body, AccessRules(token=TOKEN, logins_burst=2, logins_per_s=1e-6))


def test_clients_have_budgets_of_their_own() -> None:
    async def run() -> None:
        rules = AccessRules(requests_burst=3, requests_per_s=1e-6)
        async with client(rules, "192.0.2.1") as one, client(rules, "192.0.2.2") as other:
            assert [(await one.get("/")).status_code for _ in range(4)] == [200, 200, 200, 429]
            assert (await other.get("/")).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::2", True), ("2001:db8::1", "2001:db8:0:1::1", False), ("::1", "::1", True),
        ("192.0.2.1", "192.0.2.2", False), ("fe80::1%eth0", "fe80::2%eth0", True), ("", "", True),
    ],
)  # fmt: skip
def test_who_counts_as_one_client(one: str, other: str, is_same: bool) -> None:
    assert (client_of(one) == client_of(other)) == is_same


def test_a_budget_fills_up_again_and_is_remembered_of_the_last_thousand() -> None:
    now_s = [0.0]
    limit = RateLimit(2, 0.5, clock=lambda: now_s[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0, 0, 2]
    now_s[0] = 2.0
    assert [limit.wait_s("a"), limit.wait_s("a")] == [0, 2]
    now_s[0] = 1e6
    assert [limit.wait_s("a") for _ in range(3)] == [0, 0, 2]
    for number in range(5000):
        limit.wait_s(str(number))
    assert len(limit._left) == 1024


def test_a_cookie_lasts_until_it_expires_or_is_ended_also_over_a_restart() -> None:
    now_s = [1_000_000.0]
    access = TokenAccess(TOKEN, is_tls=False, clock=lambda: now_s[0])
    header = access.new_cookie()
    assert header.endswith("; HttpOnly; SameSite=Strict") and "Path=/" in header and "Domain" not in header
    assert TOKEN not in header
    cookie = f"other=1; {header.partition(';')[0]}"
    assert access.has_session(cookie)
    assert TokenAccess(TOKEN, is_tls=False, clock=lambda: now_s[0]).has_session(cookie)
    assert not TokenAccess("another token", is_tls=False, clock=lambda: now_s[0]).has_session(cookie)
    now_s[0] += 31 * 86400
    assert not access.has_session(cookie)
    other = access.new_cookie().partition(";")[0]
    assert access.has_session(other)
    assert "Max-Age=0" in access.end_session(other)
    assert not access.has_session(other)


def test_under_tls_cookies_are_for_encrypted_connections_alone() -> None:
    header = TokenAccess(TOKEN, is_tls=True).new_cookie()
    assert header.startswith("__Host-page-") and header.endswith("; Secure")


def test_no_changed_cookie_is_taken() -> None:
    access = TokenAccess(TOKEN, is_tls=False)
    name, _, value = access.new_cookie().partition(";")[0].partition("=")
    for place in range(len(value)):
        changed = value[:place] + ("1" if value[place] != "1" else "2") + value[place + 1 :]
        assert not access.has_session(f"{name}={changed}")
    for other in ("", "=", f"{name}=", f"{name}=.", f"{name}=..", f"{name}=1.2.3", "\x00", f"{name}={value}x", ";;;"):
        assert not access.has_session(other)


def test_problem_answers_are_one_line() -> None:
    assert b"\\n" not in Problem(400, "one\ntwo rtsp://me:hunter2pass@h/1").body
    assert b"hunter2pass" not in Problem(400, "one\ntwo rtsp://me:hunter2pass@h/1").body


def test_websockets_are_guarded_as_requests_are() -> None:
    head = b"GET /api/socket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s" + (
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with served(PageGuard(application(), AccessRules(token=TOKEN))) as port:
        own = b"127.0.0.1:%d" % port
        bearer = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
        for host, headers, status in [
            (own, b"", b"401"),
            (b"evil.example", bearer, b"421"),
            (own, bearer + b"Origin: http://evil.example\r\n", b"403"),
            (own, bearer + b"Origin: http://%s\r\n" % own, b"101"),
            (own, bearer, b"101"),
        ]:
            with connection(port) as client:
                client.sendall(head % (host, headers))
                found = read_to_end(client)
            assert found.startswith(b"HTTP/1.1 " + status), found
            assert (b"hello" in found) == (status == b"101")


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.web.security.BODY_S", 0.05)
    with served(PageGuard(application(), AccessRules())) as port, connection(port) as client:
        client.sendall(b"POST /api/write HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")
