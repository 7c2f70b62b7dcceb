"""The choice of an encoder: what is asked for, what works here, and what is written with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2  # noqa: F401 - before PyAV
import av
import numpy as np
import pytest

from streamer.common.errors import SinkError
from streamer.sinks.options import Encoding, parse_encoder
from streamer.sinks.video import encoders
from streamer.sinks.video.encoders import Encoder, choose_encoder, list_encoders, problem_of
from streamer.sinks.video.sink import VideoSink
from tests.recordings import as_planes, even, frames, info, read, write

SIZE_WH = (96, 64)
needs_h265 = pytest.mark.skipif("libx265" not in av.codecs_available, reason="this FFmpeg has no libx265")


@pytest.fixture
def nvenc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An NVENC that is there, whatever this machine has; what it returns is up to the test."""
    monkeypatch.setattr(av, "codecs_available", {*av.codecs_available, "h264_nvenc", "hevc_nvenc"})
    encoders._try_hardware.cache_clear()
    yield
    encoders._try_hardware.cache_clear()


@pytest.mark.parametrize("planar", [False, True], ids=["bgr", "planes"])
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@needs_h265
def test_h265_keeps_pictures_and_times(ending: str, planar: bool, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    given = (as_planes(frame) if planar else frame for frame in frames(even(40)))
    write(path, info(), given, Encoding(encoder="h265"))
    numbers, times_s, duration_s = read(path)
    assert numbers == list(range(40))
    np.testing.assert_allclose(times_s, even(40), atol=1.1e-3)
    assert abs(duration_s - 40 / 30) < 0.004
    with av.open(str(path)) as opened:
        context = opened.streams.video[0].codec_context
        assert context.name == "hevc"
        assert ending == ".mkv" or context.codec_tag == "hvc1"  # Apple's players take no other


@needs_h265
def test_h265_has_a_key_frame_every_two_seconds(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", info(10.0), frames(even(45, 10.0)), Encoding(encoder="libx265"))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert [n for n, frame in enumerate(opened.decode(video=0)) if frame.key_frame] == [0, 20, 40]


@needs_h265
def test_h265_of_an_odd_size(tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", info(), frames(even(3), (97, 65)), Encoding(encoder="h265"))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert [(frame.width, frame.height) for frame in opened.decode(video=0)] == [(97, 65)] * 3


@needs_h265
def test_avi_holds_no_h265(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"AVI doesn't hold H.265; choose .mp4 or .mkv"):
        VideoSink(tmp_path / "out.avi", info(), encoding=Encoding(encoder="h265"))
    assert not list(tmp_path.iterdir())


def test_webm_holds_vp9_only(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"with h264: WebM holds VP9; choose .mp4 or .mkv, or --encoder auto"):
        VideoSink(tmp_path / "out.webm", info(), encoding=Encoding(encoder="h264"))


def test_a_named_encoder_that_is_not_there_is_an_error_before_a_file_is_made(tmp_path: Path) -> None:
    name = next(name for name in ("h264_vaapi", "h264_videotoolbox") if name not in av.codecs_available)
    with pytest.raises(SinkError, match=f"can't encode with {name}: this build of PyAV doesn't have it"):
        VideoSink(tmp_path / "out.mp4", info(), encoding=Encoding(encoder=name))
    assert not list(tmp_path.iterdir())


def test_without_hardware_auto_is_software(monkeypatch: pytest.MonkeyPatch) -> None:
    software = {name for name in av.codecs_available if not name.startswith(("h264_", "hevc_"))}
    monkeypatch.setattr(av, "codecs_available", software)
    assert choose_encoder("auto", SIZE_WH).name == "libx264"
    monkeypatch.setattr(av, "codecs_available", software - {"libx264", "libx265"})
    assert choose_encoder("auto", SIZE_WH).name == "mpeg4"
    with pytest.raises(SinkError, match="can't encode h265: this FFmpeg has no encoder for it"):
        choose_encoder("h265", SIZE_WH)


def test_hardware_that_encodes_is_preferred(nvenc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_opened", lambda encoder, size_wh: encoder)
    monkeypatch.setattr(encoders, "_decoded", lambda encoder, given: given)
    assert choose_encoder("auto", SIZE_WH).name == "h264_nvenc"
    assert choose_encoder("h265", SIZE_WH).name == "hevc_nvenc"
    assert choose_encoder("libx264", SIZE_WH).name == "libx264"
    assert choose_encoder("auto", (97, 64)).name == "libx264"  # no hardware takes odd sizes


def fails(encoder: Encoder, given: list[np.ndarray]) -> list[np.ndarray]:
    raise av.FFmpegError(1, "no session is left")


@pytest.mark.parametrize(
    ("decoded", "says"),
    [
        (fails, r"it can't be opened here \(no session is left\)"),
        (lambda encoder, given: given[1:], "it returned 4 of 5 pictures"),
        (lambda encoder, given: [255 - picture for picture in given], "the pictures that it returned are wrong"),
    ],
)
def test_hardware_that_only_claims_to_encode_is_not_used(
    decoded: object, says: str, nvenc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "_opened", lambda encoder, size_wh: encoder)
    monkeypatch.setattr(encoders, "_decoded", decoded)
    monkeypatch.setattr(av, "codecs_available", {"h264_nvenc", "libx264"})
    assert choose_encoder("auto", SIZE_WH).name == "libx264"
    with pytest.raises(SinkError, match=says):
        choose_encoder("h264_nvenc", SIZE_WH)


@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_the_trial_finds_an_encoder_that_works_to_work(name: str) -> None:
    if name not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {name}")
    assert encoders._try_hardware.__wrapped__(Encoder(name), (322, 240)) is None


def test_the_list_says_what_works_here() -> None:
    lines = list_encoders()
    assert len(lines) == 14
    for line in lines:
        name, _, says = line.partition(" ")
        assert says.endswith(": works") == (problem_of(Encoder(name)) is None)
        assert parse_encoder(name) == name
    assert any(line.split() == ["libx264", "H.264,", "software:", "works"] for line in lines)


def test_names_of_encoders() -> None:
    assert [parse_encoder(text) for text in ("AUTO", " hevc", "x264", "h264_qsv")] == [
        *("auto", "h265", "libx264", "h264_qsv")
    ]
    for wrong in ("", "mjpeg", "h264_nvencc"):
        with pytest.raises(ValueError, match="wanted auto, h264, h265 or a name of --list encoders"):
            parse_encoder(wrong)
