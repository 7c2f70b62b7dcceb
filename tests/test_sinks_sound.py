"""Sound of every kind into every container: there, in step, and never at the cost of a picture."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from streamer.sinks.video import audio_encoder
from streamer.sinks.video.audio import TimedPacket
from streamer.sinks.video.audio_encoder import has_unsafe_channels
from streamer.sinks.video.audio_remuxer import RemuxFormat
from streamer.sinks.video.sink import VideoSegmentsSink, VideoSink
from streamer.sources import open_source
from tests.media import number_of, write_clip
from tests.recordings import ENDINGS, NOTHING

FPS = 30


def record(source: Path, to: Path, length_s: float | None = None) -> list[Path]:
    """Records a file as the program does; returns what was written."""
    with open_source(str(source)) as opened:
        sink = VideoSink(to, opened.info) if length_s is None else VideoSegmentsSink(to, opened.info, length_s)
        with sink:
            for frame in opened:
                sink.write(frame, NOTHING)
        return list(sink.written)


def pictures(path: Path) -> list[int]:
    with av.open(str(path)) as opened:
        return [number_of(np.asarray(f.to_ndarray(format="bgr24"), np.uint8)) for f in opened.decode(video=0)]


def heard(path: Path) -> tuple[str | None, list[float]]:
    """Returns the codec of a file's sound, and when a player hears it begin and end, pause by pause."""
    loud: list[tuple[float, float]] = []
    with av.open(str(path)) as opened:
        if not opened.streams.audio:
            return None, []
        stream = opened.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono", stream.codec_context.sample_rate)
        for frame in opened.decode(stream):
            time_s, frame.pts = frame.time, None
            wave = np.concatenate([part.to_ndarray()[0] for part in resampler.resample(frame)])
            for at in range(0, len(wave), 128):
                if np.abs(wave[at : at + 128]).max() > 0.05:
                    loud.append((time_s + at / frame.sample_rate, time_s + (at + 128) / frame.sample_rate))
    edges = [loud[0][0], loud[-1][1]]
    for (_, end_s), (begin_s, _) in itertools.pairwise(loud):
        if begin_s - end_s > 0.2:
            edges += [end_s, begin_s]
    return stream.codec_context.name, sorted(edges)


def pitch_hz(path: Path, begin_s: float) -> float:
    """Returns the loudest frequency in half a second of a file's sound."""
    with av.open(str(path)) as opened:
        stream = opened.streams.audio[0]
        rate = stream.codec_context.sample_rate
        waves = [frame.to_ndarray()[0] for frame in opened.decode(stream) if begin_s <= frame.time < begin_s + 0.5]
    spectrum = np.abs(np.fft.rfft(np.concatenate(waves).astype(float)))
    return float(spectrum.argmax() * rate / sum(wave.size for wave in waves))


NOT_WEBM = tuple(ending for ending in ENDINGS if ending != ".webm")

# codec, sampling rate, the container it comes in, and where it is copied as it is
CODECS = [
    ("aac", 48_000, ".ts", NOT_WEBM),
    ("aac", 44_100, ".mkv", NOT_WEBM),
    ("pcm_alaw", 8_000, ".mov", (".mov", ".mkv", ".avi")),
    ("pcm_mulaw", 8_000, ".nut", (".mov", ".mkv", ".avi")),
    ("g722", 16_000, ".nut", (".mkv", ".avi")),
    ("adpcm_ima_wav", 22_050, ".avi", (".mkv", ".avi")),
    ("adpcm_ms", 22_050, ".avi", (".mkv", ".avi")),
    ("pcm_s16le", 44_100, ".mkv", (".mov", ".mkv", ".avi")),
    ("pcm_s16be", 44_100, ".mov", (".mov", ".mkv")),
    ("pcm_s24le", 48_000, ".mkv", (".mov", ".mkv", ".avi")),
    ("pcm_f32le", 48_000, ".mkv", (".mov", ".mkv", ".avi")),
    ("libmp3lame", 44_100, ".ts", NOT_WEBM),
    ("mp2", 48_000, ".ts", NOT_WEBM),
    ("ac3", 48_000, ".ts", NOT_WEBM),
    ("eac3", 48_000, ".ts", (".mp4", ".mov", ".mkv", ".ts")),
    ("libopus", 48_000, ".mkv", (".mp4", ".mkv", ".webm", ".ts")),
    ("flac", 44_100, ".mkv", (".mp4", ".mkv", ".avi")),
    ("alac", 44_100, ".mov", (".mp4", ".mov", ".mkv")),
]


@pytest.mark.parametrize(("codec", "rate", "comes_in", "copied_into"), CODECS, ids=[f"{c[0]}{c[2]}" for c in CODECS])
def test_sound_of_every_codec_goes_into_every_container(
    codec: str, rate: int, comes_in: str, copied_into: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_clip(
        tmp_path / f"in{comes_in}", frames=60, with_audio=True, audio_codec=codec, audio_rate=rate, audio_s=2.0
    )
    with av.open(str(source)) as opened:
        own = opened.streams.audio[0].codec_context.name
    for ending in ENDINGS:
        (out,) = record(source, tmp_path / f"out{ending}")
        assert pictures(out) == list(range(60)), ending
        name, (begins_s, ends_s) = heard(out)
        if ending in copied_into:
            assert {name, own} <= {own, "mp3float"}, ending
        else:
            assert name == ("opus" if ending == ".webm" else "aac"), ending
        assert abs(begins_s) < 0.06, ending
        assert abs(ends_s - 2.0) < 0.12, ending
    assert not [message for message in caplog.messages if "sound" in message]


@pytest.mark.parametrize("channels", ["7.1", "7.1(wide)", "6.1", "quad", "16"])
def test_sound_of_many_channels_is_kept(channels: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip, source = write_clip(tmp_path / "in.mp4", frames=30), tmp_path / "in.mkv"
    layout = av.AudioLayout("hexadecagonal" if channels == "16" else channels)
    wave = (np.sin(np.arange(48_000) * 440 * 2 * np.pi / 48_000) * 8_000).astype(np.int16)
    with av.open(str(clip)) as pictured, av.open(str(source), "w") as opened:
        video = opened.add_stream_from_template(pictured.streams.video[0])
        audio = opened.add_stream("pcm_s16le", rate=48_000, layout=layout.name)
        samples = np.repeat(wave, layout.nb_channels)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout.name)
        frame.sample_rate, frame.pts = 48_000, 0
        opened.mux([*audio.encode(frame), *audio.encode(None)])
        for packet in pictured.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                opened.mux(packet)
    for ending in ENDINGS:
        (out,) = record(source, tmp_path / f"out{ending}")
        assert pictures(out) == list(range(30)), ending
        assert heard(out)[1] == pytest.approx([0, 1], abs=0.12), ending
    assert not [message for message in caplog.messages if "sound" in message]


def join(parts: list[Path], to: Path) -> Path:
    to.write_bytes(b"".join(part.read_bytes() for part in parts))
    return to


@pytest.mark.parametrize("ending", ENDINGS)
def test_audio_continues_where_time_stamps_start_over(ending: str, tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.ts", frames=60, with_audio=True, tones_s=[(0.5, 1.5)])
    (out,) = record(join([part] * 3, tmp_path / "in.ts"), tmp_path / f"out{ending}")
    assert pictures(out) == list(range(60)) * 3
    np.testing.assert_allclose(heard(out)[1], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5], atol=0.1)


@pytest.mark.parametrize(("size", "is_safe"), [(2 * 1024 * 6, True), (2 * 1024 * 7, False), (2 * 1024 * 8, False)])
def test_the_number_of_channels_is_derived_from_a_packets_size(
    size: int, is_safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace(name="pcm_s16be", sample_rate=48_000)
    stream: Any = SimpleNamespace(
        codec_context=context, container=SimpleNamespace(format=SimpleNamespace(name="mov,mp4"))
    )
    packet: Any = SimpleNamespace(size=size, duration=1024, time_base=Fraction(1, 48_000))
    timed = [TimedPacket(packet, Fraction(0))]
    monkeypatch.setattr(audio_encoder, "PYAV_MAJOR", 18)
    assert has_unsafe_channels(stream, timed) is not is_safe
    assert not has_unsafe_channels(stream, [])
    monkeypatch.setattr(audio_encoder, "PYAV_MAJOR", 19)
    assert not has_unsafe_channels(stream, timed)


def test_audio_with_an_unsafe_channel_layout_is_left_out_and_costs_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_clip(tmp_path / "in.mov", frames=10, with_audio=True, audio_codec="pcm_s16be")
    monkeypatch.setattr("streamer.sinks.video.audio_track.has_unsafe_channels", lambda stream, packets: True)
    (out,) = record(source, tmp_path / "out.mp4")
    assert pictures(out) == list(range(10))
    assert "order of channels can't be read safely" in caplog.text
    with av.open(str(out)) as written:
        assert not written.streams.audio


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_time_stamps_that_jump_back_leave_no_gap(ending: str, tmp_path: Path) -> None:
    late = {"output_ts_offset": "5000"}
    tones_s = [(0.5, 1.5)]
    one = write_clip(tmp_path / "one.ts", frames=60, with_audio=True, tones_s=tones_s, container_options=late)
    two = write_clip(tmp_path / "two.ts", frames=60, with_audio=True, tones_s=tones_s)
    (out,) = record(join([one, two], tmp_path / "in.ts"), tmp_path / f"out{ending}")
    assert pictures(out) == list(range(60)) * 2
    np.testing.assert_allclose(heard(out)[1], [0.5, 1.5, 2.5, 3.5], atol=0.1)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_time_stamps_that_wrap_around_continue(ending: str, tmp_path: Path) -> None:
    late = {"output_ts_offset": "95442"}  # 33 bits of 90 kHz end at 95,443.7 s
    tones_s = [(0.5, 1.2), (2.0, 2.8)]
    source = write_clip(
        tmp_path / "in.ts", frames=90, with_audio=True, audio_s=3.0, tones_s=tones_s, container_options=late
    )
    (out,) = record(source, tmp_path / f"out{ending}")
    assert pictures(out) == list(range(90))
    np.testing.assert_allclose(heard(out)[1], [0.5, 1.2, 2.0, 2.8], atol=0.1)


@pytest.mark.parametrize("ending", ENDINGS)
def test_audio_is_transcoded_after_its_sampling_rate_changes(ending: str, tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", frames=60, with_audio=True, tones_s=[(0.0, 1.5)])
    two = write_clip(tmp_path / "two.ts", frames=60, with_audio=True, tones_s=[(0.5, 1.5)], audio_rate=44_100)
    (out,) = record(join([one, two], tmp_path / "in.ts"), tmp_path / f"out{ending}")
    assert pictures(out) == list(range(60)) * 2
    np.testing.assert_allclose(heard(out)[1], [0.0, 1.5, 2.5, 3.5], atol=0.1)
    assert [pitch_hz(out, begin_s) for begin_s in (0.5, 2.7)] == pytest.approx([440, 440], abs=5)


@pytest.mark.parametrize("codec", ["aac", "flac"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_sound_that_begins_late_and_pauses_stays_in_step(ending: str, codec: str, tmp_path: Path) -> None:
    tones_s = [(1.0, 2.0)] if codec == "flac" else [(1.0, 2.0), (3.0, 3.5)]
    clip = write_clip(tmp_path / "in.mkv", frames=120, with_audio=True, audio_codec=codec, tones_s=tones_s)
    (out,) = record(clip, tmp_path / f"out{ending}")
    assert pictures(out) == list(range(120))
    np.testing.assert_allclose(heard(out)[1], [time_s for tone_s in tones_s for time_s in tone_s], atol=0.12)


@pytest.mark.parametrize("ending", ENDINGS)
def test_sound_before_the_first_picture_that_can_be_decoded_is_left_out(ending: str, tmp_path: Path) -> None:
    part = write_clip(
        tmp_path / "part.ts", frames=90, with_audio=True, tones_s=[(0.5, 1.5)], codec_options={"g": "30", "bf": "0"}
    )
    content = part.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(content[: 188 * 3] + content[188 * 6 :])  # the tables, and then the rest of a key frame
    (out,) = record(cut, tmp_path / f"out{ending}")
    first = pictures(out)[0]
    assert first > 0, "pictures begin with a later one"
    np.testing.assert_allclose(heard(out)[1], [max(0.0, 0.5 - first / 30), 1.5 - first / 30], atol=0.12)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_sound_that_is_refused_behind_pictures_costs_none_of_them(
    ending: str, at_the_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FFmpeg holds sound back to put it between the pictures, and refuses it when it is given a picture."""
    as_it_is = RemuxFormat(None, None)  # ADTS headers stay, which MP4 refuses
    monkeypatch.setattr("streamer.sinks.video.audio_track.probe_remux", lambda *_: as_it_is)
    tones_s = [(1.9, 2.0)] if at_the_end else [(0.0, 2.0)]
    source = write_clip(tmp_path / "in.ts", frames=60, with_audio=True, tones_s=tones_s)
    (out,) = record(source, tmp_path / f"out{ending}")
    assert pictures(out) == list(range(60))
    assert len([message for message in caplog.messages if "the sound of" in message]) == 1


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_no_sound_at_the_beginning_of_a_segment_is_skipped_as_a_lead_in(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=60, with_audio=True)
    files = record(clip, tmp_path / f"out{ending}", 0.7)
    assert len(files) == 3
    assert max(heard(file)[1][0] for file in files) < 0.025, "a packet lasts 0.021 s"


@pytest.mark.parametrize("ending", ENDINGS)
def test_sound_on_both_sides_of_a_long_outage(ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gap_s = 15 * 3600.0
    times_s = [index / 30 + begin_s for begin_s in (0.0, gap_s) for index in range(30)]
    clip = write_clip(tmp_path / "in.mkv", times_s=times_s, with_audio=True, tones_s=[(0.0, 1.0), (gap_s, gap_s + 1.0)])
    (out,) = record(clip, tmp_path / f"out{ending}")
    assert list(dict.fromkeys(pictures(out))) == list(range(60))
    ends = heard(out)[1]
    if ending == ".avi":  # it can't say that sound pauses
        assert [m for m in caplog.messages if "the sound of" in m and "it pauses for 539" in m]
        assert ends == pytest.approx([0.0, 1.0], abs=0.1)
    else:
        assert ends[-2:] == pytest.approx([gap_s, gap_s + 1], abs=0.1)
