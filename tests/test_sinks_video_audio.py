"""The sound beside the pictures of a video file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from streamer.sources.av_input import open_input
from tests.media import write_clip
from tests.recordings import ENDINGS, even, frames, info, read, write


def audio(path: Path) -> list[tuple[float, bytes]]:
    """Returns time and content of each audio packet."""
    with open_input(str(path)) as opened:
        return [(float(p.pts * p.time_base), bytes(p)) for p in opened.demux(audio=0) if p.pts is not None]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".avi"])
def test_the_sound_of_a_file_is_copied_in_step(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=60, with_audio=True)
    write(tmp_path / f"out{ending}", info(path=clip), frames(even(60)))
    wanted, got = audio(clip), audio(tmp_path / f"out{ending}")
    assert wanted[0][0] < 0, "the encoder's lead-in, which players are told to skip"
    if ending == ".avi" or (ending == ".mkv" and got[0][0] >= 0):  # FFmpeg tells Matroska's players since its version 9
        del wanted[0]
    assert [content for _, content in got] == [content for _, content in wanted]
    np.testing.assert_allclose([t for t, _ in got], [t for t, _ in wanted], atol=1.1e-3)
    assert read(tmp_path / f"out{ending}")[0] == list(range(60))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_sound_ends_where_the_run_was_cut(ending: str, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=90, with_audio=True)
    write(tmp_path / f"out{ending}", info(path=clip), frames(even(30)))
    assert 0.95 < audio(tmp_path / f"out{ending}")[-1][0] < (1.02 if ending == ".webm" else 1.0)  # Opus ends late


def test_the_sound_starts_with_the_first_picture_written(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=60, with_audio=True)
    write(tmp_path / "out.mp4", info(path=clip), frames([index / 30 for index in range(30, 60)]))
    got = audio(tmp_path / "out.mp4")
    assert 0.0 <= got[0][0] < 0.022
    later = [content for time_s, content in audio(clip) if time_s >= 1.0 - 1e-6]
    assert [content for _, content in got] == later


def test_sound_longer_than_the_pictures_is_kept_to_its_end(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", times_s=[0.0, 0.1, 0.2], with_audio=True)
    long = tmp_path / "long.mkv"
    lengthen_sound(clip, long)
    write(tmp_path / "out.mp4", info(10.0, long), frames([0.0, 0.1, 0.2]))
    assert audio(tmp_path / "out.mp4")[-1][0] == pytest.approx(audio(long)[-1][0], abs=2e-3)


def lengthen_sound(clip: Path, to: Path) -> None:
    """Copies a clip and repeats its sound once more after its end."""
    sound = audio(clip)
    with av.open(str(clip)) as opened, av.open(str(to), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in opened.streams}
        packets = [packet for packet in opened.demux() if packet.pts is not None]
        for again in (0, 1):
            for packet in packets:
                if again and packet.stream.type == "video":
                    continue
                shift = round(again * (sound[-1][0] + 0.03) / packet.time_base)
                copied = av.Packet(bytes(packet))
                copied.pts, copied.dts, copied.time_base = packet.pts + shift, packet.pts + shift, packet.time_base
                copied.stream = streams[packet.stream.index]
                output.mux(copied)


def test_sound_that_can_not_be_written_is_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"aac"})
    clip = write_clip(tmp_path / "clip.mkv", frames=6, with_audio=True, audio_codec="libopus")
    write(tmp_path / "out.avi", info(path=clip), frames(even(6)))
    assert [m for m in caplog.messages if "no sound" in m] == [
        f"no sound in {tmp_path / 'out.avi'}: the opus audio of {clip} can't be written (avi can't hold it)"
    ]
    assert read(tmp_path / "out.avi")[0] == list(range(6))


def test_a_source_without_audio_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    write(tmp_path / "out.mp4", info(path=clip), frames(even(3)))
    with av.open(str(tmp_path / "out.mp4")) as opened:
        assert len(opened.streams) == 1
    assert not caplog.records


def test_sound_of_no_known_codec_is_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6, with_audio=True)
    clip.write_bytes(clip.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    write(tmp_path / "out.mp4", info(path=clip), frames(even(6)))
    assert any("no sound: the audio of" in message for message in caplog.messages)
    assert read(tmp_path / "out.mp4")[0] == list(range(6))


def test_sound_beside_metadata_that_is_no_text_is_copied(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6, with_audio=True)
    clip.write_bytes(clip.read_bytes().replace(b"SoundHandler", b"\xff" * 12))
    write(tmp_path / "out.mp4", info(path=clip), frames(even(6)))
    assert [content for _, content in audio(tmp_path / "out.mp4")] == [content for _, content in audio(clip)]


def test_a_folder_of_pictures_has_no_audio_and_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "out.mp4", info(path=tmp_path), frames(even(3)))
    assert not caplog.records
