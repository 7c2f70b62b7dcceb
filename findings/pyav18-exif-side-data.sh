#!/usr/bin/env bash
# One would expect a decoded frame's side_data to be a mapping that can be asked for the display matrix, whatever else the frame carries. PyAV 18.1 raises ValueError ("31 is not a valid Type") on any access where FFmpeg 8.1 has attached the picture's EXIF, since its enumeration ends before that type; frame.rotation still works.
# So Motion-JPEG of cameras that write EXIF, and WebP and JPEG pictures, fail in code that looks for rotation; PyAV 19 is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import io
import struct
import sys
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type

context = av.CodecContext.create("mjpeg", "w")
context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "yuvj420p", Fraction(1, 25)
frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24").reformat(format="yuvj420p")
frame.pts = 0
jpeg = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
# APP1 with one TIFF directory entry: tag 0x0112, orientation 6 (turn to the right)
exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
    decoded = next(container.decode(video=0))
try:
    seen = f"has a display matrix: {Type.DISPLAYMATRIX in decoded.side_data}"
except ValueError as error:
    seen = f"ValueError: {error}"
codec = ".".join(map(str, av.library_versions["libavcodec"]))
print(f"PyAV {av.__version__}, libavcodec {codec}: side_data {seen}; rotation {decoded.rotation}")
wanted = "ValueError: 31 is not a valid Type" if av.__version__.startswith("18.") else "has a display matrix: True"
if (seen, decoded.rotation) != (wanted, -90):
    sys.exit("CHANGED")
PY
versions="18.1.0"
if python3 -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then versions="$versions 19.0.2"; fi  # it wants 3.12
for version in $versions; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install -q --disable-pip-version-check "av==$version" "numpy==2.4.6"
    "$work/$version/bin/python" "$work/try.py"
done
echo "as described"
