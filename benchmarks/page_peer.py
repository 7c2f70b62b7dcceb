"""A peer for ``benchmarks.live_page``: HLS as ffmpeg writes it of the same camera, without encoding.

Plain HLS offers a segment once it is whole, so a picture can be shown at the earliest when its segment is listed, and
the first picture of each is the oldest: a player that never stops is behind by at least that, mostly by three segments.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import cv2  # noqa: F401 - before PyAV, see `streamer.frames`
import av
import numpy as np

from benchmarks.page_camera import DueCamera
from benchmarks.program import Program
from streamer.common.errors import StreamerError
from tests.rtsp.code import read_code

_POLL_S = 0.005
_PATIENCE_S = 30.0


def measure_hls(camera: DueCamera, count: int) -> list[float] | None:
    """Returns the age of each segment's first picture when the playlist lists it, in seconds.

    None where ffmpeg isn't installed.

    Raises:
        StreamerError: if ffmpeg fails, or lists no segment in time.
    """
    if shutil.which("ffmpeg") is None:
        return None
    command = ["ffmpeg", "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", camera.url, "-c", "copy"]
    command += ["-f", "hls", "-hls_time", "1", "-hls_flags", "temp_file", "live.m3u8"]
    ages_s: list[float] = []
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, Program(command, Path(folder)) as program:
        playlist = Path(folder, "live.m3u8")
        deadline_s = time.monotonic() + _PATIENCE_S + 3 * count
        while len(ages_s) < count:
            program.cost()
            if time.monotonic() > deadline_s:
                raise StreamerError("ffmpeg lists no segment")
            at_s = time.monotonic()
            listed = playlist.read_text(encoding="utf-8").split() if playlist.exists() else []
            for name in listed:
                if name.endswith(".ts") and name not in seen:
                    seen.add(name)
                    ages_s.append(camera.age_s(_first_number(playlist.with_name(name)), at_s))
            time.sleep(_POLL_S)
    return ages_s


def _first_number(segment: Path) -> int:
    with av.open(str(segment)) as container:
        frame = next(container.decode(video=0))
    code = read_code(np.asarray(frame.to_ndarray(format="gray"), np.uint8))
    if code is None:
        raise StreamerError(f"the number of a picture of {segment.name} can't be read")
    return code.number
