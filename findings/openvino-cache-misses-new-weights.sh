#!/usr/bin/env bash
# One would expect OpenVINO's model cache (CACHE_DIR) to notice that a model has changed. For an IR compiled by its path the key covers the .xml file, not the weights in the .bin beside it: after new weights of the same layout it silently computes with the old ones. Read with read_model first, the content is hashed, and the change is noticed.
# It matters where a network is trained again and exported over the old file: the detector would keep the old weights without a word. The program therefore keeps compiled models itself, under a hash of both files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "openvino==2026.4.1" "numpy==2.4.6"
"$work/venv/bin/python" - "$work" <<'PY'
import sys
import time
from pathlib import Path

sys.modules["openvino_telemetry"] = None  # it would report this script's import
import numpy as np
import openvino as ov
from openvino import opset13 as ops

print("openvino", ov.get_version())
work = Path(sys.argv[1])
ones = np.ones((1, 64), np.float32)


def computed(how):
    """Returns the first output, and whether the compiled model came from the cache."""
    core = ov.Core()
    core.set_property({"CACHE_DIR": str(work / how / "cache")})
    path = work / how / "m.xml"
    compiled = core.compile_model(path if how == "path" else core.read_model(path), "CPU")
    return float(compiled(ones)[0][0, 0]), compiled.get_property("LOADED_FROM_CACHE")


seen = {}
for how in ("path", "read_model"):
    (work / how).mkdir()
    given = ops.parameter([1, 64], np.float32, name="x")
    layer = ops.matmul(given, ops.constant(np.ones((64, 64), np.float32)), False, False)
    ov.save_model(ov.Model([layer], [given], "m"), work / how / "m.xml", compress_to_fp16=False)
    first, again = computed(how), computed(how)
    time.sleep(1.1)  # another second in the file's date
    weights = work / how / "m.bin"
    (np.fromfile(weights, np.float32) * 2).tofile(weights)
    seen[how] = computed(how)
    print(f"{how}: {first}, {again}; with doubled weights {seen[how]}, right is 128.0")

expected = {"path": (64.0, True), "read_model": (128.0, False)}
if seen != expected:
    sys.exit(f"CHANGED: wanted {expected}")
print("as described")
PY
