"""Imports the real bindings of `tensorrt` without its libraries, and prints which names they lack; run as a script.

``pip install tensorrt-cu13-bindings`` brings the bindings alone. What they would call is replaced by functions that do
nothing, in a process of its own: other packages of TensorRT have libraries with the same functions.

Usage: python tensorrt_bindings_alone.py FOLDER NAME...
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

CALLED = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip


def main(folder: Path, names: list[str]) -> None:
    """Prints the version and the missing names, as JSON."""
    found = importlib.util.find_spec("tensorrt_bindings")
    assert found is not None and found.submodule_search_locations
    extension = Path(found.submodule_search_locations[0]) / "tensorrt.so"
    wanted = re.findall(rb"libnv(?:infer|onnxparser|infer_plugin)\.so\.\d+", extension.read_bytes())
    for library in sorted({name.decode() for name in wanted}):
        functions = "".join(f"void {name}(void) {{}}\n" for name in CALLED)
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / library), f"-Wl,-soname,{library}"]
        subprocess.run(command, input=functions, text=True, check=True)
        ctypes.CDLL(str(folder / library), ctypes.RTLD_GLOBAL)
    loader = importlib.machinery.ExtensionFileLoader("tensorrt_bindings.tensorrt", str(extension))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    missing = []
    for name in names:
        target = module
        for word in name.split("."):
            if not hasattr(target, word):
                missing.append(name)
                break
            target = getattr(target, word)
    print(json.dumps({"missing": missing}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
