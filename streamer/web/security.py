"""What stands in front of the page's routes: whom a request comes from, how large and how often it may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.web.access import RateLimit, TokenAccess, client_of, retry_after
from streamer.web.hosts import is_cross_origin, is_known_host
from streamer.web.problems import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 64 * 1024
BODY_S = 10.0
_PUBLIC = ("/", "/healthz", "/login", "/api/login", "/favicon.ico")
_PUBLIC_FOLDERS = ("/assets/",)
_CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": _CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Of every answer; those of the API also have ``cache-control: no-store``."""


@dataclass(frozen=True)
class AccessRules:
    """Who may use the page, and how often.

    Attributes:
        token: what a user must know; None lets everybody who reaches the page in.
        hosts: names of the server beside its addresses and ``localhost``, in lower case.
        is_tls: whether the page's connections are encrypted.
        requests_per_s, requests_burst: of one client.
        logins_per_s, logins_burst: wrong tokens of one client.
    """

    token: str | None = None
    hosts: frozenset[str] = frozenset()
    is_tls: bool = False
    requests_per_s: float = 100.0
    requests_burst: float = 400.0
    logins_per_s: float = 0.1
    logins_burst: float = 5.0


class PageGuard:
    """ASGI middleware that refuses requests before they reach a route, and adds `SECURITY_HEADERS` to every answer.

    In this order: the Host header, the page that a write or a WebSocket comes from, how many requests a client makes,
    the body's size and time, the token. Routes find in `request.state`: `has_token` (whether one is set and was given),
    `access` (`TokenAccess`, None without a token), and the `client` and its `logins` for `check_token`.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        """Stands in front of `app`."""
        self._app, self._rules = app, rules
        self._access = None if rules.token is None else TokenAccess(rules.token, is_tls=rules.is_tls)
        self._requests = RateLimit(rules.requests_burst, rules.requests_per_s)
        self._logins = RateLimit(rules.logins_burst, rules.logins_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        is_api = scope["path"].startswith("/api")

        async def guarded_send(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message = {**message, "headers": _with_security(message.get("headers", []), no_store=is_api)}
            await send(message)

        try:
            body = await self._admit(scope, receive)
        except Problem as problem:
            await _refuse(scope, receive, guarded_send, problem)
            return
        await self._app(scope, receive if body is None else _replayed(body, receive), guarded_send)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes | None:
        """Checks a request and returns its body, None where it has none; raises Problem for one that is refused."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in ("host", "origin", "authorization", "content-length"):
                raise Problem(400, f"the header {key} is there twice")
            headers[key] = value.decode("latin-1")
        host = headers.get("host", "")
        if not is_known_host(host, self._rules.hosts):
            raise Problem(421, "this name isn't served: use the server's address, or name it with --web-host")
        method = scope.get("method", "WEBSOCKET")
        site = headers.get("sec-fetch-site")
        if is_cross_origin(method, headers.get("origin"), site, host) or _is_foreign_read(scope, headers):
            raise Problem(403, "requests of other sites' pages are refused")
        client = client_of(scope["client"][0] if scope.get("client") else "")
        wait_s = self._requests.wait_s(client)
        if wait_s:
            raise Problem(429, "too many requests", retry_after(wait_s))
        state = scope.setdefault("state", {})
        state.update(has_token=False, access=self._access, client=client, logins=self._logins)
        if self._access is not None:
            state["has_token"] = self._has_token(self._access, headers, client)
            if not state["has_token"] and not _is_public(scope["path"]):
                raise Problem(401, "log in with the page's token", {"WWW-Authenticate": "Bearer"})
        if scope["type"] == "websocket":
            return None
        return await _read_body(headers, receive)

    def _has_token(self, access: TokenAccess, headers: Mapping[str, str], client: str) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return access.has_session(headers.get("cookie", ""))
        check_token(access, given.strip(), client, self._logins)
        return True


def check_token(access: TokenAccess, given: str, client: str, logins: RateLimit) -> None:
    """Raises Problem where a text isn't the token, or that client has guessed too often lately.

    Right tokens cost a client nothing; but while its budget of wrong ones is empty, none is looked at.
    """
    if logins.left(client) < 1:
        raise Problem(429, "too many wrong tokens: wait", retry_after(logins.wait_s(client)))
    if not access.is_token(given):
        logins.wait_s(client)
        raise Problem(401, "the token is wrong", {"WWW-Authenticate": "Bearer"})


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(_PUBLIC_FOLDERS)


def _is_foreign_read(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether another site's page embeds or fetches something of the API; opening it in a tab of its own is no harm."""
    is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return is_foreign and scope["path"].startswith("/api") and headers.get("sec-fetch-mode") != "navigate"


async def _read_body(headers: Mapping[str, str], receive: Receive) -> bytes | None:
    """Returns a request's body; raises Problem where it is too large, or takes too long."""
    length = headers.get("content-length", "")
    if not length and "transfer-encoding" not in headers:
        return None
    if length and (not length.isdecimal() or int(length[:12]) > MOST_BODY_BYTES):
        raise Problem(413, f"a request's body has at most {MOST_BODY_BYTES} bytes", {"Connection": "close"})
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MOST_BODY_BYTES:
                    raise Problem(413, f"a request's body has at most {MOST_BODY_BYTES} bytes", {"Connection": "close"})
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Problem(408, "the request's body didn't come in time", {"Connection": "close"}) from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a receive that gives a body that was read, and then what else comes."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(problem.body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket.http"
    await send({"type": f"{prefix}.response.start", "status": problem.status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": problem.body})


def _with_security(headers: list[tuple[bytes, bytes]], *, no_store: bool) -> list[tuple[bytes, bytes]]:
    has = {name.lower() for name, _ in headers}
    added = dict(SECURITY_HEADERS)
    if no_store:
        added["cache-control"] = "no-store"
    return [*headers, *((n.encode(), v.encode()) for n, v in added.items() if n.encode() not in has)]
