"""Live video over a WebSocket, of real cameras on loopback: each viewer's messages, slow ones, and the end."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest
from websockets.sync.client import connect

from streamer.common.queues import OverflowPolicy
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.frames.packets import MediaPacket
from streamer.sinks.page_address import PageAddress
from streamer.sinks.video.encoded_tap import EncodedTap
from streamer.sources import Source, SourceOptions, open_source
from streamer.sources.base import SourceInfo
from streamer.sources.packet_tap import PacketTap
from streamer.sources.spec import SourceSpec
from streamer.web import broadcast, live_encoder
from streamer.web.fragments import Fragment, Fragmenter
from streamer.web.page import LivePage
from tests.fakes import wait_for
from tests.media import number_of, picture, write_clip
from tests.page_viewers import Viewer, shown
from tests.rtsp.film import LiveFilm, Loop
from tests.rtsp.server import RtspServer
from tests.test_page_fragments import annex_b

SIZE_WH = (96, 64)
FPS = 30


@pytest.fixture
def page() -> Iterator[LivePage]:
    with LivePage(PageAddress("http", "127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    with RtspServer(Loop(size_wh=SIZE_WH, fps=FPS)) as server:
        yield server


def opened(server: RtspServer, **options: object) -> Source:
    wanted = SourceOptions(kept_packets_s=15.0, overflow_policy=OverflowPolicy.BLOCK, stall_timeout_s=20.0, **options)  # type: ignore[arg-type]
    return open_source(SourceSpec.parse(server.url, name="door"), options=wanted)


def one(index: int) -> Detections:
    """Returns a detection whose left side is the frame's number."""
    return Detections(np.array([[index % 90, 8, 96, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))


def decoded(viewer: Viewer, group: int = 0) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(b"".join(viewer.fragments[group].copy()))) as container:
        return list(container.decode(video=0))


def numbers(pictures: list[av.VideoFrame]) -> list[int]:
    return [number_of(np.asarray(each.to_ndarray(format="bgr24"), np.uint8)) for each in pictures]


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def frame(number: int, size_wh: tuple[int, int] = SIZE_WH, name: str = "door") -> Frame:
    return Frame(picture(number, size_wh), name, number, number / FPS, time.perf_counter())


def test_a_viewer_gets_the_cameras_own_pictures_and_what_was_found(page: LivePage, camera: RtspServer) -> None:
    with opened(camera) as source, shown(page, source, one), Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures >= 40 and len(viewer.said.get("detections", ())) >= 30)
        (about,) = viewer.formats
        assert (about["codec"], about["size_wh"], about["view"]) == ("avc1.42C00A", [96, 64], "packets")
        assert about["labels"] == ["cat"]
        pictures = decoded(viewer)
        found = {round(said["pts_s"], 3) for said in viewer.said["detections"]}
    first = numbers(pictures)[0]
    assert first % 10 == 0  # a key frame
    assert numbers(pictures) == [(first + number) % 30 for number in range(len(pictures))]
    times_s = {round(each.time + about["origin_s"], 3) for each in pictures}
    assert len(found & times_s) >= 25
    assert viewer.said["state"][0]["state"] == "running"


def test_boxes_keep_to_their_pictures_behind_a_camera_whose_clock_is_set(page: LivePage, camera: RtspServer) -> None:
    """Its packets leap ahead by their stamps; `pts_s` goes on."""
    camera.stamp_off_s = lambda number: 0.0 if number < 30 else 5.0
    with opened(camera) as source, shown(page, source, one), Viewer(page, "door") as viewer:
        wait_for(lambda: len(viewer.said.get("detections", ())) >= 100)
        wait_for(lambda: viewer.pictures >= 100)
    (about,) = viewer.formats
    pictures = {
        round(each.time + about["origin_s"], 2): number
        for each, number in zip(decoded(viewer), numbers(decoded(viewer)), strict=True)
    }
    assert max(pictures) > 6.0
    late = [said for said in viewer.said["detections"][60:] if round(said["pts_s"], 2) in pictures]
    assert len(late) >= 20
    for said in late:
        (box,) = said["boxes"]
        assert round(box[2] * 96) % 30 == pictures[round(said["pts_s"], 2)]


def test_ten_viewers_get_the_same_from_one_muxing(
    page: LivePage, camera: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Fragment | None] = []

    class Counted(Fragmenter):
        def write(self, packet: MediaPacket) -> Fragment | None:
            made.append(super().write(packet))
            return made[-1]

    monkeypatch.setattr(broadcast, "Fragmenter", Counted)
    with opened(camera) as source, shown(page, source):
        viewers = [Viewer(page, "door") for _ in range(10)]
        try:
            stream = page.hub.get("door")
            assert stream is not None
            wait_for(lambda: all(viewer.pictures >= 40 for viewer in viewers))
            assert stream.status().viewers == 10
        finally:
            for viewer in viewers:
                viewer.close()
        wait_for(lambda: stream.viewers == 0)
    content = [fragment.data for fragment in made if fragment is not None]
    assert len(content) == len(set(content))  # none twice
    for viewer in viewers:
        got = viewer.fragments[0][1:]
        at = content.index(got[0])
        assert got == content[at : at + len(got)]


def test_nothing_runs_once_the_last_viewer_has_left(page: LivePage, camera: RtspServer) -> None:
    with opened(camera) as source, shown(page, source, one):
        stream = page.hub.get("door")
        assert stream is not None and source.info.packets is not None
        for query in ("", "?view=boxes"):
            with Viewer(page, "door", query) as viewer:
                wait_for(lambda viewer=viewer: viewer.pictures >= 3)
                assert stream.viewers == 1 and stream._watchers
            wait_for(lambda: stream.viewers == 0 and not stream._watchers)
        assert not source.info.packets._readers
        wait_for(lambda: not {"encode door", "show door"} & names())


def test_a_viewer_with_boxes_gets_encoded_pictures_with_boxes(page: LivePage, camera: RtspServer) -> None:
    whole = Detections(np.array([[0, 0, 96, 64]], np.float32), np.array([0.9], np.float32), np.array([0]))
    with opened(camera) as source, shown(page, source, lambda _: whole), Viewer(page, "door", "?view=boxes") as viewer:
        wait_for(lambda: viewer.pictures >= 10)
        assert viewer.formats[0]["view"] == "encoded"
        edge = np.asarray(decoded(viewer)[-1].to_ndarray(format="bgr24"))[:, :2].reshape(-1, 3).astype(int)
    assert np.abs(edge - edge.mean(axis=0)).max() < 40  # the colour of a box
    assert np.ptp(edge.mean(axis=0)) > 40


def test_two_viewers_with_boxes_share_one_encoder(page: LivePage, camera: RtspServer) -> None:
    with (
        opened(camera) as source,
        shown(page, source),
        Viewer(page, "door", "?view=boxes") as first,
        Viewer(page, "door", "?view=boxes") as second,
    ):
        wait_for(lambda: first.pictures >= 10 and second.pictures >= 10)
        assert [thread.name for thread in threading.enumerate()].count("show door") == 1


@pytest.mark.parametrize(("codecs", "view"), [("avc1,hvc1", "packets"), ("avc1", "encoded")])
def test_h265_is_encoded_for_browsers_without_it(page: LivePage, codecs: str, view: str) -> None:
    with RtspServer(LiveFilm("h265", (160, 96), 10, 10)) as server, opened(server) as source, shown(page, source):
        viewer = Viewer(page, "door", f"?codecs={codecs}")
        wait_for(lambda: viewer.pictures >= 5)
        viewer.close()
    assert viewer.formats[0]["view"] == view
    assert viewer.formats[0]["codec"].startswith("hvc1" if view == "packets" else "avc1")
    assert len(decoded(viewer)) >= 5


def test_motion_jpeg_of_a_camera_is_encoded(page: LivePage) -> None:
    with RtspServer(LiveFilm("mjpeg", (160, 96), 10, 1)) as server, opened(server) as source, shown(page, source):
        viewer = Viewer(page, "door")
        wait_for(lambda: viewer.pictures >= 5)
        viewer.close()
    assert viewer.formats[0]["view"] == "encoded"
    assert decoded(viewer)[0].format.name in ("yuv420p", "yuvj420p")


def test_a_webcam_has_the_packets_of_its_encoder(page: LivePage) -> None:
    tap = EncodedTap("door")
    sink = page.open_sink(SourceInfo("door", "0", live=True, packets=tap), ("cat",))
    numbered = itertools.count()

    def next_frame() -> None:
        shot = frame(next(numbered))
        tap.offer(shot)
        sink.write(shot, Detections.empty())

    with Viewer(page, "door") as viewer:
        wait_for(lambda: (next_frame(), viewer.pictures >= 5)[1])
        assert viewer.formats[0]["view"] == "packets"
    wait_for(lambda: not tap.is_encoding)


def test_a_still_picture_shows_to_each_viewer(page: LivePage) -> None:
    sink = page.open_sink(SourceInfo("door", "a.jpg"), ("cat",))
    sink.write(frame(7), Detections.empty())
    with Viewer(page, "door") as first, Viewer(page, "door") as second:
        wait_for(lambda: first.pictures == 1 and second.pictures == 1)
        assert numbers(decoded(first)) == numbers(decoded(second)) == [7]


def test_a_picture_of_odd_size_is_encoded_at_an_even_one(page: LivePage) -> None:
    sink = page.open_sink(SourceInfo("door", "a.jpg"), ("cat",))
    sink.write(frame(7, (97, 65)), Detections.empty())
    with Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures == 1)
        assert viewer.formats[0]["size_wh"] == [96, 64]


def test_a_turned_video_is_shown_upright(page: LivePage, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 30, size_wh=(96, 64), rotation=90)
    source = open_source(SourceSpec.parse(str(clip), name="door"), options=SourceOptions(kept_packets_s=15.0))
    sink = page.open_sink(source.info, ("cat",))
    with source:
        for each in source:
            sink.write(each, Detections.empty())
    with Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures)
        assert (viewer.formats[0]["size_wh"], viewer.formats[0]["view"]) == ([64, 96], "encoded")


def test_a_new_size_begins_with_a_new_init_segment(page: LivePage) -> None:
    tap = PacketTap()
    page.open_sink(SourceInfo("door", "rtsp://camera", live=True, packets=tap), ("cat",))
    for packet in annex_b(SIZE_WH):
        tap.push(packet)
    with Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures == 10)
        for packet in annex_b((160, 96), begin=30):
            tap.push(packet)
        wait_for(lambda: viewer.pictures == 40)
    assert [about["size_wh"] for about in viewer.formats] == [[96, 64], [160, 96]]
    assert numbers(decoded(viewer, 0)) == list(range(20, 30))
    assert numbers(decoded(viewer, 1)) == list(range(30))


def test_a_camera_that_becomes_unplayable_is_encoded_from_then_on(page: LivePage) -> None:
    tap = PacketTap()
    sink = page.open_sink(SourceInfo("door", "rtsp://camera", live=True, packets=tap), ("cat",))
    sink.write(frame(1), Detections.empty())
    for packet in annex_b(SIZE_WH):
        tap.push(packet)
    with Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures == 10)
        for packet in annex_b((160, 96), "h265", begin=30):
            tap.push(packet)
        wait_for(lambda: viewer.pictures == 11)
        assert [about["view"] for about in viewer.formats] == ["packets", "encoded"]


def test_a_slow_viewer_is_moved_on_and_holds_up_nobody(page: LivePage) -> None:
    """The system's buffers hold some megabytes, so packets are large."""
    tap = PacketTap()
    page.open_sink(SourceInfo("door", "rtsp://camera", live=True, packets=tap), ("cat",))
    stream = page.hub.get("door")
    assert stream is not None
    filler = b"\x00\x00\x01\x06" + b"\x55" * 300_000  # supplemental information
    packets = (each for group in itertools.count() for each in annex_b(SIZE_WH, begin=30 * group))

    def push() -> None:
        each = next(packets)
        tap.push(replace(each, data=filler + bytes(each.data)))

    push()
    url = f"ws://127.0.0.1:{page.address.port}/api/streams/door/live"
    with (
        connect(url, max_size=None, compression=None, max_queue=1, ping_interval=None) as slow,
        Viewer(page, "door") as quick,
    ):
        for _ in range(4):
            slow.recv()
        wait_for(lambda: quick.pictures == 1)
        for pushed in range(2, 200):
            push()
            wait_for(lambda pushed=pushed: quick.pictures == pushed)
        said = next(json.loads(message) for message in slow if isinstance(message, str))
        assert said["type"] == "skipped" and said["frames"] > 0
        following = next(message for message in slow if isinstance(message, bytes))
        assert any(each.data[-20:] in following for each in annex_b(SIZE_WH) if each.is_key)
    assert stream.viewer_skips == 1 and stream.status().viewer_skips == stream.viewer_skips
    assert "skipped" not in quick.said


def test_a_lost_camera_is_told_and_shown_again(page: LivePage, camera: RtspServer) -> None:
    with opened(camera) as source, shown(page, source), Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.pictures >= 5)
        port = camera.port
        camera.close()
        wait_for(lambda: "reconnecting" in {said["state"] for said in viewer.said["state"]})
        before = viewer.pictures
        with RtspServer(Loop(size_wh=(160, 96), fps=FPS), port=port):
            wait_for(lambda: viewer.pictures > before + 5)
            assert viewer.said["state"][-1]["state"] == "running"
            assert viewer.formats[-1]["size_wh"] == [160, 96]
            assert len(decoded(viewer, -1)) >= 5


def test_a_camera_that_is_not_reached_yet_is_told(page: LivePage) -> None:
    tap, lost = PacketTap(), [3.0]
    info = SourceInfo("door", "rtsp://camera", live=True, packets=tap)
    page.open_sink(info, ("cat",), lambda: lost[0] if lost else None)
    with Viewer(page, "door") as viewer:
        wait_for(lambda: viewer.said.get("state"))
        assert viewer.said["state"][0] == {"type": "state", "state": "connecting", "lost_s": 3.0}
        lost.clear()
        for packet in annex_b(SIZE_WH):
            tap.push(packet)
        wait_for(lambda: viewer.pictures == 10)
        assert viewer.said["state"][-1]["state"] == "running"


def test_viewers_are_told_the_end(page: LivePage, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)
    source = open_source(SourceSpec.parse(str(clip), name="door"), options=SourceOptions(kept_packets_s=15.0))
    with source, shown(page, source):
        wait_for(lambda: page.hub.get("door").is_ended)  # type: ignore[union-attr]
        with Viewer(page, "door") as viewer:
            wait_for(lambda: viewer.closed)
    assert viewer.pictures and len(viewer.said["end"]) == 1
    assert viewer.closed == (1000, "")


def test_a_removed_stream_ends_and_a_new_one_of_its_name_is_shown(page: LivePage) -> None:
    def show() -> None:
        page.open_sink(SourceInfo("door", "a.jpg"), ("cat",)).write(frame(7), Detections.empty())

    show()
    with Viewer(page, "door") as first:
        wait_for(lambda: first.pictures)
        show()  # replaces it
        wait_for(lambda: first.closed)
        with Viewer(page, "door") as second:
            wait_for(lambda: second.pictures)
            page.remove("door")
            wait_for(lambda: second.closed)
    with Viewer(page, "door") as none:
        wait_for(lambda: none.closed)
    assert (first.closed, second.closed) == ((1000, ""), (1000, ""))
    assert none.closed == (4404, "there is no stream of that name")


def test_closing_the_page_sends_viewers_away(camera: RtspServer) -> None:
    page = LivePage(PageAddress("http", "127.0.0.1", 0))
    try:
        with opened(camera) as source, shown(page, source):
            viewers = [Viewer(page, "door", query) for query in ("", "", "?view=boxes")]
            wait_for(lambda: all(viewer.pictures for viewer in viewers))
            page.close()
            for viewer in viewers:
                wait_for(lambda viewer=viewer: viewer.closed)
                assert viewer.closed == (1000, "") and viewer.said["end"]
                viewer.close()
            assert not page._thread.is_alive()
    finally:
        page.close()


def test_scaling_keeps_square_pixels() -> None:
    wide = Frame(np.zeros((576, 720, 3), np.uint8), "door", 0, 0.0, 0.0)
    scaled = live_encoder.at_size(wide, (360, 288))
    assert scaled.size_wh == (360, 288) and scaled.pixel_aspect == 1
    assert live_encoder.at_size(scaled, (360, 288)) is scaled
