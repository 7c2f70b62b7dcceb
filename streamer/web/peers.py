"""WebRTC connections of a page: each offer is answered by a stream's own packets and what is detected in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from streamer.web.live_stream import LiveStream
from streamer.web.messages import detections_message, end_message, state_message
from streamer.web.peer_packets import PeerPackets
from streamer.web.peer_track import CLOCK_HZ, PacketTrack

log = logging.getLogger(__name__)

MOST_PEERS = 32
CONNECT_S = 15.0
_STATE_S = 1.0
_FLUSH_S = 0.2
_MOST_AT_ONCE = 32  # detections, for a viewer that has just come
_MOST_WAITING_BYTES = 1 << 20  # in a data channel, until detections are left out


class TooManyPeers(Exception):
    """As many viewers watch by WebRTC as may."""


class BadOffer(Exception):
    """The offer can't be answered; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What a browser is answered.

    Attributes:
        sdp: the session description, with all candidates.
        type: ``answer``.
    """

    sdp: str
    type: str


class Peers:
    """The connections of one page; all on the server's event loop."""

    def __init__(self) -> None:
        """Begins without a connection."""
        self._packets = PeerPackets()
        self._peers: set[_Peer] = set()

    def __len__(self) -> int:
        return len(self._peers)

    async def answer(self, stream: LiveStream, sdp: str, kind: str) -> Answer:
        """Connects a viewer to a stream, which counts as one until it leaves or the stream ends.

        Only addresses of this machine's own interfaces are offered, and no server is asked for others. Candidates of
        the browser that are names, ``*.local``, are left out, as finding them takes multicast; the browser reaches us.

        Args:
            stream: what it watches.
            sdp: the browser's offer, with its candidates.
            kind: ``offer``.

        Raises:
            TooManyPeers: if as many watch as may.
            BadOffer: if it can't be answered.
            NoPicturesYet: if the stream has none yet.
        """
        if len(self._peers) >= MOST_PEERS:
            raise TooManyPeers(f"{MOST_PEERS} viewers watch by WebRTC, which is the most")
        peer = _Peer(stream, self._packets, self._peers.discard)
        self._peers.add(peer)
        try:
            return await peer.answer(without_names(sdp), kind)
        except BaseException as error:
            await peer.close()
            if isinstance(error, (BadOffer, asyncio.CancelledError)):
                raise
            raise BadOffer(f"the offer can't be answered: {type(error).__name__}") from error

    async def close(self) -> None:
        """Ends all connections."""
        await asyncio.gather(*(peer.close() for peer in list(self._peers)), return_exceptions=True)


class _Peer:
    """One viewer."""

    def __init__(self, stream: LiveStream, packets: PeerPackets, on_close: Callable[[_Peer], None]) -> None:
        self._stream, self._on_close = stream, on_close
        self._loop = asyncio.get_running_loop()
        self._track = PacketTrack(lambda wake: packets.read(stream, wake), self._note_sent)
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._sender: RTCRtpSender | None = None
        self._channel: RTCDataChannel | None = None
        self._clock: str | None = None
        self._told = 0
        self._unwatch = stream.watch(self._wake)
        self._is_closed = self._is_waking = False
        self._tasks: set[asyncio.Task[None]] = set()
        stream.viewers += 1
        self._connection.on("datachannel", self._opened)
        self._connection.on("connectionstatechange", self._changed)
        self._start(self._watch())

    async def answer(self, sdp: str, kind: str) -> Answer:
        """Returns the answer to an offer."""
        if kind != "offer":
            raise BadOffer("wanted an offer")
        # aiortc takes preferences into account while it reads the offer only
        transceiver = self._connection.addTransceiver(self._track, direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
        self._sender = transceiver.sender
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, kind))
        if [each.kind for each in self._connection.getTransceivers()] != ["video"]:
            raise BadOffer("wanted an offer to receive one video")
        answer = await self._connection.createAnswer()
        if "H264/90000" not in answer.sdp:
            raise BadOffer("the browser doesn't take H.264 by WebRTC")
        await self._connection.setLocalDescription(answer)
        description = self._connection.localDescription
        return Answer(description.sdp, description.type)

    async def close(self) -> None:
        """Ends it. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        self._track.stop()
        self._stream.viewers -= 1
        self._on_close(self)
        own = asyncio.current_task()
        for task in self._tasks:
            if task is not own:
                task.cancel()
        with contextlib.suppress(Exception):
            await self._connection.close()

    async def _watch(self) -> None:
        """Ends a connection that isn't made in time, or is lost; tells each second how the stream is."""
        began_s = self._loop.time()
        while True:
            await asyncio.sleep(_STATE_S)
            late = self._loop.time() - began_s > CONNECT_S
            if self._connection.connectionState not in ("connected", "connecting", "new") or (
                late and self._connection.connectionState != "connected"
            ):
                break
            self._tell(state_message(self._stream.lost_s, has_frames=self._stream.newest is not None))
            if self._clock is not None:
                self._tell(self._clock)
        await self.close()

    async def _end(self) -> None:
        self._tell(end_message())
        await asyncio.sleep(_FLUSH_S)
        await self.close()

    def _changed(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._start(self.close())

    def _opened(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            return
        self._channel = channel
        view = "packets" if self._stream.shows_packets(("avc1",)) else "encoded"
        self._tell(json.dumps({"type": "format", "labels": self._stream.labels, "view": view}))
        if self._clock is not None:
            self._tell(self._clock)
        self._publish()

    def _note_sent(self, ticks: int) -> None:
        """Notes which stamp a picture has on the wire: aiortc adds a random number, which only its sender knows."""
        stamp = getattr(self._sender, "_RTCRtpSender__rtp_timestamp", None)
        if stamp is None:
            return
        is_first = self._clock is None
        self._clock = json.dumps({"type": "clock", "rtp": stamp, "pts_s": ticks / CLOCK_HZ})
        if is_first:
            self._tell(self._clock)

    def _wake(self) -> None:
        """Called on the thread that publishes."""
        if not self._is_waking:
            self._is_waking = True
            with contextlib.suppress(RuntimeError):  # the server has ended
                self._loop.call_soon_threadsafe(self._publish)

    def _publish(self) -> None:
        """Sends what was detected since the last time."""
        self._is_waking = False
        if self._stream.is_ended:
            self._start(self._end())
            return
        tap = self._stream.info.packets
        if self._channel is None or tap is None:
            return
        for found in self._stream.found_after(self._told)[-_MOST_AT_ONCE:]:
            self._told = found.number
            if self._channel.bufferedAmount < _MOST_WAITING_BYTES:
                self._tell(detections_message(found, tap))

    def _tell(self, message: str) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(message)

    def _start(self, body: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def without_names(sdp: str) -> str:
    """Returns a session description without candidates that are names of multicast DNS."""
    return "".join(
        line
        for line in sdp.splitlines(keepends=True)
        if not (line.startswith("a=candidate:") and ".local" in line.lower())
    )
