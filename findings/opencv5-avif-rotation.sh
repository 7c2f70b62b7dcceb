#!/usr/bin/env bash
# One would expect cv2.imdecode(IMREAD_COLOR) to turn an AVIF as it turns a JPEG with EXIF orientation. OpenCV 5.0 leaves the AVIF's own rotation (irot, which is mandatory to apply by the HEIF standard) undone and says nothing, while FFmpeg hands it over as a display matrix.
# A portrait AVIF of a phone is so detected lying on its side: the box has to be read and applied by the caller.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "opencv-python-headless==5.0.0.93" "av==18.1.0" "pillow==13.0.0" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import io
import struct
import sys

import av
import cv2
import numpy as np
import PIL
from PIL import Image

picture = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
orientation = Image.Exif()
orientation[0x0112] = 6  # turn to the right: Pillow writes it as irot
file = io.BytesIO()
picture.save(file, format="AVIF", exif=orientation)
avif = file.getvalue()
file = io.BytesIO()
picture.save(file, format="JPEG")
exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
jpeg = file.getvalue()
jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def size_wh(content):
    height, width = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    return width, height


with av.open(io.BytesIO(avif)) as container:
    rotation = next(container.decode(video=0)).rotation
print("OpenCV", cv2.__version__, "PyAV", av.__version__, "Pillow", PIL.__version__)
print("64x48, to be turned to the right; irot in the file:", b"irot" in avif)
print("OpenCV gives the JPEG as", size_wh(jpeg), "and the AVIF as", size_wh(avif), "; FFmpeg's rotation:", rotation)
if (b"irot" in avif, size_wh(jpeg), size_wh(avif), rotation) != (True, (48, 64), (64, 48), -90):
    sys.exit("CHANGED")
print("as described")
PY
