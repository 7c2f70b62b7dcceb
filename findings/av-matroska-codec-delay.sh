#!/usr/bin/env bash
# One would expect AAC packets copied from an MP4 into Matroska to be heard from the first one on, whichever FFmpeg does it. Since FFmpeg 9 (PyAV 19) an MP4's edit list is read as the stream's initial padding, and copying the stream writes it as CodecDelay: players skip the first 21 ms, and the file's Duration is as much longer.
# A recorder that begins in mid-stream, as one in segments does, loses that much sound in every file unless it writes the packet before the beginning as a lead-in with a negative time; PyAV has no way to clear the padding.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/remux.py" <<'PY'
import io
import sys
from fractions import Fraction

import av
import numpy as np

made = io.BytesIO()
with av.open(made, "w", format="mp4") as clip:
    tone = clip.add_stream("aac", rate=48000, layout="mono")
    for start in range(0, 96000, 1024):
        wave = (0.3 * np.sin(0.05 * np.arange(start, start + 1024))).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        clip.mux(tone.encode(frame))
    clip.mux(tone.encode(None))
copied = io.BytesIO()
with av.open(io.BytesIO(made.getvalue())) as source, av.open(copied, "w", format="matroska") as target:
    audio = target.add_stream_from_template(source.streams.audio[0])
    for packet in source.demux(audio=0):
        if packet.pts is not None and packet.pts >= 48000:  # from one second on, as a second segment
            packet.pts = packet.dts = packet.pts - 48000
            packet.stream = audio
            target.mux(packet)
with av.open(io.BytesIO(copied.getvalue())) as written:
    first = next(packet for packet in written.demux(audio=0) if packet.pts is not None)
    skipped_s = float(written.streams.audio[0].start_time * written.streams.audio[0].time_base) - float(first.pts * first.time_base)
has_delay = b"\x56\xaa" in copied.getvalue()[:2000]
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: CodecDelay written {has_delay}, skipped {skipped_s:.3f} s")
sys.exit((has_delay, round(skipped_s, 3)) != ((True, 0.021) if sys.argv[1] == "19" else (False, 0.0)))
PY
for version in 18.1.0 19.0.2; do
    "${PYTHON:-python3}" -m venv "$work/$version"
    if ! "$work/$version/bin/pip" install -q --disable-pip-version-check "av==$version" "numpy==2.4.6"; then
        echo "SKIP: PyAV $version can't be installed here"
        continue
    fi
    "$work/$version/bin/python" "$work/remux.py" "${version%%.*}"
done
