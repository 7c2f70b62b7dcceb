#!/usr/bin/env bash
# One would expect the pixel aspect that is set on PyAV's encoder to reach the file, as it does in MP4, AVI and, with H.264, in Matroska. With VP9 and AV1 it is silently lost in WebM and Matroska: FFmpeg's muxer takes it from the stream, PyAV gives it to the codec's parameters alone, and these codecs' bit streams as encoded don't say it; `stream.sample_aspect_ratio = ...` raises nothing and changes nothing.
# A recorder that goes from H.264 in MP4 to VP9 in WebM shows anamorphic footage squeezed, without an error; it has to scale to square pixels itself.
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

WIDE = Fraction(16, 11)
EXPECTED = {
    ("libx264", "mp4"): WIDE,
    ("libx264", "matroska"): WIDE,
    ("libvpx-vp9", "mp4"): WIDE,
    ("libvpx-vp9", "matroska"): Fraction(1),
    ("libvpx-vp9", "webm"): Fraction(1),
    ("libsvtav1", "mp4"): WIDE,
    ("libsvtav1", "webm"): Fraction(1),
}


def written(codec, muxer):
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 352, 288, "yuv420p"
        stream.codec_context.sample_aspect_ratio = WIDE
        stream.sample_aspect_ratio = WIDE
        for number in range(5):
            picture = av.VideoFrame(352, 288, "yuv420p")
            picture.pts = number
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as read:
        return Fraction(read.streams.video[0].sample_aspect_ratio or 1)


print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
found = {pair: written(*pair) for pair in EXPECTED}
for (codec, muxer), aspect in found.items():
    print(f"{codec} in {muxer}: pixel aspect {aspect}, set {WIDE}")
sys.exit(found != EXPECTED)
PY
