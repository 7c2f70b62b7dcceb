"""Live video by WebRTC in a real browser: pictures are presented and move, each with the stamp of its boxes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="needs the extra webrtc")
pytest.importorskip("playwright", reason="needs playwright")

from streamer.web.page import LivePage
from tests.fakes import WAIT_S, wait_for
from tests.peer_client import shown
from tests.rtsp.camera import Camera
from tests.rtsp.code import number_and_ms
from tests.test_page import ANY_PORT

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which plays H.264"),
]
HALF = 1 << 31
WATCH = """async (url) => {
  const video = document.body.appendChild(document.createElement("video"));
  video.muted = true;
  const peer = new RTCPeerConnection({ iceServers: [] });
  Object.assign(window, { messages: [], frames: [] });
  peer.addTransceiver("video", { direction: "recvonly" });
  peer.createDataChannel("detections").onmessage = ({ data }) => window.messages.push(JSON.parse(data));
  peer.ontrack = ({ track }) => { video.srcObject = new MediaStream([track]); video.play(); };
  await peer.setLocalDescription(await peer.createOffer());
  await new Promise((done) => {
    const look = () => (peer.iceGatheringState === "complete" ? done() : undefined);
    peer.onicegatheringstatechange = look;
    look();
  });
  const body = JSON.stringify({ sdp: peer.localDescription.sdp, type: "offer" });
  const said = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  await peer.setRemoteDescription(await said.json());
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 360];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const see = (_now, { rtpTimestamp }) => {
    context.drawImage(video, 0, 0);
    const pixels = context.getImageData(0, 300, 640, 60).data;
    const bits = [];
    for (let row = 0; row < 4; row++) {
      const middles = (row * 15 + 7) * 640 + 16;
      for (let column = 0; column < 20; column++) bits.push(+(pixels[(middles + column * 32) * 4 + 1] > 128));
    }
    window.frames.push({ rtp: rtpTimestamp, bits });
    video.requestVideoFrameCallback(see);
  };
  video.requestVideoFrameCallback(see);
}"""


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def test_a_browser_shows_moving_pictures_with_the_stamps_of_their_boxes(browser: Any) -> None:
    with Camera((640, 360), 15, key_interval=30) as camera, LivePage(ANY_PORT) as page, shown(page, camera.direct_url):
        wait_for(lambda: (stream := page.hub.get("door")) is not None and stream.newest is not None)
        tab = browser.new_page(bypass_csp=True)
        tab.goto(f"{page.address}/healthz")
        tab.evaluate(WATCH, f"{page.address}/api/streams/door/webrtc")
        is_clear = "frames.length > 40 && messages.some(({ type }) => type === 'clock')"
        tab.wait_for_function(is_clear, timeout=WAIT_S * 1000)
        frames, messages = tab.evaluate("[frames, messages]")
    codes = [(code[0], frame["rtp"]) for frame in frames if (code := number_and_ms(frame["bits"])) is not None]
    numbers = [number for number, _ in codes]
    assert len(numbers) > 20 and numbers == sorted(numbers) and len(set(numbers)) > 20
    clock = next(message for message in reversed(messages) if message["type"] == "clock")
    found = {round(message["pts_s"], 2) for message in messages if message["type"] == "detections"}
    ticks = [(rtp - clock["rtp"] + HALF) % (2 * HALF) - HALF for _, rtp in codes[-10:]]
    shown_s = [round(clock["pts_s"] + each / 90_000, 2) for each in ticks]
    assert len(found.intersection(shown_s)) >= 5, (sorted(found)[-20:], shown_s)
