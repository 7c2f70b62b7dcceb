"""Signals while several OpenVINO engines open and close: the thread's alternate signal stack stays valid memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")

from tests.tiny import write_tiny

ROOT = Path(__file__).resolve().parent.parent

# Reads the calling thread's alternate signal stack: 0 where there is none, else its address.
READ = """
import ctypes, signal, sys, threading

class Stack(ctypes.Structure):
    _fields_ = [("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t)]

def signal_stack():
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.ss_sp or 0

def is_mapped(address):
    with open("/proc/self/maps") as maps:
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    return any(start <= address < end for start, end in ranges)
"""

PLUGIN_ALONE = """
import openvino as ov
before = signal_stack()
core = ov.Core()
core.get_versions("CPU")
print("set" if signal_stack() != before else "left")
"""

# Opens three engines, closes them in that order, and only then asks for a signal.
ENGINES = """
import gc
from pathlib import Path
from streamer.engines import open_engine
from streamer.models.file import load_model

def check(when):
    stack = signal_stack()
    if stack and not is_mapped(stack):
        sys.exit(f"the signal stack is unmapped {when}")  # and no signal is raised: that would end the process

def open_and_close():
    before = signal_stack()
    model = load_model(Path(sys.argv[1]))
    engines = [open_engine("openvino", model, slots=slots) for slots in (1, 2, 4)]
    assert signal_stack() == before, "opening an engine changed the thread's signal stack"
    while engines:
        engine = engines.pop(0)
        engine.start(0)
        engine.wait(0)
        engine.close()
        del engine
        gc.collect()
        check(f"with {len(engines)} engines left")

caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
if sys.argv[2] == "thread":
    failed = []
    def work():
        try:
            open_and_close()
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed, failed
open_and_close()
check("at the end")
for _ in range(3):
    signal.raise_signal(signal.SIGTERM)
assert len(caught) == 3
print("ok")
"""


def in_child(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", READ + code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plugin_sets_a_stack() -> None:
    """Skips where OpenVINO's CPU plugin leaves the signal stack alone."""
    if sys.platform != "linux":
        pytest.skip("only Linux says in /proc what memory is mapped")
    done = in_child(PLUGIN_ALONE)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "left":
        pytest.skip("this version of OpenVINO sets no alternate signal stack on this processor")


@pytest.mark.usefixtures("plugin_sets_a_stack")
@pytest.mark.parametrize("first_on", ["main", "thread"])
def test_a_signal_is_safe_after_engines_were_closed(tmp_path: Path, first_on: str) -> None:
    done = in_child(ENGINES, write_tiny(tmp_path / "tiny.onnx"), first_on)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
