"""The clip that everything is measured on: real footage scaled to 1280x720, as long as a run needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.video.frame import PictureType

from streamer.common.errors import ConfigError

SIZE_WH = (1280, 720)
FPS = 25
ENCODING = {"preset": "medium", "crf": "23"}

_ROOT = Path(__file__).resolve().parent.parent
_SHARED_CLIPS = _ROOT.parent / "shared" / "clips"
_SAMPLE = _ROOT / "streamer" / "data" / "sample.mp4"


def find_footage(folder: Path = _SHARED_CLIPS, *, smoke: bool) -> list[Path]:
    """Returns the clips of a folder; for a smoke run without any, the packaged sample.

    Raises:
        ConfigError: if there is nothing to measure on.
    """
    footage = sorted(folder.glob("*.mp4"))
    if not footage and smoke:
        footage = [_SAMPLE]
    if not footage:
        raise ConfigError("there are no clips in ../shared/clips; name real footage with --clip FILE, or use --smoke")
    return footage


def write_clip(
    footage: Sequence[Path],
    target: Path,
    frames: int,
    *,
    first: int = 0,
    size_wh: tuple[int, int] = SIZE_WH,
    encoding: Mapping[str, str] = ENCODING,
) -> int:
    """Encodes `frames` pictures of `footage`, one clip after another and over again, as one H.264 file.

    Args:
        footage: the clips to take pictures from, at least one.
        target: the file to write: at `FPS`, x264.
        frames: how many pictures.
        first: how many pictures of the footage to leave out at its beginning.
        size_wh: of the pictures.
        encoding: x264's options.

    Returns:
        How many different pictures are among them: fewer than `frames` where the footage was looped.

    Raises:
        ConfigError: if a clip can't be read.
    """
    seen: set[tuple[Path, int]] = set()
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options=dict(encoding))
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        for index, (path, number, picture) in enumerate(islice(_pictures(footage), first, first + frames)):
            seen.add((path, number))
            scaled = picture.reformat(*size_wh, format="yuv420p", interpolation="BICUBIC")
            scaled.pts, scaled.time_base = index, Fraction(1, FPS)
            scaled.pict_type = PictureType.NONE  # the encoder, not the footage, chooses the key frames
            output.mux(stream.encode(scaled))
        output.mux(stream.encode(None))
    return len(seen)


def repeat_clip(clip: Path, target: Path, times: int) -> None:
    """Writes a clip's packets `times` times over into one file, without decoding them.

    Args:
        clip: a file of `write_clip`: constant rate, beginning with a key frame.
        target: the file to write.
        times: how often.
    """
    with av.open(str(target), "w") as output:
        stream = None
        offset = 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                for packet in source.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue  # the empty packet that ends the demuxing
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    output.mux(packet)
                assert video.average_rate is not None and video.time_base is not None
                offset += round(video.frames / (video.average_rate * video.time_base))


def count_frames(video: Path) -> int:
    """Returns how many pictures a video file holds, each counted once by its own time."""
    with av.open(str(video)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    return len(set(times))


def _pictures(footage: Sequence[Path]) -> Iterator[tuple[Path, int, av.VideoFrame]]:
    """Yields (file, number in it, picture), without end."""
    while True:
        for path in footage:
            try:
                with av.open(str(path)) as container:
                    for number, picture in enumerate(container.decode(video=0)):
                        yield path, number, picture
            except (av.FFmpegError, IndexError) as error:  # IndexError: no video in it
                raise ConfigError(f"can't read the footage {str(path)!r}: {error}") from error
