"""Pictures of a stream over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response

from streamer.web.hub import Hub
from streamer.web.live_stream import LiveStream
from streamer.web.pictures import MAX_WIDTH, MIN_WIDTH, PictureKind, Pictures
from streamer.web.problems import REFUSALS, problems

Width = Annotated[int | None, Query(ge=MIN_WIDTH, le=MAX_WIDTH, description="most pixels in width and in height")]
Boxes = Annotated[bool, Query(description="whether what is detected is drawn")]


def stream_of(hub: Hub, name: str) -> LiveStream:
    """Returns the stream of that name; raises HTTPException 404 if there is none."""
    stream = hub.get(name)
    if stream is None:
        raise HTTPException(404, "there is no stream of that name")
    return stream


def media_router(hub: Hub, pictures: Pictures) -> APIRouter:
    """Returns the routes of pictures and live video."""
    router = APIRouter(tags=["live"], responses={**REFUSALS, **problems(404, 503)})

    @router.get("/api/streams/{name}/snapshot.jpg", response_class=Response)
    async def snapshot(name: str, boxes: Boxes = True, width: Width = None) -> Response:
        """Returns the newest frame as JPEG."""
        picture = await pictures.newest(stream_of(hub, name), PictureKind.of(has_boxes=boxes, width=width))
        if picture is None:
            raise HTTPException(503, "there is no frame yet")
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return router
