"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streamer.common.cpu_info import available_cores, processor_name

_PACKAGES = ("numpy", "opencv-python", "av", "openvino", "onnxruntime", "supervision", "vidgear")


def describe_machine() -> dict[str, str]:
    """Returns processor, cores, system and versions, by what each is called in the output."""
    found = {
        "CPU": processor_name(),
        "cores": str(available_cores()),
        "load before": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine_line() -> str:
    """Returns `describe_machine` as one line of text."""
    return ", ".join(f"{name} {value}" for name, value in describe_machine().items())


def busy_core_s() -> float | None:
    """Returns the processor seconds that all processes of the machine have used, stolen time included.

    None where there is no ``/proc/stat`` (anything but Linux).
    """
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def has_cpu_flag(flag: str) -> bool:
    """Whether Linux lists `flag`, such as ``amx_int8``, among the processor's; False on other systems."""
    return any(flag in line.split() for line in _cpu_lines("flags"))


def _cpu_lines(key: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(key)]
