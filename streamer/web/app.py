"""The page as an application for an ASGI server."""

from __future__ import annotations

from fastapi import FastAPI

from streamer import __version__
from streamer.web.api_routes import login_router
from streamer.web.asset_routes import asset_router
from streamer.web.hub import Hub
from streamer.web.live_routes import live_router
from streamer.web.media_routes import media_router
from streamer.web.openapi import describe_api
from streamer.web.pictures import Pictures
from streamer.web.problems import handle_problems
from streamer.web.run_api import RunApi
from streamer.web.webrtc_routes import webrtc_router


def make_app(hub: Hub, pictures: Pictures, api: RunApi | None = None) -> FastAPI:
    """Returns the application.

    The pages of FastAPI that show the interface are off: they load scripts from elsewhere.

    Args:
        hub: the streams.
        pictures: encodes them as JPEG.
        api: the run, its streams and recordings; without it the page only shows.
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
    of_run = () if api is None else api.routers()
    of_media = media_router(hub, pictures), live_router(hub, pictures), webrtc_router(hub)
    for router in (login_router(), *of_run, *of_media, asset_router()):
        app.include_router(router)
    describe_api(app)
    return app
