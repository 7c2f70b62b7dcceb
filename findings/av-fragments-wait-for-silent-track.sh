#!/usr/bin/env bash
# One would expect a fragmented MP4 of FFmpeg (a fragment a second, flushed at once) to reach the disk while it is written, whatever one of its tracks does. With delay_moov, which edit lists of AAC need, nothing is written while any track has no packet yet: a camera that announces sound and sends none gives a file of 0 bytes until it is closed, and all pictures stay in memory.
# A recorder that is to lose little when it is killed has to write silence into a track that stays empty; max_interleave_delta doesn't help, as the packets do reach the muxer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "av==18.1.0" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import io
import sys
from fractions import Fraction

import av
import numpy as np


def written(movflags, sound):
    """Returns how many bytes of ten seconds of pictures are in the file before it is closed."""
    made = io.BytesIO()
    options = {
        "movflags": movflags,
        "frag_duration": "1000000",
        "flush_packets": "1",
        "max_interleave_delta": "500000",
    }
    target = av.open(made, "w", format="mp4", container_options=options)
    video = target.add_stream("mpeg4", rate=25)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    if sound != "no track":
        audio = target.add_stream("aac", rate=8000, layout="mono")
    for number in range(250):
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="bgr24")
        picture.pts = number
        target.mux(video.encode(picture))
        if sound == "silence" and number % 3 == 0:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, number // 3 * 960, Fraction(1, 8000)
            target.mux(audio.encode(frame))
    return len(made.getvalue())


print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
found = {
    (flags, sound): written(flags, sound)
    for flags in ("+frag_keyframe+delay_moov", "+frag_keyframe+empty_moov")
    for sound in ("no track", "silence", "a track without packets")
}
for (flags, sound), count in found.items():
    print(f"{flags}, sound: {sound}: {count} bytes of ten seconds are written")
stuck = [key for key, count in found.items() if count == 0]
if stuck != [("+frag_keyframe+delay_moov", "a track without packets")]:
    sys.exit("the behaviour has changed")
PY
