#!/usr/bin/env bash
# One would expect opening and releasing OpenVINO Cores to leave the thread's signal handling alone. The CPU plugin gives the thread that loads it an alternate signal stack owned by the Core, and releasing Cores in the order of opening leaves the thread with a stack that is unmapped memory.
# Python's handlers run on that stack, so the next Ctrl-C would end the program with SIGSEGV; here it is only read (no signal is sent), and a Core loaded on a thread that ends is shown to leave the main thread alone.
set -euo pipefail
[ "$(uname -s)" = Linux ] || { echo "SKIP: only Linux has /proc/self/maps"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "openvino==2026.4.1" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import ctypes
import gc
import platform
import sys
import threading

import openvino as ov


class Stack(ctypes.Structure):
    _fields_ = [("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t)]


libc = ctypes.CDLL(None)


def signal_stack():
    """Returns the address of the calling thread's alternate signal stack, 0 without one."""
    stack = Stack()
    assert libc.sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.ss_sp or 0


def mapped(address):
    with open("/proc/self/maps") as maps:
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    return any(start <= address < end for start, end in ranges)


def describe():
    address = signal_stack()
    return "none" if not address else "mapped memory" if mapped(address) else "UNMAPPED memory"


def loaded_core():
    core = ov.Core()
    core.get_versions("CPU")  # loads the CPU plugin
    return core


def load_elsewhere():
    """Loads the plugin of a Core on a thread that ends, and returns the Core."""
    core = ov.Core()
    thread = threading.Thread(target=core.get_versions, args=("CPU",))
    thread.start()
    thread.join()
    return core


print("OpenVINO", ov.__version__, "Python", platform.python_version(), platform.machine())
print("signal stack at the start:", describe())
kept = load_elsewhere()
print("after the plugin was loaded on another thread:", describe())
elsewhere = describe()
cores = [loaded_core() for _ in range(3)]
opened = describe()
print("with three Cores loaded on this thread:", opened)
while cores:
    del cores[0]
    gc.collect()
    print(f"with {len(cores)} of them left:", describe())
after = describe()
null = Stack(None, 2, 0)  # SS_DISABLE: leaves the interpreter safe to end
libc.sigaltstack(ctypes.byref(null), None)
if opened == "none":
    print("SKIP: on this processor the plugin sets no signal stack")
    sys.exit(0)
if (elsewhere, opened, after) != ("none", "mapped memory", "UNMAPPED memory"):
    sys.exit("CHANGED")
print("as described")
PY
