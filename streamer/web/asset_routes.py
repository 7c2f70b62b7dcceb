"""The page's own files: a fixed table of what is packaged, so that no path from a URL reaches the disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class Asset:
    """One packaged file.

    Attributes:
        content: of the file.
        media_type: as HTTP names it.
        etag: changes with the content.
    """

    content: bytes
    media_type: str
    etag: str


def packaged_assets() -> dict[str, Asset]:
    """Returns the packaged files by their path below ``web/assets``, such as ``icons/play.svg``."""
    found: dict[str, Asset] = {}
    _collect(files("streamer.web").joinpath("assets"), "", found)
    return found


def _collect(folder: Traversable, prefix: str, found: dict[str, Asset]) -> None:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            _collect(entry, f"{name}/", found)
            continue
        media_type = _TYPES.get(f".{entry.name.rpartition('.')[2]}")
        if media_type is not None:
            content = entry.read_bytes()
            found[name] = Asset(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def asset_router() -> APIRouter:
    """Returns the routes of the page itself and of ``/assets/...``."""
    assets = packaged_assets()
    router = APIRouter(include_in_schema=False)

    def answer(name: str, request: Request) -> Response:
        asset = assets.get(name)
        if asset is None:
            return Response("not found", 404, media_type="text/plain")
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    @router.get("/")
    async def page(request: Request) -> Response:
        return answer("index.html", request)

    @router.get("/assets/{name:path}")
    async def asset(name: str, request: Request) -> Response:
        return answer(name, request)

    return router
