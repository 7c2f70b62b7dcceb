"""What a refused or failed request is answered: one form of JSON, without values, paths or tracebacks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from streamer.common.errors import ConfigError, StreamerError, one_line
from streamer.web.control import ConflictError, NotFoundError, NotRunningError
from streamer.web.openapi import allowed_methods

log = logging.getLogger(__name__)

CODES: Mapping[int, str] = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    421: "wrong_host",
    422: "invalid",
    429: "too_many_requests",
    500: "failed",
    503: "unavailable",
}
"""The word for each status that is answered."""


class ProblemDetail(BaseModel):
    """Why a request was refused."""

    code: str
    message: str


class ProblemBody(BaseModel):
    """The body of every answer that is no success."""

    error: ProblemDetail


_STATUSES: Mapping[type[StreamerError], int] = {
    NotFoundError: 404,
    ConflictError: 409,
    NotRunningError: 503,
    ConfigError: 400,
}
_PATHS = re.compile(r"(?<![\w:/.*])/(?:[^\s'\",:;()]+/)+")
_URIS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\",;)]+")


def without_places(text: str) -> str:
    """Returns a message without URIs, and with the last part of paths only: it may be shown to whoever asks."""
    return _PATHS.sub("", _URIS.sub("***", one_line(text)))


class Problem(Exception):
    """A request that is refused; raised by routes, and answered by what `handle_problems` installs.

    Attributes:
        status: of HTTP.
        message: one line that says what to do; shown to whoever asked.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers or {}

    @property
    def body(self) -> bytes:
        """The JSON of `ProblemBody`."""
        code = CODES.get(self.status, "failed")
        return json.dumps({"error": {"code": code, "message": without_places(self.message)}}).encode()

    @property
    def response(self) -> Response:
        """The whole answer."""
        return Response(self.body, self.status, dict(self.headers), "application/json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the part of a route's OpenAPI description that says what it may be refused with."""
    return {status: {"model": ProblemBody, "description": HTTPStatus(status).phrase} for status in statuses}


REFUSALS = problems(400, 401, 403, 408, 413, 421, 429)
"""What any request may be refused with before it reaches its route."""


def handle_problems(app: FastAPI) -> None:
    """Answers every failure of an application's routes in the form of `ProblemBody`."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route
            headers["Allow"] = ", ".join(allowed_methods(app, request.url.path)) or headers.get("Allow", "GET")
        return Problem(error.status_code, str(error.detail), headers).response

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return Problem(400, _explained(error)).response

    async def impossible(_: Request, error: Exception) -> Response:
        kind = next((kind for kind in _STATUSES if isinstance(error, kind)), StreamerError)
        return Problem(_STATUSES.get(kind, 409), str(error)).response

    async def failed(_: Request, error: Exception) -> Response:
        log.error("a request of the page failed: %s", one_line(f"{type(error).__name__}: {error}"))
        log.debug("traceback", exc_info=error)
        return Problem(500, "the request failed; the log says why").response

    app.add_exception_handler(Problem, refused)
    app.add_exception_handler(HTTPException, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(StreamerError, impossible)
    app.add_exception_handler(Exception, failed)


def _explained(error: RequestValidationError) -> str:
    """Returns what is wrong with a request, by its key; no value of it is shown."""
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"] if part not in ("body", "query", "path"))[:100]
    message = str(found["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message
