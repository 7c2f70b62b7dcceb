"""The page as an application for an ASGI server."""

from __future__ import annotations

from fastapi import FastAPI

from streamer import __version__
from streamer.web.asset_routes import asset_router
from streamer.web.hub import Hub
from streamer.web.live_routes import live_router
from streamer.web.media_routes import media_router
from streamer.web.pictures import Pictures
from streamer.web.problems import handle_problems


def make_app(hub: Hub, pictures: Pictures) -> FastAPI:
    """Returns the application.

    The pages of FastAPI that show the interface are off: they load scripts from elsewhere.

    Args:
        hub: the streams.
        pictures: encodes them as JPEG.
    """
    app = FastAPI(
        title="nanodet-streamer",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    handle_problems(app)
    app.include_router(media_router(hub, pictures))
    app.include_router(live_router(hub, pictures))
    app.include_router(asset_router())
    return app
