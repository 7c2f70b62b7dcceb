"""A viewer by WebRTC without a browser, and a camera on a live page, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from streamer.frames.detections import Detections
from streamer.sources import open_source
from streamer.sources.options import SourceOptions
from streamer.web.page import LivePage
from tests.fakes import WAIT_S

ONE = Detections(np.array([[8, 8, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))


@contextlib.contextmanager
def shown(page: LivePage, uri: str, *, paced: bool = False) -> Iterator[None]:
    """Shows a source as "door", one box in every frame, until the block ends."""
    options = SourceOptions(kept_packets_s=15)
    stopping = threading.Event()

    def read() -> None:
        with open_source(uri, name="door", options=options) as source:
            source.wait_ready()
            with page.open_sink(source.info, ("person",)) as sink:
                for frame in source:
                    sink.write(frame, ONE)
                    if stopping.wait(1 / 30 if paced else 0):
                        return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


class Viewer:
    """One connection; a context manager.

    Attributes:
        pictures: decoded, in order.
        messages: of the data channel, in order.
        connection: aiortc's.
    """

    def __init__(self, page: LivePage) -> None:
        self._url = f"{page.address}/api/streams/door/webrtc"
        self.pictures: list[av.VideoFrame] = []
        self.messages: list[dict[str, Any]] = []
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.createDataChannel("detections").on("message", self._heard)
        self.connection.on("track", self._seen)
        self.connection.on("connectionstatechange", self._came.set)

    async def __aenter__(self) -> Viewer:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
        await self.connection.close()

    async def offer(self) -> httpx.Response:
        """Asks the page, and takes its answer if it has one."""
        await self.connection.setLocalDescription(await self.connection.createOffer())
        own = self.connection.localDescription
        async with httpx.AsyncClient(timeout=WAIT_S) as client:
            said = await client.post(self._url, json={"sdp": own.sdp, "type": own.type})
        if said.status_code == 200:
            await self.connection.setRemoteDescription(RTCSessionDescription(**said.json()))
        return said

    async def until(self, is_met: Any) -> None:
        """Waits until something is true of this viewer."""
        async with asyncio.timeout(WAIT_S):
            while not is_met(self):
                self._came.clear()
                await self._came.wait()

    @property
    def first_stamp(self) -> int:
        """The RTP stamp of the first picture, from which aiortc counts those of `pictures`."""
        (receiver,) = self.connection.getReceivers()
        return receiver._RTCRtpReceiver__timestamp_mapper._origin

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Returns the messages of one type."""
        return [message for message in self.messages if message["type"] == kind]

    def _heard(self, message: str) -> None:
        self.messages.append(json.loads(message))
        self._came.set()

    def _seen(self, track: Any) -> None:
        async def read() -> None:
            with contextlib.suppress(Exception):
                while True:
                    self.pictures.append(await track.recv())
                    self._came.set()

        self._task = asyncio.get_running_loop().create_task(read())
