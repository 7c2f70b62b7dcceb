#!/usr/bin/env bash
# One would expect FFmpeg's MP4 muxer to turn ADTS AAC (MPEG-TS, HLS) into what MP4 holds by itself, as it does for ordinary files. For fragmented files, which play after a crash, it refuses the sound ("Operation not permitted").
# A recorder that writes fragments has to use the bitstream filter aac_adtstoasc itself. The refusal comes once packets that were held back are written, so it can be a call that writes a picture that fails for the sake of the sound.
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

made = io.BytesIO()
with av.open(made, "w", format="mpegts") as clip:
    tone = clip.add_stream("aac", rate=48000, layout="mono")
    for start in range(0, 48000, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        clip.mux(tone.encode(frame))
    clip.mux(tone.encode(None))


def copied(movflags):
    options = {"movflags": movflags, "max_interleave_delta": "500000"} if movflags else {}
    with av.open(io.BytesIO(made.getvalue())) as source:
        target = av.open(io.BytesIO(), "w", format="mp4", container_options=options)
        video = target.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = target.add_stream_from_template(source.streams.audio[0])
        try:
            for packet in source.demux(audio=0):
                if packet.pts is not None:
                    packet.stream = audio
                    target.mux(packet)
            for number in range(50):
                picture = av.VideoFrame(64, 48, "yuv420p")
                picture.pts = number
                target.mux(video.encode(picture))
            target.mux(video.encode(None))
            target.close()
        except av.FFmpegError as error:
            return type(error).__name__
        return "taken"


found = {flags: copied(flags) for flags in ("", "+frag_keyframe+empty_moov", "+frag_keyframe+delay_moov")}
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: {found}")
sys.exit(list(found.values()) != ["taken", "PermissionError", "PermissionError"])
PY
