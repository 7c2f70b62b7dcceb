"""Live video by WebRTC, where aiortc is installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from streamer.web.hub import Hub
from streamer.web.problems import REFUSALS, Problem, problems

if TYPE_CHECKING:
    from streamer.web.peers import Peers

MISSING = "WebRTC needs aiortc, which isn't installed: pip install 'nanodet-streamer[webrtc]'"
_MOST_SDP = 48_000


class SessionDescription(BaseModel):
    """What both sides of a WebRTC connection tell each other, as ``RTCSessionDescription`` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sdp: str = Field(max_length=_MOST_SDP, description="with all candidates: they aren't sent later")
    type: Literal["offer", "answer"]


def has_webrtc() -> bool:
    """Whether the package that it needs is installed."""
    return importlib.util.find_spec("aiortc") is not None


def webrtc_router(hub: Hub) -> APIRouter:
    """Returns the route, which makes the connections of a page; each ends with its stream."""
    router = APIRouter()
    peers: list[Peers] = []

    @router.post("/api/streams/{name}/webrtc", responses={**REFUSALS, **problems(404, 503)})
    async def webrtc(name: str, offer: SessionDescription) -> SessionDescription:
        """Answers a browser's offer with a stream's live video; boxes come over its data channel."""
        stream = hub.get(name)
        if stream is None:
            raise Problem(404, "there is no stream of that name")
        if not has_webrtc():
            raise Problem(503, MISSING)
        from streamer.web.peer_packets import NoPicturesYet
        from streamer.web.peers import BadOffer, Peers, TooManyPeers

        if not peers:
            peers.append(Peers())
        try:
            answer = await peers[0].answer(stream, offer.sdp, offer.type)
        except BadOffer as error:
            raise Problem(400, str(error)) from None
        except (NoPicturesYet, TooManyPeers) as error:
            raise Problem(503, str(error), {"Retry-After": "2"}) from None
        return SessionDescription(sdp=answer.sdp, type="answer")

    return router
