#!/usr/bin/env bash
# One would expect cv2.imread(file) and cv2.imdecode(the file's bytes) to agree. Of a JPEG that lacks its end, imread gives a whole picture whose lower part is invented, with a line on standard error; imdecode of the same bytes gives None, also where only the last two bytes are missing.
# A training set with half-copied pictures so trains on grey with imread, and a camera's cut pictures vanish with imdecode: which of the two a tool calls decides what its users see. Pictures are read by imdecode here, and named.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "opencv-python-headless==5.0.0.93" "numpy==2.4.6"
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np

small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
picture = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
whole = cv2.imencode(".jpg", picture)[1].tobytes()
file = Path(sys.argv[1]) / "cut.jpg"
seen = []
for name, content in (("whole", whole), ("without its end marker", whole[:-2]), ("first half", whole[: len(whole) // 2])):
    file.write_bytes(content)
    of_file, of_bytes = cv2.imread(str(file)), cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    flat = of_file is not None and bool(np.ptp(of_file[-100:].reshape(-1, 3), axis=0).max() == 0)
    seen.append((of_file is not None, of_bytes is not None, flat))
    print(f"OpenCV {cv2.__version__}, {name}: imread gives a picture: {seen[-1][0]} (its last 100 rows of one colour:"
          f" {flat}), imdecode: {seen[-1][1]}")
if seen != [(True, True, False), (True, False, False), (True, False, True)]:
    sys.exit("CHANGED")
print("as described")
PY
