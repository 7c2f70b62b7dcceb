"""Live video of a stream: fragments over a WebSocket, and motion JPEG for what can't play these."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine
from typing import Annotated, Literal

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from streamer.sinks.video.encoded_tap import EncodedTap
from streamer.web.broadcast import Broadcasts, NotPlayable, View
from streamer.web.fragments import PLAYABLE_CODECS
from streamer.web.hub import Hub
from streamer.web.live_stream import LiveStream
from streamer.web.media_routes import Boxes, Width, stream_of
from streamer.web.message_log import Place
from streamer.web.messages import state_message
from streamer.web.pictures import PictureKind, Pictures
from streamer.web.problems import REFUSALS, problems

log = logging.getLogger(__name__)

MAX_FPS, DEFAULT_FPS = 30, 10
_MOST_CODECS = 256  # characters
_POLL_S = 0.2
_REPEAT_S = 5.0  # a picture is sent again, so that a viewer who has left is noticed
_NO_STREAM, _NOT_PLAYABLE = 4404, 4415  # close codes, after HTTP's
_BOUNDARY = "picture"

Fps = Annotated[float, Query(gt=0, le=MAX_FPS, description="most pictures a second")]


def live_router(hub: Hub, pictures: Pictures) -> APIRouter:
    """Returns the routes of live video."""
    router = APIRouter(tags=["live"], responses={**REFUSALS, **problems(404, 503)})
    broadcasts = Broadcasts()

    @router.websocket("/api/streams/{name}/live")
    async def live(
        socket: WebSocket,
        name: str,
        view: Literal["plain", "boxes"] = "plain",
        codecs: Annotated[str, Query(max_length=_MOST_CODECS)] = "avc1",
    ) -> None:
        """Sends fragmented MP4 and what is detected, as docs/live-page.md describes."""
        await socket.accept()
        stream = hub.get(name)
        if stream is None:
            await socket.close(_NO_STREAM, "there is no stream of that name")
            return
        entries = {codec.strip().partition(".")[0] for codec in codecs.split(",")} & set(PLAYABLE_CODECS.values())
        stream.viewers += 1
        try:
            await _until_either(_send(socket, broadcasts, stream, entries, view), _receive(socket))
        finally:
            stream.viewers -= 1

    @router.get("/api/streams/{name}/live.mjpg", response_class=StreamingResponse)
    async def motion_jpeg(
        name: str, boxes: Boxes = True, width: Width = None, fps: Fps = DEFAULT_FPS
    ) -> StreamingResponse:
        """Returns the newest frames as motion JPEG, until the stream ends."""
        kind = PictureKind.of(has_boxes=boxes, width=width)
        parts = _motion_jpeg(stream_of(hub, name), kind, pictures, 1 / fps)
        return StreamingResponse(
            parts, media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}", headers={"Cache-Control": "no-store"}
        )

    return router


async def _until_either(*works: Coroutine[None, None, None]) -> None:
    """Runs until one of several has ended, and ends the others; raises what that one raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(WebSocketDisconnect):
        for task in done:
            task.result()


async def _send(
    socket: WebSocket, broadcasts: Broadcasts, stream: LiveStream, entries: Collection[str], wanted: str
) -> None:
    """Sends a stream to one viewer until it ends; changes to encoded pictures where its packets can't be played."""
    lost_s = stream.lost_s
    if lost_s is not None and stream.newest is None:  # nothing may come for long
        await socket.send_text(state_message(lost_s, has_frames=False))
    view = View.BOXES if wanted == "boxes" else await _plain_view(stream, entries)
    place = Place()
    while True:
        try:
            await _send_view(socket, broadcasts, stream, entries, view, place)
        except NotPlayable as error:
            if view is not View.PACKETS:
                await socket.close(_NOT_PLAYABLE, str(error))
                return
            view = View.ENCODED
            place.number = None
        else:
            await socket.close(1000)
            return


async def _send_view(
    socket: WebSocket,
    broadcasts: Broadcasts,
    stream: LiveStream,
    entries: Collection[str],
    view: View,
    place: Place,
) -> None:
    async with (
        broadcasts.joined(stream, view) as broadcast,
        contextlib.aclosing(broadcast.watch(entries, place)) as messages,
    ):
        skips = place.skips
        async for message in messages:
            stream.viewer_skips += place.skips - skips
            skips = place.skips
            if isinstance(message, str):
                await socket.send_text(message)
            else:
                await socket.send_bytes(message)


async def _plain_view(stream: LiveStream, entries: Collection[str]) -> View:
    """Returns how a stream is shown without boxes, once it is known what its packets are."""
    tap = stream.info.packets
    if isinstance(tap, EncodedTap):  # has packets once it is read
        return View.PACKETS
    while tap is not None and tap.newest_key is None and stream.newest is None and not stream.is_ended:
        await asyncio.sleep(_POLL_S)
    return View.PACKETS if stream.shows_packets(entries) else View.ENCODED


async def _receive(socket: WebSocket) -> None:
    """Takes what a browser says, until it leaves."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive()


async def _motion_jpeg(
    stream: LiveStream, kind: PictureKind, pictures: Pictures, gap_s: float
) -> AsyncGenerator[bytes]:
    """Yields the parts of motion JPEG.

    It is asynchronous: of an ordinary generator Starlette doesn't run what follows where a viewer has left.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(changed.set)

    unwatch = stream.watch(wake)
    stream.viewers += 1
    try:
        while not stream.is_ended:
            changed.clear()
            began_s = loop.time()
            picture = await pictures.newest(stream, kind)
            if picture is not None:
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + b"\r\n"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPEAT_S):
                    await changed.wait()
            await asyncio.sleep(max(0.0, began_s + gap_s - loop.time()))
    finally:
        stream.viewers -= 1
        unwatch()
