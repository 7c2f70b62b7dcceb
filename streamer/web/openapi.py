"""The OpenAPI document, told what FastAPI doesn't know: how to log in, and how failures look."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_OPEN_TO_ALL = ("/healthz", "/api/login", "/api/logout")
_DESCRIPTION = "Streams of one run: live, as state, as recordings and clips. docs/http-api.md has examples."


def describe_api(app: FastAPI) -> None:
    """Has an application whose routes are complete serve its document, made once when it is asked for first."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI's documentation has it


def allowed_methods(app: FastAPI, path: str) -> tuple[str, ...]:
    """Returns the methods that an application documents for a path, for the Allow header."""
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    found = {
        method.upper()
        for template, operations in paths.items()
        if re.fullmatch(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template)), path)
        for method in operations
    }
    return tuple(sorted(found))


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = found.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for unused in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(unused, None)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # a request that doesn't fit is answered 400
            if path not in _OPEN_TO_ALL:
                operation["security"] = [{"token": []}]
    return found
