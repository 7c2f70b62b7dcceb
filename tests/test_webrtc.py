"""Live video by WebRTC: the camera's own packets, boxes of the same stamps, and its ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("aiortc", reason="needs the extra webrtc")

from streamer.sources.base import SourceInfo
from streamer.web import peers, webrtc_routes
from streamer.web.page import LivePage
from streamer.web.peers import without_names
from tests.fakes import wait_for
from tests.media import number_of, write_clip
from tests.peer_client import ONE, Viewer, shown
from tests.rtsp.server import RtspServer
from tests.test_page import ANY_PORT, frame

HZ = 90_000
HALF = 1 << 31


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage(ANY_PORT) as opened:
        yield opened


def viewers(page: LivePage) -> int:
    stream = page.hub.get("door")
    return 0 if stream is None else stream.viewers


def watched(page: LivePage) -> None:
    """Waits until the page has a picture."""
    wait_for(lambda: (stream := page.hub.get("door")) is not None and stream.newest is not None)


def test_a_viewer_gets_every_picture_of_the_camera_with_its_boxes(page: LivePage) -> None:
    async def watch() -> Viewer:
        async with Viewer(page) as viewer:
            said = await viewer.offer()
            assert said.status_code == 200, said.text
            candidates = re.findall(r"a=candidate:.*?typ (\w+)", said.text)
            assert candidates and set(candidates) == {"host"}
            await viewer.until(
                lambda v: len(v.pictures) > 60 and v.of_type("clock") and len(v.of_type("detections")) > 60
            )
            assert viewers(page) == 1
            return viewer

    with RtspServer() as server, shown(page, server.url):
        watched(page)
        viewer = asyncio.run(watch())
        wait_for(lambda: viewers(page) == 0)
    numbers = [number_of(picture.to_ndarray(format="bgr24")) for picture in viewer.pictures]
    assert numbers == [(numbers[0] + n) % 30 for n in range(len(numbers))]  # each, once, in order
    assert viewer.of_type("format")[0]["labels"] == ["person"]
    clock = viewer.of_type("clock")[-1]
    times = {round(message["pts_s"], 2) for message in viewer.of_type("detections")}
    first = viewer.first_stamp  # aiortc counts from it
    shown_s = [
        round(clock["pts_s"] + (picture.pts + first - clock["rtp"]) / HZ, 2) for picture in viewer.pictures[-30:]
    ]
    assert len(times.intersection(shown_s)) > 20
    assert viewer.of_type("detections")[0]["boxes"][0][:2] == [0, 0.5]


def test_every_viewer_gets_a_picture_at_once_though_key_frames_are_far_apart(page: LivePage) -> None:
    async def watch() -> list[int]:
        async with Viewer(page) as viewer:
            await viewer.offer()
            await viewer.until(lambda v: len(v.pictures) > 3)
            return [picture.pts for picture in viewer.pictures]

    with RtspServer() as server, shown(page, server.url):
        watched(page)
        for _ in range(2):
            stamps = asyncio.run(watch())
            assert stamps == sorted(stamps)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_what_webrtc_cant_take_is_encoded_once_for_all(page: LivePage, tmp_path: Path, suffix: str) -> None:
    """B-frames are in the clip; the second has no H.264 at all."""
    codec = "libx264" if suffix == ".mp4" else "mpeg4"
    clip = write_clip(
        tmp_path / f"clip{suffix}", 400, codec=codec, codec_options={"bf": "2", "g": "400"} if suffix == ".mp4" else {}
    )

    async def watch() -> list[int]:
        async with Viewer(page) as one, Viewer(page) as other:
            await one.offer()
            await other.offer()
            await one.until(lambda v: len(v.pictures) > 20)
            await other.until(lambda v: len(v.pictures) > 20)
            return [number_of(picture.to_ndarray(format="bgr24")) for picture in one.pictures]

    with shown(page, str(clip), paced=True):
        watched(page)
        numbers = asyncio.run(watch())
        assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers)


def test_a_viewer_is_told_the_end(page: LivePage) -> None:
    async def watch(server: RtspServer) -> None:
        async with Viewer(page) as viewer:
            await viewer.offer()
            await viewer.until(lambda v: v.pictures and v.of_type("format"))
            page.remove("door")
            await viewer.until(lambda v: v.of_type("end"))
            await viewer.until(lambda v: v.connection.connectionState in ("closed", "failed"))

    with RtspServer() as server, shown(page, server.url):
        watched(page)
        asyncio.run(watch(server))


def test_what_cant_be_answered_is_told(page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{page.address}/api/streams/door/webrtc"
    offer = {"sdp": "v=0\r\n", "type": "offer"}

    async def refused() -> httpx.Response:
        async with Viewer(page) as viewer:
            return await viewer.offer()

    assert httpx.post(url, json=offer).status_code == 404
    sink = page.open_sink(SourceInfo("door", "0", live=True), ())
    assert asyncio.run(refused()).json()["error"]["message"] == "there is no picture yet"
    sink.write(frame(), ONE)
    for wrong in (
        {"sdp": "", "type": "offer"},
        offer,
        {"sdp": "v=0", "type": "answer"},
        {"sdp": "x" * 50_000, "type": "offer"},
    ):
        assert httpx.post(url, json=wrong).status_code == 400, wrong
    wait_for(lambda: viewers(page) == 0)
    monkeypatch.setattr(peers, "MOST_PEERS", 0)
    monkeypatch.setattr(webrtc_routes, "has_webrtc", lambda: False)
    said = httpx.post(url, json=offer)
    assert said.status_code == 503 and "pip install 'nanodet-streamer[webrtc]'" in said.text


def test_viewers_are_bounded(page: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MOST_PEERS", 1)

    async def two() -> int:
        async with Viewer(page) as one, Viewer(page) as other:
            assert (await one.offer()).status_code == 200
            return (await other.offer()).status_code

    with RtspServer() as server, shown(page, server.url):
        watched(page)
        assert asyncio.run(two()) == 503


def test_names_that_take_multicast_are_left_out() -> None:
    kept = "v=0\r\na=candidate:1 1 udp 2 192.0.2.7 5 typ host\r\n"
    assert without_names(kept + "a=candidate:1 1 udp 2 ab-12.local 5 typ host\r\n") == kept
