"""Whole files on a web server are files: read to their end, on over broken connections, or with an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from streamer.common.errors import SourceError
from streamer.common.queues import OverflowPolicy
from streamer.runtime.pipeline import Pipeline, StreamSpec
from streamer.sources import Source, SourceOptions, open_source
from streamer.sources.truncation import Coverage
from tests.fakes import MemorySink, SlowDetector
from tests.file_server import FileServer
from tests.http_camera import HttpCamera, head
from tests.media import number_of, write_clip

FRAMES = 150
PATIENT = SourceOptions(open_timeout_s=60.0, stall_timeout_s=60.0)
CLIPS = ("clip.mp4", "clip.mkv", "clip.ts", "clip.flv", "fragments.mp4")


def remux(clip: Path, copy: Path, **options: str) -> None:
    with av.open(str(clip)) as source, av.open(str(copy), "w", options=options) as output:
        copied = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                output.mux_one(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    size_wh = (320, 240)
    write_clip(folder / "clip.mkv", FRAMES, size_wh=size_wh, fps=25, codec_options={"g": "25", "qp": "2"})
    write_clip(folder / "last.mp4", FRAMES, size_wh=size_wh, codec="mjpeg", pix_fmt="yuvj420p")
    remux(folder / "clip.mkv", folder / "clip.mp4", movflags="faststart")
    remux(folder / "clip.mkv", folder / "fragments.mp4", movflags="frag_keyframe+empty_moov")
    remux(folder / "clip.mkv", folder / "clip.ts")
    remux(folder / "clip.mkv", folder / "clip.flv")
    listing = {"hls_time": "1", "hls_list_size": "0", "hls_playlist_type": "vod"}
    remux(folder / "clip.mkv", folder / "list.m3u8", **listing, hls_segment_filename=str(folder / "list%d.ts"))
    fmp4 = {"hls_segment_type": "fmp4", "hls_fmp4_init_filename": "init.mp4"}
    remux(folder / "clip.mkv", folder / "fmp4.m3u8", **listing, **fmp4, hls_segment_filename=str(folder / "fmp4%d.m4s"))
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as server:
        yield server


def slow_at_first(index: int) -> None:
    """Takes 50 ms for each of the first frames."""
    if index < 20:
        threading.Event().wait(0.05)


def numbers_of(source: Source) -> list[int]:
    return [number_of(frame.image) for frame in source]


@pytest.mark.parametrize("name", [*CLIPS, "last.mp4", "list.m3u8", "fmp4.m3u8"])
def test_it_is_what_the_local_file_is(server: FileServer, folder: Path, name: str) -> None:
    with open_source(str(folder / name)) as local:
        wanted = [(frame.index, frame.pts_s) for frame in local]
    with open_source(f"{server.url}/{name}", options=PATIENT) as source:
        assert not source.info.live
        found = [(frame.index, frame.pts_s) for frame in source]
        assert (source.skipped, source.reconnects, source.dropped) == ((), 0, 0)
    assert [index for index, _ in found] == [index for index, _ in wanted] == list(range(FRAMES))
    assert [pts_s for _, pts_s in found] == pytest.approx([pts_s for _, pts_s in wanted])


@pytest.mark.parametrize("name", ["clip.mp4", "list.m3u8"])
def test_no_frame_is_lost_however_slow_detection_is(server: FileServer, name: str) -> None:
    sink = MemorySink()
    plan = StreamSpec(open_source(f"{server.url}/{name}", options=PATIENT), [("m", sink)])
    assert plan.overflow_policy is OverflowPolicy.BLOCK
    Pipeline([plan], SlowDetector(during=slow_at_first)).run()
    assert sink.indices == list(range(FRAMES))


@pytest.mark.parametrize("name", CLIPS)
def test_a_connection_that_breaks_is_read_on(server: FileServer, folder: Path, name: str) -> None:
    size = (folder / name).stat().st_size
    server.cuts[name] = [size // 2, size * 3 // 4]
    with open_source(f"{server.url}/{name}", options=PATIENT) as source:
        assert numbers_of(source) == list(range(FRAMES))
        assert source.skipped == ()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "fragments.mp4"])
@pytest.mark.parametrize("lengths", [True, False])
def test_a_connection_that_cannot_be_read_on_is_an_error(
    server: FileServer, folder: Path, name: str, lengths: bool
) -> None:
    server.ranges, server.lengths = False, lengths
    server.cuts[name] = [(folder / name).stat().st_size // 2]
    with open_source(f"{server.url}/{name}", options=PATIENT) as source:
        frames = iter(source)
        numbers = []
        with pytest.raises(SourceError, match="broke off .*serves no byte ranges; run it again, or copy the file here"):
            for frame in frames:
                numbers.append(number_of(frame.image))
    assert numbers == list(range(len(numbers))) and 10 < len(numbers) < FRAMES


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_file_of_unknown_size_has_an_end(server: FileServer, name: str) -> None:
    server.ranges = server.lengths = False
    with open_source(f"{server.url}/{name}", options=PATIENT) as source:
        assert not source.info.live
        assert numbers_of(source) == list(range(FRAMES))


def test_a_chunked_file_that_breaks_off_is_an_error(folder: Path) -> None:
    content = (folder / "clip.mp4").read_bytes()
    half = content[: len(content) // 2]

    def reply(request: str, send: Callable[[bytes], None]) -> None:
        send(head("video/mp4", "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(half), half))

    with (
        HttpCamera(reply) as camera,
        open_source(f"{camera.url}/clip.mp4", options=PATIENT) as source,
        pytest.raises(SourceError, match="of its pictures: a part of it could not be read|broke off"),
    ):
        list(source)


def test_a_server_that_breaks_off_again_and_again_is_an_error(server: FileServer, folder: Path) -> None:
    server.cuts["clip.mp4"] = [(folder / "clip.mp4").stat().st_size // 2] * 100
    with (
        open_source(f"{server.url}/clip.mp4", options=SourceOptions(stall_timeout_s=1.0)) as source,
        pytest.raises(
            SourceError, match="(broke off|sent nothing|gave no picture).*; check the server and the network"
        ),
    ):
        list(source)


Damage = Callable[[FileServer, Path, str], None]


def cut(server: FileServer, folder: Path, name: str) -> None:
    server.cuts[name] = [(folder / name).stat().st_size // 2]


def refuse(server: FileServer, folder: Path, name: str) -> None:
    server.refused[name] = [404] * 10


@pytest.mark.parametrize("damage", [cut, refuse])
@pytest.mark.parametrize("part", ["list2.ts", "list5.ts", "fmp42.m4s", "fmp45.m4s"])
def test_a_part_of_a_playlist_that_cannot_be_read_is_an_error(
    server: FileServer, folder: Path, part: str, damage: Damage
) -> None:
    damage(server, folder, part)
    with (
        open_source(f"{server.url}/{part[:4]}.m3u8", options=PATIENT) as source,
        pytest.raises(SourceError, match=r"lacks \d\.\d s of its pictures"),
    ):
        list(source)


def test_a_part_that_is_refused_once_is_read_again(server: FileServer) -> None:
    server.refused["list2.ts"] = [503]
    with open_source(f"{server.url}/list.m3u8", options=PATIENT) as source:
        assert numbers_of(source) == list(range(FRAMES))


def test_an_index_at_the_end_needs_byte_ranges(server: FileServer) -> None:
    server.ranges = False
    with pytest.raises(SourceError, match=r"index \(the moov box\) at the end, and the server can't seek"):
        open_source(f"{server.url}/last.mp4", options=PATIENT)


def test_a_dash_manifest_is_named(server: FileServer, folder: Path) -> None:
    (folder / "dash.mpd").write_text('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>')
    with pytest.raises(SourceError, match="is a DASH manifest"):
        open_source(f"{server.url}/dash.mpd", options=PATIENT)


@pytest.mark.parametrize("interval_s", [0.04, 1.0])
@pytest.mark.parametrize(
    ("lost", "leap_s", "missing"),
    [((), 0.0, 0), (range(50, 75), 0.0, 25), (range(50, 52), 0.0, 0), ((), 3600.0, 0), ((), -70.0, 0)],
)
def test_what_pictures_cover(interval_s: float, lost: range, leap_s: float, missing: int) -> None:
    coverage = Coverage()
    for number in range(200):
        if number not in lost:
            coverage.add(10.0 + number * interval_s + (leap_s if number >= 120 else 0.0))
    length_s = 200 * interval_s
    assert coverage.missing_s(length_s) == pytest.approx(missing * interval_s)


def test_pictures_at_irregular_times_lack_nothing() -> None:
    coverage, stamp_s = Coverage(), 0.0
    for number in range(100):
        stamp_s += (0.04, 0.4, 0.1, 2.0)[number % 4]
        coverage.add(stamp_s)
    assert coverage.missing_s(stamp_s) == 0.0


def test_a_file_that_is_reached_late_loses_nothing(server: FileServer) -> None:
    server.refused["clip.mp4"] = [503, 503]
    source = open_source(f"{server.url}/clip.mp4", options=PATIENT, wait=False)
    with pytest.raises(SourceError, match="5XX"):
        source.wait_ready()
    assert source.info.live  # as far as is known
    sink = MemorySink()
    plan = StreamSpec(source, [("m", sink)])
    assert plan.overflow_policy is OverflowPolicy.DROP_OLDEST
    Pipeline([plan], SlowDetector(during=slow_at_first)).run()
    assert sink.indices == list(range(FRAMES))
