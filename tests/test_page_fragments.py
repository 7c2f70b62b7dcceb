"""Packets as fragmented MP4: whole, at their times, and as soon as they come."""

from __future__ import annotations

import contextlib
import io
import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.common.queues import Closed
from streamer.frames.packets import MediaPacket, PacketFormat
from streamer.sources import SourceOptions, open_source
from streamer.web.fragments import DURATION_S, Fragment, Fragmenter
from streamer.web.parameter_sets import ParameterSets, UnplayableError, picture_of, units_of
from tests.media import number_of, write_clip
from tests.rtsp.film import CODECS, _frame, numbered_pictures

FPS = 30
ANNEX_B = PacketFormat("video", "h264", b"", (96, 64))
SOUND = PacketFormat("audio", "aac", b"", rate=8000, channels=1)


def packets_of(path: Path) -> list[MediaPacket]:
    with open_source(str(path), options=SourceOptions(kept_packets_s=60.0)) as source:
        for _ in source:
            pass
        assert source.info.packets is not None
        reader, found = source.info.packets.read_from(0.0), []
        with contextlib.suppress(Closed):
            while (packet := reader.read(0)) is not None:
                found.append(packet)
        return found


def annex_b(size_wh: tuple[int, int] = (96, 64), codec: str = "h264", begin: int = 0) -> list[MediaPacket]:
    """Returns packets as of a camera, parameter sets within."""
    about = replace(ANNEX_B, codec=CODECS[codec].name, size_wh=size_wh)
    if codec == "h264":
        coded = [(content, number % 10 == 0) for number, content in enumerate(numbered_pictures(size_wh, FPS))]
    else:
        encoder = CODECS[codec].open_encoder(size_wh, FPS, 10)
        coded = [
            (bytes(packet), packet.is_keyframe)
            for number in range(20)
            for packet in encoder.encode(_frame(number, size_wh, 0.0, number / FPS))
        ]
    times = ((begin + number) / FPS for number in itertools.count())
    return [
        MediaPacket(about, content, time_s, time_s, 0.0, is_key, 0.0)
        for (content, is_key), time_s in zip(coded, times, strict=False)
    ]


def fragments_of(packets: list[MediaPacket], fragmenter: Fragmenter | None = None) -> list[Fragment]:
    fragmenter = fragmenter or Fragmenter()
    return [fragment for packet in packets if (fragment := fragmenter.write(packet)) is not None]


def decoded(fragments: list[Fragment]) -> list[av.VideoFrame]:
    content = fragments[0].format.init + b"".join(fragment.data for fragment in fragments)
    with av.open(io.BytesIO(content)) as opened:
        return list(opened.decode(video=0))


def numbers(pictures: list[av.VideoFrame]) -> list[int]:
    return [number_of(np.asarray(each.to_ndarray(format="bgr24"), np.uint8)) for each in pictures]


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "b-adapt": "0"}], ids=["in order", "reordered"])
@pytest.mark.parametrize("ending", [".mp4", ".ts"], ids=["length-prefixed", "start codes"])
def test_pictures_and_times_of_a_file_are_its_own(tmp_path: Path, options: dict[str, str], ending: str) -> None:
    path = write_clip(tmp_path / f"clip{ending}", 30, codec_options=options)
    packets = packets_of(path)
    fragments = fragments_of(packets)
    assert len(fragments) == len(packets) == 30
    pictures = decoded(fragments)
    assert numbers(pictures) == list(range(30))
    origin_s = fragments[0].format.origin_s
    assert [each.time + origin_s for each in pictures] == pytest.approx(sorted(p.time_s for p in packets), abs=1e-4)
    assert [fragment.time_s for fragment in fragments] == [packet.time_s for packet in packets]
    with av.open(str(path)) as opened:
        assert [bytes(each.planes[0]) for each in opened.decode(video=0)] == [bytes(e.planes[0]) for e in pictures]


def test_parameter_sets_within_packets_become_the_init_segment() -> None:
    fragments = fragments_of(annex_b())
    assert numbers(decoded(fragments)) == list(range(30))
    assert {fragment.format for fragment in fragments} == {fragments[0].format}
    assert fragments[0].format.size_wh == (96, 64)
    assert fragments[0].format.mime == 'video/mp4; codecs="avc1.42C00A"'
    assert [fragment.is_key for fragment in fragments] == [number % 10 == 0 for number in range(30)]
    sets = ParameterSets.of_units("h264", units_of(annex_b()[0].data, None))
    assert not any(unit in fragments[10].data for unit in sets.sps)


def test_h265_is_described_by_its_parameter_sets() -> None:
    fragments = fragments_of(annex_b((160, 96), "h265"))
    assert len(decoded(fragments)) == 20
    assert fragments[0].format.codec == "hevc"
    assert fragments[0].format.codec_string == "hvc1.1.6.L30.90"
    assert fragments[0].format.size_wh == (160, 96)


def test_nothing_comes_before_a_key_frame_nor_of_sound() -> None:
    pictures = annex_b()
    fragmenter = Fragmenter()
    assert fragmenter.write(pictures[3]) is None
    assert fragmenter.write(MediaPacket(SOUND, b"x", 0.3, 0.3, 0.0, True, 0.0)) is None
    first = fragmenter.write(pictures[10])
    assert first is not None and first.format.origin_s == pictures[10].time_s


def test_a_key_frame_waits_for_parameter_sets() -> None:
    key, *rest = annex_b()
    unit = units_of(key.data, None)[-1]
    bare = replace(key, data=b"\x00\x00\x00\x01" + unit)
    assert len(fragments_of([bare, *rest])) == 20  # from the next key frame on


def test_a_new_size_is_a_new_format_and_a_new_connection_isnt() -> None:
    fragmenter = Fragmenter()
    first = fragments_of(annex_b(), fragmenter)
    again = fragments_of(annex_b(begin=30), fragmenter)
    assert again[0].format is first[0].format
    assert numbers(decoded([*first, *again])) == [*range(30), *range(30)]
    larger = fragments_of(annex_b((160, 96), begin=60), fragmenter)
    assert larger[0].format.size_wh == (160, 96) and larger[0].format.origin_s == pytest.approx(2.0)
    assert numbers(decoded(larger)) == list(range(30))
    other = fragments_of(annex_b((160, 96), "h265", begin=90), fragmenter)
    assert other[0].format.codec == "hevc" and len(decoded(other)) == 20


def test_a_size_may_change_within_a_connection() -> None:
    fragmenter = Fragmenter()
    fragments_of(annex_b(), fragmenter)
    changed = [replace(packet, format=ANNEX_B) for packet in annex_b((160, 96), begin=30)]
    assert fragments_of(changed, fragmenter)[0].format.size_wh == (160, 96)


def test_a_picture_says_that_it_lasts_long_enough_for_pauses() -> None:
    """Browsers drop pictures that come later than twice what the one before says."""
    packets = annex_b()[:2]
    content = fragments_of(packets)
    with av.open(io.BytesIO(content[0].format.init + content[0].data)) as opened:
        (packet,) = (each for each in opened.demux(video=0) if each.size)
        assert packet.duration * packet.time_base == Fraction(DURATION_S)


def test_times_of_decoding_increase() -> None:
    packets = [replace(packet, time_s=1.0, decode_time_s=1.0) for packet in annex_b()[:5]]
    fragments = fragments_of(packets)
    content = fragments[0].format.init + b"".join(fragment.data for fragment in fragments)
    with av.open(io.BytesIO(content)) as opened:
        assert [packet.dts for packet in opened.demux(video=0) if packet.size] == [0, 1, 2, 3, 4]


def test_pixels_that_are_not_square_are_said(tmp_path: Path) -> None:
    (first, *_) = fragments_of(packets_of(write_clip(tmp_path / "clip.mp4", 3, pixel_aspect=Fraction(4, 3))))
    with av.open(io.BytesIO(first.format.init + first.data)) as opened:
        assert opened.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "why"),
    [
        ("mpeg4", "yuv420p", "no browser plays mpeg4"),
        ("libx264", "yuv444p", "8-bit 4:2:0"),
        ("libx264", "yuv420p10le", "8-bit 4:2:0"),
    ],
)
def test_what_no_browser_plays_is_told(tmp_path: Path, codec: str, pix_fmt: str, why: str) -> None:
    packets = packets_of(write_clip(tmp_path / "clip.mp4", 3, codec=codec, pix_fmt=pix_fmt))
    with pytest.raises(UnplayableError, match=why):
        Fragmenter().write(packets[0])


@pytest.mark.parametrize("cut", range(1, 7))
def test_damaged_parameter_sets_are_told(cut: int) -> None:
    sets = ParameterSets.of_units("h264", units_of(annex_b()[0].data, None))
    damaged = replace(sets, sps=(sets.sps[0][:cut],))
    with pytest.raises(UnplayableError, match="can't be read"):
        picture_of(damaged)


def test_cropped_sizes_are_those_that_are_seen(tmp_path: Path) -> None:
    for size_wh in ((98, 66), (1920, 1080)):
        (first, *_) = fragments_of(packets_of(write_clip(tmp_path / "clip.mp4", 2, size_wh=size_wh)))
        assert first.format.size_wh == size_wh
