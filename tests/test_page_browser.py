"""The live page in a real browser: a real program, a camera over RTSP, packaged weights."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from streamer import open_detector
from tests.browser import FPS, SIZE_WH, Program, chromium, needs_browser, opened, program, sample_footage
from tests.fakes import wait_for
from tests.rtsp.film import Loop
from tests.rtsp.server import RtspServer

pytestmark = [needs_browser, pytest.mark.slow, pytest.mark.timeout(900)]

_SHOWN = "() => document.querySelector('live-player')?.presented?.boxes.length > 0"
_INKED = """() => {
  const canvas = document.querySelector('%s canvas');
  if (!canvas.width) return false;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.some((part) => part > 0);
}"""
_PICTURE = """(most) => new Promise((done) => {
  const player = document.querySelector('live-player');
  const look = () => player.video.requestVideoFrameCallback(() => {
    const { pts_s, boxes, boxes_pts_s } = player.presented;
    if (!boxes.length || Math.abs(boxes_pts_s - pts_s) > most) { look(); return; }
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [player.video.videoWidth, player.video.videoHeight];
    canvas.getContext('2d').drawImage(player.video, 0, 0);
    done({ pts_s, boxes, boxes_pts_s, png: canvas.toDataURL('image/png') });
  });
  look();
})"""


@pytest.fixture(scope="module")
def camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(sample_footage(), size_wh=SIZE_WH, fps=FPS)) as server:
        yield server


@pytest.fixture(scope="module")
def run(camera: RtspServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("run")
    (folder / "fleet.yaml").write_text(f"source: {{door: {camera.url}}}\n")
    recorded = ("--record", "{source}.mp4", "--segment", "3s")
    with program(folder, "--config", "fleet.yaml", *recorded) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the intersection over union of two boxes."""
    left_top, right_bottom = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.clip(right_bottom - left_top, 0, None))
    return float(common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common))


def test_the_picture_moves_and_boxes_lie_on_its_objects(run: Program, browser: Any) -> None:
    with opened(browser, f"{run.url}/#/stream/door") as (page, seen), open_detector() as detector:
        page.wait_for_function(_SHOWN)
        shown = page.evaluate(_PICTURE, 0.01)
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(shown["png"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        scale = np.tile(SIZE_WH, 2)
        again = detector.detect(picture).boxes_xyxy / scale
        for class_id, score, *box in shown["boxes"]:
            assert 0 <= class_id < 80 and 0 < score <= 1
            if score > 0.5:  # weaker ones may not be found again after the browser's colour conversion
                assert max(overlap(np.array(box), each) for each in again) > 0.85
        told = [json.loads(text) for text in seen.messages]
        same = [
            each for each in told if each["type"] == "detections" and abs(each["pts_s"] - shown["boxes_pts_s"]) < 1e-6
        ]
        assert [each["boxes"] for each in same] == [shown["boxes"]]
        assert page.evaluate(_PICTURE, 0.01)["pts_s"] > shown["pts_s"]
        seen.assert_well(run.url)


def test_boxes_are_drawn_in_their_classes_colours_and_switched_off_at_once(run: Program, browser: Any) -> None:
    inked = _INKED % "live-player"
    with opened(browser, f"{run.url}/#/stream/door", device_scale_factor=2) as (page, seen):
        page.wait_for_function(_SHOWN)
        page.wait_for_function(inked)
        assert page.evaluate(
            """() => { const canvas = document.querySelector('live-player canvas');
            return Math.abs(canvas.width - 2 * canvas.clientWidth) <= 2; }"""
        )
        colours = [each["colour"] for each in httpx.get(f"{run.url}/api/classes").json()]
        assert colours[0] == "#ff4d4d" and len(set(colours)) == 80
        button = page.get_by_role("button", name="Boxes")
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert not page.evaluate(inked)
        page.reload()
        assert page.get_by_role("button", name="Boxes").get_attribute("aria-pressed") == "false"
        seen.assert_well(run.url)


def test_a_threshold_changes_the_boxes_and_is_kept(run: Program, browser: Any) -> None:
    with opened(browser, f"{run.url}/#/stream/door") as (page, seen):
        page.wait_for_function(_SHOWN)
        slider = page.get_by_label("Lowest score", exact=True)
        slider.focus()
        page.keyboard.press("End")
        page.wait_for_function("() => document.querySelector('live-player').presented?.boxes.length === 0")
        page.get_by_text("kept in fleet.page.yaml").wait_for()
        assert httpx.get(f"{run.url}/api/streams/door").json()["settings"]["conf"] == pytest.approx(0.99)
        slider.fill("0.35")
        page.wait_for_function(_SHOWN)
        page.get_by_label("Own score for a class").select_option("person")
        own = page.get_by_label("Lowest score of person", exact=True)
        own.fill("0.6")
        settings = lambda: httpx.get(f"{run.url}/api/streams/door").json()["settings"]  # noqa: E731
        wait_for(lambda: settings()["conf"] == {"person": 0.6, "*": 0.35})
        page.get_by_role("button", name="Remove the own score of person").click()
        wait_for(lambda: settings()["conf"] == pytest.approx(0.35))
        page.get_by_text("All classes", exact=True).click()
        page.get_by_label("Search classes").fill("person")
        page.get_by_role("checkbox", name="person").check()
        wait_for(lambda: settings()["classes"] == ["person"])
        page.get_by_role("button", name="Take all classes").click()
        wait_for(lambda: settings()["classes"] is None)
        seen.assert_well(run.url)


def test_the_chart_and_the_figures_move(run: Program, browser: Any) -> None:
    with opened(browser, f"{run.url}/#/stream/door") as (page, seen):
        page.wait_for_function("() => document.querySelector('.chart .line')?.getAttribute('d').includes('L')")
        line = "() => document.querySelector('.chart .line').getAttribute('d')"
        before = page.evaluate(line)
        page.wait_for_function(
            "(before) => document.querySelector('.chart .line').getAttribute('d') !== before", arg=before
        )
        assert page.get_by_role("img", name="Rate").count() == 1
        assert page.get_by_text("640 × 360").is_visible()
        assert (
            page.locator(".chips").first.get_by_text("person").count() == 1
            or page.get_by_text("Nothing is detected").count()
        )
        seen.assert_well(run.url)


@pytest.mark.parametrize("mode", ["mjpeg"])
def test_other_ways_to_play_show_pictures(run: Program, browser: Any, mode: str) -> None:
    with opened(browser, f"{run.url}/#/stream/door") as (page, seen):
        page.wait_for_function(_SHOWN)
        page.get_by_label("Playback").select_option(mode)
        page.wait_for_function("() => document.querySelector('live-player')?.image.naturalWidth > 0")
        assert page.evaluate("() => document.querySelector('live-player').mode") == mode
        seen.assert_well(run.url)


def test_a_browser_without_media_source_gets_another_way(run: Program, browser: Any) -> None:
    with opened(browser, "about:blank") as (page, seen):
        page.add_init_script("delete window.MediaSource; delete window.RTCPeerConnection;")
        page.goto(f"{run.url}/#/")
        page.wait_for_function("() => document.querySelector('live-player')?.image.naturalWidth > 0")
        seen.assert_well(run.url)


def test_only_what_is_seen_plays(run: Program, browser: Any) -> None:
    with opened(browser, f"{run.url}/#/") as (page, seen):
        page.wait_for_function(_SHOWN)
        viewers = lambda: httpx.get(f"{run.url}/api/streams/door").json()["state"]["viewers"]  # noqa: E731
        wait_for(lambda: viewers() == 1)
        page.get_by_role("link", name="Recorded").click()
        wait_for(lambda: viewers() == 0)
        page.go_back()
        wait_for(lambda: viewers() == 1)
        seen.assert_well(run.url)


def test_a_recording_plays_with_its_boxes(run: Program, browser: Any) -> None:
    wait_for(lambda: any(not each["is_open"] for each in httpx.get(f"{run.url}/api/recordings").json()))
    with opened(browser, f"{run.url}/#/recorded") as (page, seen):
        page.locator(".rows button", has_text="MB").or_(page.locator(".rows button", has_text="kB")).first.click()
        dialog = page.get_by_role("dialog")
        page.wait_for_function("() => document.querySelector('dialog video').currentTime > 0.2")
        page.wait_for_function(_INKED % "dialog")
        with page.expect_download() as download:
            dialog.get_by_role("link", name="Download").click()
        assert download.value.path().stat().st_size > 10_000
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        page.wait_for_function("() => document.activeElement.closest('.rows') !== null")
        page.locator(".bars rect[tabindex='0']").focus()
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        seen.assert_well(run.url)


def test_a_camera_that_is_away_reconnects(tmp_path: Path, browser: Any) -> None:
    footage = sample_footage()
    camera = RtspServer(Loop(footage, size_wh=SIZE_WH, fps=FPS))
    try:
        with program(tmp_path, f"door={camera.url}") as run, opened(browser, f"{run.url}/#/") as (page, seen):
            page.wait_for_function(_SHOWN)
            camera.close()
            page.locator(".tile").get_by_text("Reconnecting, lost for").wait_for()
            port = camera.port
            camera = RtspServer(Loop(footage, size_wh=SIZE_WH, fps=FPS), port=port)
            page.locator(".tile").get_by_text("Running").wait_for()
            page.wait_for_function(_SHOWN)
            seen.assert_well(run.url)
    finally:
        camera.close()
